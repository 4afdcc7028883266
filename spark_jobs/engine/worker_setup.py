"""What a Spark worker process does once, before its first task."""

from __future__ import annotations

import gc
import sys
from functools import cache
from zipimport import zipimporter


@cache
def settle() -> None:
    """Take away what Python workers do anew for every task and what takes longer than many tasks.

    Before each task Spark has Python forget what it knows of the import path, upon which it lists all zips anew:
    pyspark.zip and Spark's own jar are in it, some 6,000 entries or 50 ms. Zips do not change while a worker
    lives. After each task Spark collects garbage, for which all modules would be searched: 15 ms.
    """
    for finder in sys.path_importer_cache.values():
        if isinstance(finder, zipimporter):
            finder.invalidate_caches = _nothing  # type: ignore[method-assign]
    gc.freeze()


def _nothing() -> None:
    pass
