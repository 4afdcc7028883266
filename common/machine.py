"""The memory of this machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container, in bytes, or "max"."""


def memory_bytes() -> int:
    """Return the memory of this machine in bytes, or of the container around this process if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        return min(machine, int(CGROUP.read_text()))
    return machine
