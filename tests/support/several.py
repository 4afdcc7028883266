"""Runs jobs one after the other in one Spark application, which saves the start of each.

`spark-submit several.py '[["ingest", "SOURCE", "DEST"], ["gram", "--data", "parquet:DEST"]]'`
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from common.console import Console
from spark_jobs.engine.session import configuration, run_spark_job, spark_context
from spark_jobs.engine.starting import start


def main() -> int:
    """Run the jobs until one fails, and return its exit code."""
    from pyspark.sql import SparkSession

    session = SparkSession(start(lambda: configuration("several", live=False)))
    try:
        with spark_context("several", Console(quiet=True)):
            for job, *flags in json.loads(sys.argv[1]):
                code = int(import_module(f"spark_jobs.{job}").main([*flags, "--quiet"]))
                if code:
                    return code
        return 0
    finally:
        session.stop()


if __name__ == "__main__":
    run_spark_job(main)
