"""A Spark context that starts anywhere: laptop, standalone cluster, YARN."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkConf, SparkContext

from common.console import Console, Parser, positive_integer
from common.experiment import Engine


def partitions_flag(parser: Parser) -> None:
    """Add --partitions, for jobs that deal out the images."""
    parser.add_argument(
        "--partitions", metavar="P", type=positive_integer, help="parts of the images (default: by cores and size)"
    )


@contextmanager
def spark_context(name: str, console: Console) -> Iterator[SparkContext]:
    """A context that is stopped when the block ends; what spark-submit was told takes precedence.

    Without a master it is local, on all cores. Local workers run this very Python, whatever `python3` on the
    PATH may be, and Spark talks over loopback, so that an unresolvable host name does no harm.
    """
    conf = SparkConf().setAppName(f"ridge {name}").setIfMissing("spark.master", "local[*]")
    if conf.get("spark.master", "").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        conf.setIfMissing("spark.driver.host", "127.0.0.1").setIfMissing("spark.driver.bindAddress", "127.0.0.1")
    conf.setIfMissing("spark.log.level", "ERROR")
    conf.setIfMissing("spark.ui.showConsoleProgress", str(console.live).lower())
    with console.phase("start Spark"):
        context = SparkContext.getOrCreate(conf)
    try:
        yield context
    finally:
        context.stop()


def engine(context: SparkContext) -> Engine:
    """What a finished job ran on: its cores as workers, each with the BLAS threads that Spark grants a task."""
    threads = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return Engine(f"Spark {context.version} {context.master}", context.defaultParallelism, threads)
