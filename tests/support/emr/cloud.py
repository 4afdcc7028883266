"""A stand-in for Amazon EMR: moto's server over HTTP, and a runner that really runs what steps ask for.

moto keeps S3's objects, roles, clusters and steps; its steps stay RUNNING for ever. The runner does with each what
YARN's cluster mode does: it takes the step's own arguments, downloads the artefacts that they name from that S3,
unpacks archives into the driver's empty working directory, and starts spark-submit there with the environment that
the arguments give the driver. Executors are those of a standalone cluster, whose Python has no packages.
"""

from __future__ import annotations

import gzip
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pyspark
from moto.core.responses import ActionResult
from moto.emr.models import emr_backends
from moto.emr.responses import ElasticMapReduceResponse
from moto.server import ThreadedMotoServer

from tests.support.jobs import environment

ACCOUNT, REGION = "123456789012", "eu-west-1"
APPLICATION = "application_1700000000000_0001"
DRIVER_ENV = "spark.yarn.appMasterEnv."
SPARK = Path(pyspark.__file__).parent


def describe_release_label(self: Any) -> ActionResult:
    """moto has none."""
    label = self._get_param("ReleaseLabel")
    return ActionResult({"ReleaseLabel": label, "Applications": [{"Name": "Spark", "Version": "4.0.2"}]})


def cancel_steps(self: Any) -> ActionResult:
    """moto has none."""
    wanted = self._get_param("StepIds")
    for step in self.backend.clusters[self._get_param("ClusterId")].steps:
        if step.id in wanted:
            step.state = "CANCELLED"
    return ActionResult({"CancelStepsInfoList": [{"StepId": own, "Status": "SUBMITTED"} for own in wanted]})


@dataclass
class Cloud:
    """What tests ask of it.

    Attributes:
        endpoint: moto's address.
        failures: of the runner itself, which no test expects.
    """

    endpoint: str
    failures: list[BaseException] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """For processes that use it as if it were AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        own = self.environment
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=REGION,
            aws_access_key_id=own["AWS_ACCESS_KEY_ID"], aws_secret_access_key=own["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    @property
    def clusters(self) -> list[Any]:
        """moto's own records of them."""
        # asked at an address without a region in it, moto takes its default one
        return [own for backend in emr_backends[ACCOUNT].values() for own in list(backend.clusters.values())]

    def default_roles(self) -> None:
        """What `aws emr create-default-roles` makes."""
        iam = self.client("iam")
        iam.create_role(RoleName="EMR_DefaultRole", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="EMR_EC2_DefaultRole")

    @contextmanager
    def running(self, run: Callable[[list[str], Path], tuple[int, str]], folder: Path) -> Iterator[None]:
        """Run steps as they come, one after the other.

        Args:
            run: runs a step's arguments in an empty folder; gives the exit code and what it printed.
            folder: for those folders.
        """
        ended = threading.Event()

        def work() -> None:
            done: set[str] = set()
            while not ended.wait(0.1):
                for cluster in self.clusters:
                    for step in cluster.steps:
                        if step.id in done or step.state not in ("PENDING", "RUNNING"):
                            continue
                        done.add(step.id)
                        step.state = "RUNNING"
                        (folder / step.id).mkdir()
                        try:
                            code, said = run(list(step.args), folder / step.id)
                        except BaseException as error:
                            self.failures.append(error)
                            code, said = 1, "".join(traceback.format_exception(error))
                        self.log(cluster, step.id, said)
                        if step.state == "RUNNING":
                            step.state = "COMPLETED" if code == 0 else "FAILED"

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield
        finally:
            ended.set()
            worker.join()

    def log(self, cluster: Any, step: str, said: str) -> None:
        """The logs of the submission and of the driver, as a cluster puts them."""
        bucket, _, prefix = cluster.log_uri.removeprefix("s3://").partition("/")
        below = f"{prefix}{cluster.id}"
        submitted = f"INFO Client: Submitted application {APPLICATION}\n"
        driver = f"containers/{APPLICATION}/container_1700000000000_0001_01_000001/stdout.gz"
        for key, text in ((f"steps/{step}/stderr.txt.gz", submitted), (driver, said)):
            self.client("s3").put_object(Bucket=bucket, Key=f"{below}/{key}", Body=gzip.compress(text.encode()))


@contextmanager
def cloud() -> Iterator[Cloud]:
    """A server of its own, with nothing in it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ElasticMapReduceResponse.describe_release_label = describe_release_label
    ElasticMapReduceResponse.cancel_steps = cancel_steps
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        made = Cloud(f"http://127.0.0.1:{port}")
        request = urllib.request.Request(f"{made.endpoint}/moto-api/reset", method="POST")  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310
        yield made
    finally:
        server.stop()
        for name in ("describe_release_label", "cancel_steps"):
            delattr(ElasticMapReduceResponse, name)


def bare_python(folder: Path) -> Path:
    """The programs of a virtual environment that has no package at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin"


def on_standalone(own: Cloud, master: str, programs: Path) -> Callable[[list[str], Path], tuple[int, str]]:
    """Runs a step's arguments on a standalone cluster in YARN's place."""

    def run(words: list[str], container: Path) -> tuple[int, str]:
        artefacts = container.with_name(f"{container.name}.artefacts")
        artefacts.mkdir()
        script = next(i for i, word in enumerate(words) if word.endswith(".py"))
        local = [_downloaded(own, word, artefacts) for word in words[: script + 1]] + words[script + 1 :]
        assert local[:5] == ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
        for archive in local[local.index("--archives") + 1].split(","):
            file, _, name = archive.partition("#")
            (container / name).mkdir()
            subprocess.run(["tar", "-xzf", file, "-C", container / name], check=True)
        conf = [word.removeprefix(DRIVER_ENV) for word in local if word.startswith(DRIVER_ENV)]
        driver = {name: value for name, _, value in (word.partition("=") for word in conf)}
        clean = environment(**own.environment, SPARK_HOME=str(SPARK), SPARK_LOCAL_IP="127.0.0.1") | driver
        clean["PATH"] = f"{programs}{os.pathsep}{clean['PATH']}"
        submit = [SPARK / "bin" / "spark-submit", "--master", master, "--conf", "spark.driver.host=127.0.0.1"]
        done = subprocess.run(
            [*submit, *local[5:]], cwd=container, env=clean, timeout=240, check=False, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def _downloaded(own: Cloud, word: str, folder: Path) -> str:
    """A word in which addresses of artefacts are paths to what was downloaded from there."""
    parts = []
    for part in word.split(","):
        address, hash_, name = part.partition("#")
        if address.startswith("s3://"):
            bucket, _, key = address.removeprefix("s3://").partition("/")
            path = folder / Path(key).name
            own.client("s3").download_file(bucket, key, str(path))
            address = str(path)
        parts.append(f"{address}{hash_}{name}")
    return ",".join(parts)


def settle(until: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)
