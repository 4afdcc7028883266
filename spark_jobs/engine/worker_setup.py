"""The set-up of a Spark worker process before its first task."""

from __future__ import annotations

import gc
import sys
from functools import cache
from zipimport import zipimporter


@cache
def settle() -> None:
    """Turn off two things that a Python worker repeats for every task and that take longer than many tasks.

    Before each task, Spark invalidates Python's caches of the import path, and Python lists all zips again:
    pyspark.zip and Spark's own jar have some 6,000 entries, which takes 50 ms. Zips do not change while a worker
    lives. After each task, Spark collects garbage and would search all modules, which takes 15 ms.
    """
    for finder in sys.path_importer_cache.values():
        if isinstance(finder, zipimporter):
            finder.invalidate_caches = _nothing  # type: ignore[method-assign]
    gc.freeze()


def _nothing() -> None:
    pass
