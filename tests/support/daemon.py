"""The daemon that forks Spark's Python workers in tests, set up once as each worker would be.

A worker ends when its task fails, and so tests start many. Spark's setting spark.python.daemon.module names it.
"""

from __future__ import annotations

from contextlib import suppress

from pyspark.daemon import manager

from spark_jobs.engine.worker_setup import settle

with suppress(ImportError):  # pandas is missing where no test is of Spark ML
    import spark_jobs.ml  # noqa: F401

if __name__ == "__main__":
    settle()
    manager()
