"""A step of Amazon EMR on real YARN: archives, the driver in a container, granted memory, a lost node."""

from __future__ import annotations

import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hadoop.conftest import Servers
from tests.support.emr.cloud import settle
from tests.support.hadoop.daemons import Hadoop
from tests.support.hadoop.jars import NEEDS, has_maven
from tests.support.jobs import command, metrics_of, serial
from tests.support.s3 import BUCKET

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not has_maven(), reason=NEEDS)]

PATIENCE_S = 400
"""Seconds that a deployment may take, beside other tests."""


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
        assert lose_node_without_driver(yarn, deployed) > 1
        done = deployed.result()
    assert local.returncode == 0, local.stderr
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(Path(done.stdout.splitlines()[-1].removeprefix("report: ")).parent)
    for key in ("moments_sha256", "validation_correct", "best_lambda", "test_accuracy", "images"):
        assert metrics[key] == metrics_of(tmp_path / "local")[key], key


def lose_node_without_driver(yarn: Hadoop, deployed: Future[subprocess.CompletedProcess[str]]) -> int:
    """Wait until an executor works on a node beside the driver's, and lose it; return the number of processes."""
    found: list[int] = []

    def worked_on() -> bool:
        assert not deployed.done(), f"the job ended before a node was lost: {deployed.result().stderr}"
        for number in range(len(yarn.nodes)):
            driver = any(yarn.processes(number, b"deploy.yarn.ApplicationMaster"))
            if not driver and any(yarn.processes(number, b"pyspark.daemon")):
                found.append(number)
        return bool(found)

    settle(worked_on, PATIENCE_S)
    return yarn.lose_node(found[0])
