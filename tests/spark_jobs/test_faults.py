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
from PIL import Image

from common.data.sources import open_table
from common.data.splits import FoldRule
from common.data.table.reading import TableImages
from common.features.network import NetworkRecipe
from common.features.table import map_of_table
from spark_jobs import serial
from tests.support.cluster import Cluster
from tests.support.idx import write_part
from tests.support.jobs import environment, metrics_of, processes, run_main
from tests.support.onnx import embedder
from tests.support.places import ROOT

pytestmark = [pytest.mark.spark, pytest.mark.mnist]

BUSY_S = 0.9
"""Processor time of an executor's Python workers, in seconds, after which the executor is killed."""


def folder_of(pid: int) -> str:
    """Return the working directory of a process, or nothing if the process has ended."""
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def worker_seconds(cluster: Cluster) -> dict[int, float]:
    """Return the processor time that the Python workers of each executor of the cluster have used, in seconds."""
    running = processes()
    executors = [
        pid
        for pid, (_, line, _) in running.items()
        if "CoarseGrainedExecutorBackend" in line and str(cluster.folder) in folder_of(pid)
    ]
    used = {}
    for executor in executors:
        below = {executor}
        for _ in range(3):  # the daemon, and below it the workers
            below |= {pid for pid, (parent, _, _) in running.items() if parent in below}
        used[executor] = sum(running[pid][2] for pid in below if pid != executor and "pyspark" in running[pid][1])
    return used


def busy_executor(cluster: Cluster, idle: dict[int, float], busy_s: float) -> int | None:
    """Return an executor whose Python workers have used `busy_s` more than when they were idle, or None."""
    used = worker_seconds(cluster).items()
    return next((pid for pid, seconds in used if seconds - idle.get(pid, 0) > busy_s), None)


def submit(
    cluster: Cluster,
    cwd: Path,
    *words: str | Path,
    kill: bool,
    after: Path | None = None,
    busy_s: float = BUSY_S,
) -> None:
    """Run a job on the cluster, and with `kill` end an executor that is computing for it.

    Args:
        cluster: the cluster.
        cwd: the current folder of the job.
        words: the job and its flags.
        kill: whether to end an executor.
        after: a file that the job writes first.
        busy_s: seconds of processor time that the executor's workers have used since then.
    """
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
        idle: dict[int, float] | None = None if after else {}
        while idle is None or (victim := busy_executor(cluster, idle, busy_s)) is None:
            if idle is None and after is not None and after.exists():
                idle = worker_seconds(cluster)
            assert process.poll() is None, (
                f"the job ended before an executor was killed: {process.communicate()[0]}"
            )
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        assert process.poll() is None
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-4000:]
    executors = [path.name for path in cluster.folder.glob("work*/*/*") if path.parent.name not in before]
    if kill:
        assert "2" in executors, "no executor took the place of the one that was killed"


@pytest.fixture(scope="module")
def part(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with 46,000 images of MNIST, which take an executor long enough to be killed at it."""
    return write_part(data_root, tmp_path_factory.mktemp("mnist") / "data", 40_000, 6_000)


@pytest.fixture(scope="module")
def table(cluster: Cluster, part: Path) -> Path:
    """A table of these images, made without a kill."""
    submit(
        cluster,
        cluster.folder,
        ROOT / "spark_jobs" / "ingest.py",
        "mnist",
        cluster.folder / "table",
        "--data-root",
        part,
        "--size",
        "32x32",
        "--quiet",
        kill=False,
    )
    return cluster.folder / "table"


def test_ingest_survives_the_death_of_an_executor(
    cluster: Cluster, table: Path, tmp_path: Path, part: Path
) -> None:
    words = ["mnist", tmp_path / "table", "--data-root", part, "--size", "32x32", "--quiet"]
    submit(cluster, tmp_path, ROOT / "spark_jobs" / "ingest.py", *words, kill=True)
    disturbed, calm = open_table(f"parquet:{tmp_path / 'table'}"), open_table(f"parquet:{table}")
    assert disturbed is not None
    assert calm is not None
    assert disturbed.files == calm.files  # names are hashes of the contents
    assert np.array_equal(disturbed.class_counts["train"], calm.class_counts["train"])
    present = {f"images/{path.name}" for path in (tmp_path / "table" / "images").glob("*.parquet")}
    assert present == {file.file for file in disturbed.files}


def test_an_ingest_that_embeds_survives_the_death_of_an_executor(cluster: Cluster, tmp_path: Path) -> None:
    """Kill it while it embeds, and compare with what the map makes of the images in this process."""
    rng = np.random.default_rng(8)
    truth = {}
    for name in ("dark", "light"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 128, (24, 36, 3), np.uint8) + np.uint8(100 * (name == "light"))
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
            truth[f"{name}/{i}.png"] = pixels
    network, table = embedder(tmp_path / "network.onnx", work=4), tmp_path / "table"
    words = [f"folder:{tmp_path / 'images'}", table, "--features", f"network:{network}", "--quiet"]
    job = ROOT / "spark_jobs" / "ingest.py"
    submit(cluster, tmp_path, job, *words, kill=True, after=table / "features.npz", busy_s=0.3)
    opened = open_table(f"parquet:{table}")
    assert opened is not None
    features = map_of_table(opened)
    assert features is not None
    found = TableImages(opened, FoldRule(None, 0)).load(names=True)
    names = [str(name) for name in found.names or ()]
    assert sorted(names) == sorted(truth)
    pixels = np.stack([truth[name] for name in names])
    assert np.array_equal(features(found.pixels), features.computed_by(pixels))
    training = TableImages(opened, FoldRule(None, 0), "train").load(names=True).names or ()
    learnt = NetworkRecipe(features.computed_by.network).learn(  # type: ignore[attr-defined]
        np.stack([truth[str(name)] for name in training]), 0
    )
    assert learnt.digest == features.digest
    assert {f"images/{path.name}" for path in (table / "images").iterdir()} == {f.file for f in opened.files}


def test_gram_survives_the_death_of_an_executor(cluster: Cluster, table: Path, tmp_path: Path) -> None:
    words = ["--data", f"parquet:{table}", "--folds", "2", "--lambdas", "1,100"]
    flags = [*words, "--partitions", "16", "--quiet", "--out", tmp_path / "disturbed"]
    submit(cluster, tmp_path, ROOT / "spark_jobs" / "gram.py", *flags, kill=True)
    calm, disturbed = run_main(serial.main, tmp_path / "calm", *words), metrics_of(tmp_path / "disturbed")
    for key in ("moments_sha256", "validation_correct", "best_lambda", "test_accuracy"):
        assert calm[key] == disturbed[key]


def test_spark_ml_survives_the_death_of_an_executor(cluster: Cluster, tmp_path: Path) -> None:
    """With speculation on, so that some tasks run twice besides."""
    program = ROOT / "tests" / "support" / "ml_fit.py"
    flags = ["--conf", "spark.speculation=true", "--conf", "spark.speculation.multiplier=1.1"]
    flags += ["--conf", f"spark.executorEnv.PYTHONPATH={ROOT}", program]
    for name, kill in (("calm", False), ("disturbed", True)):
        submit(cluster, tmp_path, *(flags if kill else flags[-3:]), tmp_path / name, kill=kill, busy_s=2)
    assert (tmp_path / "calm").read_text() == (tmp_path / "disturbed").read_text()
