"""A Spark context that starts anywhere: laptop, standalone cluster, YARN."""

from __future__ import annotations

import logging
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from common.console import Console
from common.errors import InputError, JobError, RunError
from common.provenance import Engine
from common.run.exits import INTERRUPTED, run_job
from common.run.flags import Parser, positive_integer

SUBMITTED = "PYSPARK_GATEWAY_PORT"
"""Set by spark-submit: the port at which the script finds its JVM."""

LIMIT = "JOB_MINUTES"
"""Names the minutes after which a job ends itself; nobody may be there any more to end it from outside."""

FIRST_ARRIVAL_S, ARRIVAL_S = 30, 1
"""How long to wait for a first executor, and after each for another."""


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

    if LIMIT in os.environ:
        minutes = float(os.environ[LIMIT])
        overdue = threading.Timer(60 * minutes, _end, [f"took longer than {minutes:g} minutes"])
        overdue.daemon = True
        overdue.start()

    def guarded() -> int:
        try:
            return main()
        except SparkError as error:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
            return 1

    try:
        run_job(guarded)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            os._exit(INTERRUPTED)  # the JVM is going down too: taking leave of it would end in stack traces
        raise


def _end(why: str) -> NoReturn:
    """End this process from any of its threads."""
    print(f"{Path(sys.argv[0]).name}: {why}", file=sys.stderr, flush=True)
    os._exit(1)


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
    conf = SparkConf().setIfMissing("spark.app.name", name).setIfMissing("spark.master", "local[*]")
    if conf.get("spark.master", "").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        conf.setIfMissing("spark.driver.host", "127.0.0.1").setIfMissing("spark.driver.bindAddress", "127.0.0.1")
    # tree_reduce brings one record of moments to the driver; what it may hold is for --driver-memory to say
    conf.setIfMissing("spark.driver.maxResultSize", "0")
    conf.setIfMissing("spark.ui.showConsoleProgress", str(live).lower())
    return conf


@contextmanager
def spark_context(name: str, console: Console) -> Iterator[SparkContext]:
    """A context that is stopped when the block ends.

    In a process that has a Spark session already, as benchmarks do, it is that session's, and stays.

    Raises:
        SparkError: what Spark had to say, without the stacks of the JVM and of its gateway.
        InputError: a task raised it.
        KeyboardInterrupt: Ctrl-C, whichever of the two processes it reached first.
    """
    session = SparkSession.getActiveSession()
    interrupted = threading.Event()

    def interrupt(_signal: int, _frame: object) -> None:
        interrupted.set()
        logging.disable()  # the gateway's complaints about a connection that is no longer wanted
        raise KeyboardInterrupt

    try:
        with console.phase("start Spark"):
            context = session.sparkContext if session else SparkContext(conf=configuration(name, console.live))
            if session is None:
                wait_for_executors(context)
        try:
            if session is None:
                signal.signal(signal.SIGINT, interrupt)  # pyspark's own handler talks to the JVM in mid-sentence
            yield context
        finally:
            if session is None and not interrupted.is_set():
                context.stop()
    except (Py4JError, PySparkException) as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        said = _said(error)
        mistake = re.search(TOLD_LINE, said)
        raise TOLD[mistake[1]](mistake[2]) if mistake else SparkError(said) from None


JVM_STACK = "\n\tat "
"""What each line of a Java stack begins with."""

TOLD: dict[str, type[JobError]] = {error.__name__: error for error in (InputError, RunError)}
"""Errors of tasks that end the job with one line."""

TOLD_LINE = rf"(?m)^{JobError.__module__}\.({'|'.join(TOLD)}): (.+)"
"""The last line of the traceback of a task that raised one of them."""


def wait_for_executors(context: SparkContext) -> None:
    """Wait until no more executors arrive: how many there are decides in how many parts work is dealt out.

    Where resources are scarce none may come for long: then Spark says so itself as soon as there are tasks.
    """
    if str(context.master).startswith("local"):
        return
    status = context._jsc.sc().getExecutorMemoryStatus
    started = changed = time.monotonic()
    known = 1  # the driver is one of them
    while time.monotonic() < (changed + ARRIVAL_S if known > 1 else started + FIRST_ARRIVAL_S):
        time.sleep(0.05)
        if status().size() != known:
            known, changed = status().size(), time.monotonic()


class SparkError(RuntimeError):
    """Spark failed: the Python worker's traceback, or the JVM's own line."""


def _said(error: Py4JError | PySparkException) -> str:
    """What matters of an error that came through the gateway."""
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    _, traceback, rest = message.partition("Traceback (most recent call last)")
    if not traceback:
        return message.splitlines()[0]
    return f"a task failed on a worker\n{traceback}{rest.partition(JVM_STACK)[0].rstrip()}"


def engine(context: SparkContext) -> Engine:
    """What a finished job ran on: its cores as workers, each with the BLAS threads that Spark grants a task."""
    threads = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return Engine(f"Spark {context.version} {context.master}", context.defaultParallelism, threads)
