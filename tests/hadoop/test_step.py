"""A step of Amazon EMR on real YARN: archives, the driver in a container, granted memory, a lost node."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.atomic import write_json
from emr.follow import CANCELLED, FAILED, TIMED_OUT
from emr.journal import FOLDER
from tests.support.emr.cloud import put_light_packages, settle
from tests.support.emr.deploying import fetched
from tests.support.hadoop.daemons import Hadoop
from tests.support.hadoop.jars import NEEDS, has_maven
from tests.support.hadoop.servers import Servers
from tests.support.images import CLASSES
from tests.support.jobs import agreed, command, environment, metrics_of, serial
from tests.support.places import SEVERAL
from tests.support.s3 import BUCKET

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not has_maven(), reason=NEEDS)]

PATIENCE_S = 400
"""Seconds that a deployment may take, beside other tests."""

LOOK_S = 0.3
"""Seconds between two looks at the processes of this machine, which take time from the jobs."""

MASTER = b"deploy.yarn.ApplicationMaster"
"""A word of the command line of a driver's container."""


@pytest.fixture(scope="module")
def light(servers: Servers) -> dict[str, str]:
    """Variables of commands whose jobs find the packages of this machine, and unpack none."""
    prefix = "light"
    put_light_packages(servers.aws, BUCKET, prefix)
    return {**servers.aws.environment, "EMR_PREFIX": prefix}


@pytest.mark.mnist
def test_mnist_from_a_checkout_to_results_though_a_node_is_lost(
    servers: Servers, light: dict[str, str], tmp_path: Path, data_root: Path
) -> None:
    """Moments and counts are those of this machine, with the default memory and half of the cluster gone."""
    aws, yarn = servers.aws, servers.yarn
    flags = ["--data", "mnist", "--lambdas=-5:5:4"]
    asked = ["--bucket", BUCKET, "--arguments", " ".join(flags)]
    words = ["python", "-m", "emr", "deploy", "--keep", *asked]
    with ThreadPoolExecutor() as pool:
        deployed = pool.submit(command, *words, cwd=tmp_path, timeout=PATIENCE_S, **aws.environment)
        local = serial(*flags, "--data-root", data_root, "--out", "local", cwd=tmp_path)
        lost, n_processes = lose_node_without_driver(yarn, deployed)
        assert n_processes > 1
        done = deployed.result()
    yarn.replace_node(lost)
    assert local.returncode == 0, local.stderr
    agreed(metrics_of(run_of(done)), metrics_of(tmp_path / "local"))
    # which holds all images in each process of an executor
    words = ["python", "-m", "emr", "submit", "--job", "outer", *asked]
    done = command(*words, cwd=tmp_path, timeout=PATIENCE_S, **light)
    agreed(metrics_of(run_of(done)), metrics_of(tmp_path / "local"))
    command("python", "-m", "emr", "terminate", cwd=tmp_path, **aws.environment)


def run_of(done: subprocess.CompletedProcess[str]) -> Path:
    """Return the run folder that a deployment has fetched."""
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1].removeprefix("report: ")).parent


def lose_node_without_driver(yarn: Hadoop, deployed: Future[subprocess.CompletedProcess[str]]) -> tuple[int, int]:
    """Wait until an executor works on a node beside the driver's, and lose it.

    Returns:
        the number of the node, and the number of processes that it had.
    """
    found: list[int] = []

    def worked_on() -> bool:
        assert not deployed.done(), f"the job ended before a node was lost: {deployed.result().stderr}"
        for number in range(len(yarn.nodes)):
            driver = any(yarn.processes(number, MASTER))
            if not driver and any(yarn.processes(number, b"pyspark.daemon")):
                found.append(number)
        return bool(found)

    settle(worked_on, PATIENCE_S, LOOK_S)
    return found[0], yarn.lose_node(found[0])


def submit(*more: str) -> list[str]:
    """Return the words that run a job on the cluster that was kept."""
    return ["submit", "--bucket", BUCKET, *more]


LONG = ("--arguments", "--data digits --features random:4000 --lambdas 1,10,100,1000")
"""A job of half a minute."""

ONE_CORE = "--spark=spark.executor.cores=1"
"""Executors that start one process of Python instead of four."""


