"""Reuse of the memory of large buffers, instead of giving it back to the system after each use."""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of glibc's mallopt, as malloc.h defines them."""

LARGEST_BYTES = 32 << 20
"""The largest buffer that glibc may be told to keep."""
KEPT_BYTES = 256 << 20
"""How much free memory is kept."""


def keep_buffers() -> None:
    """Let glibc keep freed buffers of some megabytes, such as images and activations, for the next ones.

    By default glibc maps each such buffer anew, above all in threads, and the system clears its pages: small
    networks then spend a third of their time in that. Call this before there are threads, each of which may have
    been given a memory arena of its own. With another library than glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
