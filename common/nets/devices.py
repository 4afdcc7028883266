"""What torch may use: threads of this process, and formats of numbers."""

from __future__ import annotations

import torch


def limit_thread(threads: int) -> None:
    """Let what this Python thread computes use at most so many threads; others keep theirs."""
    torch.get_num_threads()  # a thread's first question fetches the number of whoever has set one last
    torch.set_num_threads(threads)


def multiplies_in_bf16(device: torch.device) -> bool:
    """Whether a device does so itself, and not by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