def started(yarn: Hadoop, *words: str, **variables: str) -> tuple[subprocess.Popen[str], str]:
    """Start `python -m emr` with these words, and wait for the driver's process; return the application too."""
    process = subprocess.Popen(
        ["python", "-m", "emr", *words, "--bucket", BUCKET, *LONG, ONE_CORE],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found: list[str] = []

    def has_driver() -> bool:
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        found.extend(name for name, state in yarn.applications().items() if state in ("ACCEPTED", "RUNNING"))
        return bool(found) and any(any(yarn.processes(number, MASTER)) for number in range(len(yarn.nodes)))

    settle(has_driver, PATIENCE_S, LOOK_S)
    return process, found[0]


SMALL = ("--spark=spark.executor.memory=512m", "--spark=spark.executor.memoryOverhead=64m")
"""Executors with less memory than Python takes for that job."""


def test_jobs_that_are_given_up_or_killed_end_on_yarn_and_leave_nothing(
    servers: Servers, light: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is cancelled loses its process alone; the application is found by its tag, and killed."""
    monkeypatch.chdir(tmp_path)
    yarn, variables = servers.yarn, light
    kept = s3_files(servers)

    process, application = started(yarn, "deploy", "--keep", **variables)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == CANCELLED, told
    settle(lambda: yarn.applications()[application] == "KILLED", PATIENCE_S)

    process, application = started(yarn, "submit", **variables)
    done = command("python", "-m", "emr", "cancel", "--bucket", BUCKET, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == CANCELLED, told
    settle(lambda: yarn.applications()[application] == "KILLED", PATIENCE_S)

    process, application = started(yarn, "submit", **variables)
    for number in range(len(yarn.nodes)):
        for master in list(yarn.processes(number, MASTER)):
            os.kill(master, signal.SIGKILL)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == FAILED, told
    assert "gram.py: the driver was killed (exit status 137) and has no results; run it again" in told
    assert yarn.applications()[application] == "FAILED"
    assert yarn.attempts(application) == 1

    process, application = started(yarn, "submit", **variables)
    process.kill()
    process.communicate()
    (journal,) = (tmp_path / "runs" / FOLDER).glob("*.json")
    write_json(journal, json.loads(journal.read_text()) | {"deadline": time.time()})
    done = command("python", "-m", "emr", *submit(*LONG, ONE_CORE), cwd=tmp_path, timeout=PATIENCE_S, **variables)
    assert done.returncode == TIMED_OUT, done.stderr
    settle(lambda: yarn.applications()[application] == "KILLED", PATIENCE_S)

    words = submit("--job", "outer", *LONG, *SMALL, "--spark=spark.task.maxFailures=1")
    done = command("python", "-m", "emr", *words, cwd=tmp_path, timeout=PATIENCE_S, **variables)
    assert done.returncode == FAILED, done.stderr
    assert "outer.py: YARN killed the executor, which used" in done.stderr
    assert "of its memory; raise spark.executor.memoryOverhead, or take larger machines" in done.stderr

    assert s3_files(servers) == kept
    assert fetched(tmp_path) == []
    command("python", "-m", "emr", "terminate", cwd=tmp_path, **variables)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 small images in three folders: enough to lose a node while they are ingested."""
    folder = tmp_path_factory.mktemp("photographs")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        rng = np.random.default_rng(label)
        for number, pixels in enumerate(rng.integers(0, 120, (500, 10, 12, 3), np.uint8)):
            pixels[:, 4 * label : 4 * label + 4] += 80
            Image.fromarray(pixels).save(folder / name / f"{'early' if number % 2 else 'late'}-{number:03}.png")
    return folder


def test_images_on_s3_become_tables_moments_runs_and_predictions_by_steps(
    servers: Servers, light: dict[str, str], photographs: Path, tmp_path: Path
) -> None:
    """A node is lost during the ingest. Moments of a table that has grown since are those of all its images."""
    yarn, s3 = servers.yarn, servers.s3
    at, fit = f"s3://{BUCKET}/steps", ("--lambdas", "1,10,100")
    s3.upload(photographs, "steps/photos")

    def step(verb: str, job: str, *words: str) -> subprocess.CompletedProcess[str]:
        asked = ["--bucket", BUCKET, "--job", job, "--arguments", shlex.join(words)]
        keep = ["--keep"] if verb == "deploy" else []
        line = ["python", "-m", "emr", verb, *keep, *asked, ONE_CORE]
        return command(*line, cwd=tmp_path, timeout=PATIENCE_S, **light)

    table = ("--data", f"parquet:{at}/table", *fit)
    with ThreadPoolExecutor() as pool:
        ingested = pool.submit(step, "deploy", "ingest", f"{at}/photos/*/early*", f"{at}/table", "--size", "8x8")
        lost, n_processes = lose_node_without_driver(yarn, ingested)
        assert n_processes > 1
        assert ingested.result().returncode == 0, ingested.result().stderr
    yarn.replace_node(lost)
    described = s3.client().get_object(Bucket=BUCKET, Key="steps/table/dataset.json")["Body"].read()
    assert sum(json.loads(described)["images"].values()) == 750
    lines = [
        ["gram", *table, "--save-moments", f"{at}/early.npz", "--out", str(tmp_path / "early")],
        ["ingest", f"{at}/photos/*/*", f"{at}/table", "--size", "8x8"],
        ["gram", *table, "--out", str(tmp_path / "here")],
    ]
    here = command("spark-submit", SEVERAL, json.dumps(lines), cwd=tmp_path, **s3.environment)
    assert here.returncode == 0, here.stderr
    moments = ("--add-moments", f"{at}/early.npz", "--save-moments", f"{at}/all.npz")
    run = run_of(step("submit", "gram", *table, *moments))
    agreed(metrics_of(run), metrics_of(tmp_path / "here"))
    assert "steps/all.npz" in s3.keys("steps/")
    predicted = run_of(step("submit", "predict", "--model", str(run), "--data", f"{at}/photos/*/*"))
    assert metrics_of(predicted)["images"]["predicted"] == 1500
    command("python", "-m", "emr", "terminate", cwd=tmp_path, **light)


def s3_files(servers: Servers) -> set[str]:
    """Return the keys of all results, without artefacts and logs."""
    return {
        key
        for key in servers.s3.keys("light/")
        if "/artefacts/" not in key and "/logs/" not in key and not key.endswith("/")
    }
