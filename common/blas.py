"""The number of BLAS threads, which is set for a whole process and never from a thread of Python.

threadpoolctl is imported where it is used, because workers that fit pixels need nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def limit_blas(threads: int) -> None:
    """Let every BLAS of this process use at most `threads` threads from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads, user_api="blas")


def blas_threads() -> int:
    """Return the number of threads that this process's BLAS uses; 1 if there is no BLAS that can be asked."""
    from threadpoolctl import threadpool_info

    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


def in_threads(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do work on each item, in as many threads as BLAS has, which has one in each of them meanwhile.

    That is faster than BLAS's own threads where products are small and most of the work is outside of them.
    """
    from threadpoolctl import threadpool_limits

    threads = blas_threads()
    if threads == 1:
        for item in items:
            work(item)
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
