"""The parent of Spark's Python workers in tests: it is set up as workers are, and so are all that it forks.

Tests start many workers: one whose task fails ends. Spark runs this as a module, which spark.python.daemon.module
names.
"""

from __future__ import annotations

import pandas  # noqa: F401
import pyarrow  # noqa: F401
from pyspark.daemon import manager

import spark_jobs.ml  # noqa: F401
from spark_jobs.engine.worker_setup import settle

if __name__ == "__main__":
    settle()
    manager()
