"""From a checkout to results without AWS. Everything but the cloud itself is real (see cloud.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import standalone_cluster
from tests.support.emr.cloud import MOTO_RELEASE, Cloud, bare_python, cloud, on_standalone
from tests.support.java import SPARK_JAVA
from tests.support.jobs import command, environment, metrics_of, serial

pytestmark = pytest.mark.spark

SMALL = " ".join(
    f"spark.{name}"
    for name in ("driver.memory=900m", "executor.memory=640m", "executor.memoryOverhead=384m", "executor.cores=1")
)
"""Settings for a driver and executors of less than 1 GiB each, which the README says is enough."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("emr")
    programs = bare_python(folder / "bare")
    with cloud() as aws:
        aws.default_roles()
        nodes = environment(**aws.environment, PATH=f"{programs}:{environment()['PATH']}")
        with standalone_cluster(folder / "cluster", memory="1g", environment=nodes, java=SPARK_JAVA) as master:
            (folder / "containers").mkdir()
            with aws.running(on_standalone(aws, master, programs), folder / "containers"):
                yield aws
        assert not aws.failures


@pytest.mark.mnist
def test_mnist_from_a_checkout_to_results_on_serverless(running: Cloud, tmp_path: Path, data_root: Path) -> None:
    """On two workers of less than 1 GiB; tests/hadoop/test_step.py has the other target."""
    flags = ["--data", "mnist", "--lambdas=-5:5:4", "--limit", "6000"]
    local = serial(*flags, "--data-root", data_root, "--out", "local", cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    words = ["--target", "serverless", "--job", "outer", "--arguments", " ".join(flags), "--fetch-to", "fetched"]
    variables = {**running.environment, "EMR_SPARK": SMALL, "EMR_RELEASE": MOTO_RELEASE}
    done = command("python", "-m", "emr", "deploy", *words, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(Path(done.stdout.splitlines()[-1].removeprefix("report: ")).parent)
    for key in ("validation_correct", "best_lambda", "test_accuracy", "images"):
        assert metrics[key] == metrics_of(tmp_path / "local")[key], key
    assert metrics["workers"] == 2
    assert metrics["images"]["train"] == 4_800
    assert metrics["test_accuracy"] >= 0.78
