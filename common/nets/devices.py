"""Resources that torch may use: threads of this process, and number formats."""

from __future__ import annotations

import torch


def limit_thread(threads: int) -> None:
    """Let operations of this Python thread use at most `threads` threads; other threads keep their limit."""
    torch.get_num_threads()  # a thread's first call copies the number set last in any thread
    torch.set_num_threads(threads)


def multiplies_in_bf16(device: torch.device) -> bool:
    """Return True if a device multiplies in bfloat16 itself, and does not emulate it in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
