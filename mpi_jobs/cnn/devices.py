"""Where a rank computes."""

from __future__ import annotations

import torch

from common.errors import InputError
from mpi_jobs.world import World


def find_device(world: World, wanted: str, bf16: bool) -> torch.device:
    """A GPU for each rank of a machine in turn, or the processor.

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
        if torch.cuda.is_available():
            device = torch.device("cuda", place % torch.cuda.device_count())
            torch.cuda.set_device(device)

    def check() -> None:
        if wanted == "cuda" and device.type != "cuda":
            raise InputError("--device cuda: torch sees no GPU here; leave the flag out, or look at nvidia-smi")
        on_gpu = device.type == "cuda"
        has = torch.cuda.is_bf16_supported() if on_gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if bf16 and not has:
            raise InputError(f"--bf16: this {device.type} does not multiply in bfloat16; leave the flag out")

    world.everywhere(check)
    return device
