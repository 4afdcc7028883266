"""Where a rank computes."""

from __future__ import annotations

import torch

from common.errors import InputError
from common.nets.devices import multiplies_in_bf16
from mpi_jobs.engine.world import World


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
