"""Whether this process keeps the memory of large buffers, or gives it back after each use."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""What glibc's malloc.h calls them."""

LARGEST_BYTES = 32 << 20
"""The largest buffer that glibc may be told to keep."""
KEPT_BYTES = 256 << 20
"""How much free memory is kept."""


def keep_buffers() -> None:
    """Let images and activations of some megabytes be followed by others in the same memory.

    Left to itself, glibc maps such buffers anew each time, above all in threads, and the system clears their
    pages: small networks then spend a third of their time in it. To be called before there are any threads. With
    another library than glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
