"""A Spark context that starts anywhere: on a laptop, a standalone cluster or YARN."""

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
from common.errors import InputError, JobError, RunError, UnusableImagesError
from common.provenance import Engine
from common.run.exits import INTERRUPTED, run_job
from common.run.flag_types import positive_integer
from common.run.parser import Parser
from spark_jobs.engine.starting import check_words, start

SUBMITTED = "PYSPARK_GATEWAY_PORT"
"""Environment variable that spark-submit sets: the port at which the script finds its JVM."""

LIMIT = "JOB_MINUTES"
"""Environment variable: minutes after which a job ends itself, because the machine that started it may be gone."""

FIRST_ARRIVAL_S, ARRIVAL_S = 30, 1
"""Seconds to wait for a first executor, and after each executor for another."""

JVM_STACK = "\n\tat "
"""How each line of a Java stack trace begins."""

TASK_ERRORS: dict[str, type[JobError]] = {
    "InputError": InputError,
    "RunError": RunError,
    UnusableImagesError.__name__: InputError,
}
"""Errors that, if a task raises them, end the job with one line."""

TASK_ERROR = rf"(?m)^{JobError.__module__}\.({'|'.join(TASK_ERRORS)}): (.+)"
"""Matches the last line of the traceback of a task that raised one of them."""


def run_spark_job(main: Callable[[], int]) -> NoReturn:
    """Run a job's main, print errors to the user's stderr, and exit.

    spark-submit merges a script's stderr into its own stdout. Errors would end up in the result, and a job could
    not tell a terminal from a pipe.
    """
    if SUBMITTED in os.environ:
        _restore_stderr()
    if LIMIT in os.environ:
        minutes = float(os.environ[LIMIT])
        overdue = threading.Timer(60 * minutes, _exit, [f"took longer than {minutes:g} minutes"])
        overdue.daemon = True
        overdue.start()

    def guarded() -> int:
        if SUBMITTED in os.environ:
            check_words(sys.argv[1:])
        try:
            return main()
        except SparkError as error:
            print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
            return 1

    try:
        run_job(guarded)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            os._exit(INTERRUPTED)  # the JVM is ending too: to disconnect from it would print stack traces
        raise


def _restore_stderr() -> None:
    """Write to the stderr of spark-submit, the parent process, from now on, if it is a terminal or a pipe."""
    with suppress(OSError):  # not on Linux, or the parent belongs to another user: the streams stay merged
        stderr = os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_NOCTTY)
        # leave a regular file alone: the JVM would overwrite what this process appends to it
        if not stat.S_ISREG(os.fstat(stderr).st_mode):
            os.dup2(stderr, 2)
        os.close(stderr)


def _exit(reason: str) -> NoReturn:
    """End this process with 1, from any of its threads."""
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def partitions_flag(parser: Parser) -> None:
    """Add --partitions, for jobs that deal images out."""
    parser.add_argument(
        "--partitions",
        metavar="P",
        type=positive_integer,
        help="number of parts to deal the images out in (default: chosen by cores and size)",
    )


def configuration(name: str, live: bool) -> SparkConf:
    """Return the settings of a job that spark-submit does not override.

    Without a master, Spark is local and uses all cores. Local workers run the same Python as this process,
    whatever `python3` on the PATH is. Local Spark uses loopback; started by this process and not by spark-submit,
    it needs neither a name nor an address of this machine.

    Args:
        name: name of the application.
        live: whether to show the progress of stages, for somebody who watches.
    """
    if SUBMITTED in os.environ:
        # without this SparkConf is empty, and the defaults below would override the settings of spark-submit
        SparkContext._ensure_initialized()
    conf = SparkConf().setIfMissing("spark.app.name", name).setIfMissing("spark.master", "local[*]")
    if conf.get("spark.master", "").startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if SUBMITTED not in os.environ:
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        conf.setIfMissing("spark.driver.host", "127.0.0.1").setIfMissing("spark.driver.bindAddress", "127.0.0.1")
    # tree_reduce sends the driver one record of moments, which only --driver-memory should limit
    conf.setIfMissing("spark.driver.maxResultSize", "0")
    conf.setIfMissing("spark.ui.showConsoleProgress", str(live).lower())
    return conf


@contextmanager
def spark_context(name: str, console: Console) -> Iterator[SparkContext]:
    """Start a context and stop it when the block ends.

    In a process that has a Spark session already, as benchmarks do, use the context of that session and leave it
    running.

    Args:
        name: name of the application.
        console: shows the phase "start Spark".

    Raises:
        InputError: Spark cannot start in this environment.
        SparkError: Spark failed; the message leaves out the stack traces of the JVM and of its gateway.
        JobError: a task raised an InputError or a RunError.
        KeyboardInterrupt: Ctrl-C was pressed, whether the signal reached this process or the JVM first.
    """
    session = SparkSession.getActiveSession()
    interrupted = threading.Event()

    def interrupt(_signal: int, _frame: object) -> None:
        interrupted.set()
        logging.disable()  # the gateway would report the closed connection
        raise KeyboardInterrupt

    try:
        with console.phase("start Spark"):
            context = session.sparkContext if session else start(lambda: configuration(name, console.live))
            if session is None:
                wait_for_executors(context)
        try:
            if session is None:
                # pyspark's own handler would call the JVM in the middle of another call
                signal.signal(signal.SIGINT, interrupt)
            yield context
        finally:
            if session is None and not interrupted.is_set():
                context.stop()
    except (Py4JError, PySparkException) as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        message = _message(error)
        raised = re.search(TASK_ERROR, message)
        raise TASK_ERRORS[raised[1]](raised[2]) if raised else SparkError(message) from None


def wait_for_executors(context: SparkContext) -> None:
    """Wait until no more executors arrive, because their number decides in how many parts work is dealt out.

    On a busy cluster none may arrive for long. Spark reports that itself as soon as there are tasks.
    """
    if str(context.master).startswith("local"):
        return
    status = context._jsc.sc().getExecutorMemoryStatus
    started = changed = time.monotonic()
    n = 1  # Spark counts the driver as one of them
    while time.monotonic() < (changed + ARRIVAL_S if n > 1 else started + FIRST_ARRIVAL_S):
        time.sleep(0.05)
        if status().size() != n:
            n, changed = status().size(), time.monotonic()


class SparkError(RuntimeError):
    """Spark failed: the traceback of a Python worker, or the line that the JVM printed."""


def _message(error: Py4JError | PySparkException) -> str:
    """Return the part of an error from the gateway that a user needs."""
    message = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    _, traceback, rest = message.partition("Traceback (most recent call last)")
    if not traceback:
        return message.splitlines()[0]
    return f"a task failed on a worker\n{traceback}{rest.partition(JVM_STACK)[0].rstrip()}"


def engine(context: SparkContext) -> Engine:
    """Describe the engine of a job: one worker per core, with the BLAS threads that Spark grants each task."""
    threads = int(context.getConf().get("spark.task.cpus", "1") or 1)
    return Engine(f"Spark {context.version} {context.master}", context.defaultParallelism, threads)
