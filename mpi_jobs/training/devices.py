"""The device that a rank computes on."""

from __future__ import annotations

import torch

from common.errors import InputError
from common.nets.devices import multiplies_in_bf16
from mpi_jobs.engine.world import World


def find_device(world: World, choice: str, bf16: bool) -> torch.device:
    """Return the device of this rank: one of its machine's GPUs if every rank sees one, else the processor.

    The ranks of a machine take its GPUs in turn.

    Args:
        world: the ranks, all of which call this.
        choice: "auto", "cpu" or "cuda".
        bf16: whether the device has to multiply in bfloat16.

    Raises:
        AgreedError: a rank has no such device.
    """
    device = torch.device("cpu")
    if choice != "cpu":
        rank_on_machine = world.machine().rank
        if all(world.all_gather(torch.cuda.is_available())):
            device = torch.device("cuda", rank_on_machine % torch.cuda.device_count())
            torch.cuda.set_device(device)

    def check() -> None:
        if choice == "cuda" and device.type != "cuda":
            raise InputError("--device cuda: not every rank sees a GPU; leave the flag out, or look at nvidia-smi")
        if bf16 and not multiplies_in_bf16(device):
            raise InputError(f"--bf16: this {device.type} does not multiply in bfloat16; leave the flag out")

    world.everywhere(check)
    return device
