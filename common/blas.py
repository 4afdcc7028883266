"""The number of BLAS threads, which is set once per process and never from a thread of Python."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits


def limit_blas(threads: int) -> None:
    """Let every BLAS of this process use at most `threads` threads from now on."""
    threadpool_limits(threads, user_api="blas")


def blas_threads() -> int:
    """Return the number of threads that this process's BLAS uses; 1 if there is no BLAS that can be asked."""
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
