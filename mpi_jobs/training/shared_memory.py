"""Memory that all ranks of a machine share."""

from __future__ import annotations

import mmap
import os
import secrets

import numpy as np
from numpy.typing import NDArray

from mpi_jobs.engine.world import World

TOKEN_BYTES = 64
"""Length of the random bytes at the beginning, by which ranks know that they see the same memory."""


def shared_bytes(machine: World, count: int) -> NDArray[np.uint8] | None:
    """Return `count` bytes, zeros at first, that all ranks of a machine share. All of them call this.

    The memory has no name that could be left behind, and does not count against the size of /dev/shm, which
    containers keep small. It exists as long as any rank holds an array of it.

    Returns:
        uint8 (count,), aligned to a cache line; None on every rank where there is no such memory: on systems other
        than Linux, without that much memory, or for ranks that do not see each other's processes.
    """
    token, file = secrets.token_bytes(TOKEN_BYTES), -1
    if machine.is_root:
        try:
            file = os.memfd_create("images")
            os.posix_fallocate(file, 0, TOKEN_BYTES + count)  # fails now, while there is still an alternative
            os.pwrite(file, token, 0)
        except (OSError, AttributeError):
            token = b""
    owner, token = machine.at_root(lambda: (f"/proc/{os.getpid()}/fd/{file}", token))
    seen: NDArray[np.uint8] | None = None
    if token:
        try:
            if not machine.is_root:
                file = os.open(owner, os.O_RDWR)
            memory = np.frombuffer(mmap.mmap(file, TOKEN_BYTES + count), np.uint8)
            seen = memory[TOKEN_BYTES:] if memory[:TOKEN_BYTES].tobytes() == token else None
        except (OSError, ValueError):
            seen = None
    everyone = machine.all_gather(seen is not None)
    if file >= 0:
        os.close(file)  # the mapping stays
    return seen if all(everyone) else None
