"""BLAS threads: how many, set once a process and never from a Python thread."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits


def limit_blas(threads: int) -> None:
    """Let every BLAS of this process use at most so many threads from now on."""
    threadpool_limits(threads, user_api="blas")


def blas_threads() -> int:
    """How many threads this process's BLAS uses; 1 if it has none that can be asked."""
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
