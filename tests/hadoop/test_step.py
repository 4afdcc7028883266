"""A step of Amazon EMR on real YARN: archives, the driver in a container, granted memory, a lost node."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from emr.follow import CANCELLED, FAILED
from tests.support.emr.cloud import settle
from tests.support.emr.deploying import fetched
from tests.support.hadoop.daemons import Hadoop
from tests.support.hadoop.jars import NEEDS, has_maven
from tests.support.hadoop.servers import Servers
from tests.support.jobs import command, environment, metrics_of, serial
from tests.support.s3 import BUCKET

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not has_maven(), reason=NEEDS)]

PATIENCE_S = 400
"""Seconds that a deployment may take, beside other tests."""

MASTER = b"deploy.yarn.ApplicationMaster"
"""A word of the command line of a driver's container."""


@pytest.mark.mnist
def test_mnist_from_a_checkout_to_results_though_a_node_is_lost(
    servers: Servers, tmp_path: Path, data_root: Path
) -> None:
    """Moments and counts are those of this machine, with the default memory and half of the cluster gone."""
    aws, yarn = servers.aws, servers.yarn
    flags = ["--data", "mnist", "--lambdas=-5:5:4"]
    words = ["python", "-m", "emr", "deploy", "--bucket", BUCKET, "--arguments", " ".join(flags)]
    with ThreadPoolExecutor() as pool:
        deployed = pool.submit(command, *words, cwd=tmp_path, timeout=PATIENCE_S, **aws.environment)
        local = serial(*flags, "--data-root", data_root, "--out", "local", cwd=tmp_path)
        lost, n_processes = lose_node_without_driver(yarn, deployed)
        assert n_processes > 1
        done = deployed.result()
    yarn.replace_node(lost)
    assert local.returncode == 0, local.stderr
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(Path(done.stdout.splitlines()[-1].removeprefix("report: ")).parent)
    for key in ("moments_sha256", "validation_correct", "best_lambda", "test_accuracy", "images"):
        assert metrics[key] == metrics_of(tmp_path / "local")[key], key


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

    settle(worked_on, PATIENCE_S)
    return found[0], yarn.lose_node(found[0])


LONG = ("--arguments", "--data digits --features random:4000 --lambdas 1,10,100,1000")
"""A job of half a minute."""


def started(yarn: Hadoop, *words: str, **variables: str) -> tuple[subprocess.Popen[str], str]:
    """Start `python -m emr` with these words, and wait for the driver's process; return the application too."""
    process = subprocess.Popen(
        ["python", "-m", "emr", *words, "--bucket", BUCKET, *LONG],
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

    settle(has_driver, PATIENCE_S)
    return process, found[0]


def test_cancelled_interrupted_and_killed_jobs_end_on_yarn_and_leave_nothing(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is cancelled loses its process alone; the application is found by its tag, and killed."""
    monkeypatch.chdir(tmp_path)
    yarn, variables = servers.yarn, servers.aws.environment
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
    assert s3_files(servers) == kept
    assert fetched(tmp_path) == []
    command("python", "-m", "emr", "terminate", cwd=tmp_path, **variables)


def s3_files(servers: Servers) -> set[str]:
    """Return the keys of all results, without artefacts and logs."""
    return {
        key
        for key in servers.s3.keys("parallel-image-classification/")
        if "/artefacts/" not in key and "/logs/" not in key and not key.endswith("/")
    }
