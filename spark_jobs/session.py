"""A Spark context that starts anywhere: laptop, standalone cluster, YARN."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from common.console import Console, Parser, positive_integer, run_job
from common.experiment import Engine

SUBMITTED = "PYSPARK_GATEWAY_PORT"
"""Set by spark-submit: the port at which the script finds its JVM."""


def run_spark_job(main: Callable[[], int]) -> NoReturn:
    """Run a job's main and exit, with stderr where the user's is.

    spark-submit merges a script's stderr into its own stdout, so that errors would end up in the result and a
    terminal could not be told from a pipe.
    """
    if SUBMITTED in os.environ:
        with suppress(OSError):  # not Linux, or another user's: it stays merged
            stderr = os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_NOCTTY)
            # a regular file has a position, which the JVM would not know to move
            if not stat.S_ISREG(os.fstat(stderr).st_mode):
                os.dup2(stderr, 2)
            os.close(stderr)
    run_job(main)


def partitions_flag(parser: Parser) -> None:
    """Add --partitions, for jobs that deal out the images."""
    parser.add_argument(
        "--partitions", metavar="P", type=positive_integer, help="parts of the images (default: by cores and size)"
    )


def configuration(name: str, live: bool) -> SparkConf:
    """What a job asks of Spark where spark-submit was not told otherwise.

    Without a master it is local, on all cores. Local workers run this very Python, whatever `python3` on the
    PATH may be, and Spark talks over loopback, so that an unresolvable host name does no harm.

    Args:
        name: of the application.
        live: whether a person watches the progress of stages.
    """
    if SUBMITTED in os.environ:
        # Without this SparkConf is empty, and what follows would override what spark-submit was told.
        SparkContext._ensure_initialized()
    conf = SparkConf().setAppName(name).setIfMissing("spark.master", "local[*]")
    if conf.get("spark.master", "").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        conf.setIfMissing("spark.driver.host", "127.0.0.1").setIfMissing("spark.driver.bindAddress", "127.0.0.1")
    conf.setIfMissing("spark.log.level", "ERROR")
    conf.setIfMissing("spark.ui.showConsoleProgress", str(live).lower())
    return conf


@contextmanager
def spark_context(name: str, console: Console) -> Iterator[SparkContext]:
    """A context that is stopped when the block ends.

    In a process that has a Spark session already, as benchmarks do, it is that session's, and stays.

    Raises:
        TaskError: a task failed; says what the Python worker said, without the JVM's stack.
    """
    session = SparkSession.getActiveSession()
    with console.phase("start Spark"):
        context = session.sparkContext if session else SparkContext(conf=configuration(name, console.live))
    try:
        yield context
    except Py4JJavaError as error:
        raise TaskError(_worker_traceback(str(error.java_exception))) from None
    finally:
        if session is None:
            context.stop()


class TaskError(RuntimeError):
    """A Spark task failed on a worker."""


def _worker_traceback(message: str) -> str:
    """The Python worker's traceback out of a Java exception's text, or all of it if there is none."""
    start = message.find("Traceback (most recent call last)")
    end = message.find("\n\tat ", start)
    return message[start:end].strip() if start >= 0 else message


def engine(context: SparkContext) -> Engine:
    """What a finished job ran on: its cores as workers, each with the BLAS threads that Spark grants a task."""
    threads = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return Engine(f"Spark {context.version} {context.master}", context.defaultParallelism, threads)
