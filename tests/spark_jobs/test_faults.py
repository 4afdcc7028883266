"""Executors that are killed in the middle of a job: its results stay the same, to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from common.data.sources import open_table
from spark_jobs import serial
from tests.support.cluster import Cluster
from tests.support.jobs import environment, metrics_of, processes, run_main
from tests.support.places import ROOT

pytestmark = [pytest.mark.spark, pytest.mark.mnist]

BUSY_S = 1.0
"""Processor time of an executor's Python workers, in seconds, after which the executor is killed."""


def folder_of(pid: int) -> str:
    """Return the working directory of a process, or nothing if the process has ended."""
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def busy_executor(cluster: Cluster) -> int | None:
    """Return an executor of the cluster whose Python workers have used BUSY_S of processor time, or None."""
    running = processes()
    executors = [
        pid
        for pid, (_, line, _) in running.items()
        if "CoarseGrainedExecutorBackend" in line and str(cluster.folder) in folder_of(pid)
    ]
    for executor in executors:
        below, seconds = {executor}, 0.0
        for _ in range(3):  # the daemon, and below it the workers
            below |= {pid for pid, (parent, _, _) in running.items() if parent in below}
        seconds = sum(running[pid][2] for pid in below if pid != executor and "pyspark" in running[pid][1])
        if seconds > BUSY_S:
            return executor
    return None


def submit(cluster: Cluster, cwd: Path, *words: str | Path, kill: bool) -> None:
    """Run a job on the cluster, and with `kill` end an executor that is computing for it."""
    line: Sequence[str] = [
        "spark-submit",
        "--master",
        cluster.master,
        "--executor-memory",
        "1g",
        "--conf",
        "spark.driver.host=127.0.0.1",
        *map(str, words),
    ]
    before = {path.name for path in cluster.folder.glob("work*/*")}
    process = subprocess.Popen(
        line,
        cwd=cwd,
        env=environment(SPARK_LOCAL_IP="127.0.0.1"),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if kill:
        deadline = time.monotonic() + 120
        while (victim := busy_executor(cluster)) is None:
            assert process.poll() is None, (
                f"the job ended before an executor was killed: {process.communicate()[0]}"
            )
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        assert process.poll() is None
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-4000:]
    executors = [path.name for path in cluster.folder.glob("work*/*/*") if path.parent.name not in before]
    if kill:
        assert "2" in executors, "no executor took the place of the one that was killed"


@pytest.fixture(scope="module")
def table(cluster: Cluster, data_root: Path) -> Path:
    """A table of MNIST, made without a kill."""
    submit(
        cluster,
        cluster.folder,
        ROOT / "spark_jobs" / "ingest.py",
        "mnist",
        cluster.folder / "table",
        "--data-root",
        data_root,
        "--size",
        "32x32",
        "--quiet",
        kill=False,
    )
    return cluster.folder / "table"


def test_ingest_survives_the_death_of_an_executor(
    cluster: Cluster, table: Path, tmp_path: Path, data_root: Path
) -> None:
    words = ["mnist", tmp_path / "table", "--data-root", data_root, "--size", "32x32", "--quiet"]
    submit(cluster, tmp_path, ROOT / "spark_jobs" / "ingest.py", *words, kill=True)
    disturbed, calm = open_table(f"parquet:{tmp_path / 'table'}"), open_table(f"parquet:{table}")
    assert disturbed is not None
    assert calm is not None
    assert disturbed.files == calm.files  # names are hashes of the contents
    assert np.array_equal(disturbed.class_counts["train"], calm.class_counts["train"])
    present = {f"images/{path.name}" for path in (tmp_path / "table" / "images").glob("*.parquet")}
    assert present == {file.file for file in disturbed.files}


def test_gram_survives_the_death_of_an_executor(cluster: Cluster, table: Path, tmp_path: Path) -> None:
    words = ["--data", f"parquet:{table}", "--folds", "2", "--lambdas", "1,100"]
    flags = [*words, "--partitions", "16", "--quiet", "--out", tmp_path / "disturbed"]
    submit(cluster, tmp_path, ROOT / "spark_jobs" / "gram.py", *flags, kill=True)
    calm, disturbed = run_main(serial.main, tmp_path / "calm", *words), metrics_of(tmp_path / "disturbed")
    for key in ("moments_sha256", "validation_correct", "best_lambda", "test_accuracy"):
        assert calm[key] == disturbed[key]
