"""Progress and reasons of failures, read from logs."""

from __future__ import annotations

import gzip

import pytest

from emr.logs import failure_reason, progress, unpacked

DRIVER = "logs/j-1/containers/application_1_0001/container_1_0001_01_000001/stdout.gz"
STEP = "logs/j-1/steps/s-1/stderr.gz"
SPARK = """\
26/01/31 12:00:00 INFO TaskSetManager: Finished task 3.0 in stage 1.0 (TID 7) in 812 ms on ip-1 (executor 2) (2/16)
26/01/31 12:00:01 INFO TaskSetManager: Finished task 0.0 in stage 2.0 (TID 23) in 12 ms on ip-1 (executor 1) (1/4)
26/01/31 12:00:02 INFO TaskSetManager: Finished task 1.0 in stage 2.0 (TID 24) in 15 ms on ip-2 (executor 2) (2/4)
"""
RETRIED = """\
26/01/31 12:00:00 WARN TaskSetManager: Lost task 0.0 in stage 0.0: Traceback (most recent call last):
  File "worker.py", line 9, in read
OSError: [Errno 5] Input/output error
\tat org.apache.spark.api.python.BasePythonRunner
"""


def test_progress_tells_the_latest_stage() -> None:
    assert progress({DRIVER: SPARK}) == "stage 2: 2 of 4 tasks"
    assert progress({DRIVER: "nothing yet"}) is None


def test_the_jobs_own_error_goes_before_the_traceback_of_a_task_that_was_retried() -> None:
    error = "gram.py: --data mnist: not there; make data\n"
    texts = {
        STEP: RETRIED,
        DRIVER.replace("stdout", "stderr"): RETRIED,
        DRIVER: f"gram.py: warning: slow\n{error}",
    }
    assert failure_reason(texts, "gram") == error.strip()


def test_a_traceback_ends_where_the_error_is_named() -> None:
    reason = failure_reason({STEP: RETRIED}, "gram")
    assert reason
    assert reason.splitlines()[0] == "Traceback (most recent call last):"
    assert reason.splitlines()[-1] == "OSError: [Errno 5] Input/output error"
    assert failure_reason({STEP: "INFO all is well\n"}, "gram") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "ExecutorLostFailure (executor 1 exited caused by one of the running tasks) Reason: Container killed "
            "by YARN for exceeding physical memory limits. 9.1 GB of 9 GB physical memory used.",
            "gram.py: YARN killed the executor, which used 9.1 GB of 9 GB of its memory; raise "
            "spark.executor.memoryOverhead, or take larger machines",
        ),
        (
            "is running 1000B beyond the 'PHYSICAL' memory limit. Current usage: 3.1 GB of 3 GB physical memory "
            "used; 4.9 GB of 6.3 GB virtual memory used. Killing container.",
            "gram.py: YARN killed the driver, which used 3.1 GB of 3 GB of its memory; raise "
            "spark.driver.memoryOverhead, or take larger machines",
        ),
        (
            "ExecutorLostFailure (executor 1 exited caused by one of the running tasks) Reason: Container from a "
            "bad node: container_1_0001_01_000002 on host: ip-1. Exit status: 143. Possible causes: Unknown",
            "gram.py: an executor's heap was full (exit status 143); raise spark.executor.memory",
        ),
    ],
)
def test_memory_that_was_too_little_is_named_with_the_setting(text: str, reason: str) -> None:
    """If it is what the job died of: the job's own error says so, or there is none."""
    assert failure_reason({STEP: RETRIED + text}, "gram") == reason
    assert (
        failure_reason({STEP: RETRIED, DRIVER: f"gram.py: org.apache.spark.SparkException: {text}\n"}, "gram")
        == reason
    )
    error = "gram.py: --data mnist: not there; make data"
    assert failure_reason({STEP: RETRIED + text, DRIVER: f"{error}\n"}, "gram") == error


def test_a_driver_that_was_killed_is_told_if_nothing_else_is() -> None:
    text = "failed 1 times due to AM Container for appattempt_1_0001_000001 exited with  exitCode: 137\n"
    told = "gram.py: the driver was killed (exit status 137) and has no results; run it again"
    assert failure_reason({STEP: text}, "gram") == told
    assert failure_reason({STEP: text, DRIVER: "gram.py: no such file\n"}, "gram") == "gram.py: no such file"
    assert failure_reason({STEP: text.replace("137", "13")}, "gram") is None


def test_a_truncated_log_is_read_as_far_as_possible() -> None:
    packed = gzip.compress(SPARK.encode() * 50)
    assert unpacked(packed) == SPARK * 50
    assert unpacked(packed[:-10]).startswith(SPARK[:20])
    assert unpacked(SPARK.encode()) == SPARK
    assert unpacked(b"\x1f\x8bno gzip") == ""
