"""Where a rank computes."""

from __future__ import annotations

import torch

from common.errors import InputError
from mpi_jobs.world import World


def find_device(world: World, wanted: str, bf16: bool) -> torch.device:
    """A GPU for each rank of a machine in turn, if all ranks have one, or the processor for all.

    Args:
        world: the ranks, all of which call this.
        wanted: "auto", "cpu" or "cuda".
        bf16: whether it has to multiply in bfloat16.

    Raises:
        AgreedError: a rank has no such device.
    """
    device = torch.device("cpu")
    if wanted != "cpu":
        place = world.machine().rank
        if all(world.all_gather(torch.cuda.is_available())):
            device = torch.device("cuda", place % torch.cuda.device_count())
            torch.cuda.set_device(device)

    def check() -> None:
        if wanted == "cuda" and device.type != "cuda":
            raise InputError("--device cuda: not every rank sees a GPU; leave the flag out, or look at nvidia-smi")
        if bf16 and not multiplies_in_bf16(device):
            raise InputError(f"--bf16: this {device.type} does not multiply in bfloat16; leave the flag out")

    world.everywhere(check)
    return device


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
