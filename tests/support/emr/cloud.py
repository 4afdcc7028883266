"""A stand-in for Amazon EMR and EMR Serverless: moto's server over HTTP, and a runner that really runs the jobs.

moto keeps S3's objects, roles, clusters, steps, applications and job runs, but its steps stay RUNNING for ever,
and its job runs SUBMITTED. The runner takes the place of YARN's cluster mode and of Serverless's workers: it reads
the arguments, downloads the artefacts that they name from moto's S3, unpacks the archives into the driver's empty
working directory, and starts spark-submit there with the environment that the arguments give the driver. The
executors belong to a standalone cluster whose Python has no packages.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import subprocess
import sys
import tarfile
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
from moto.core.responses import ActionResult
from moto.emr.models import emr_backends
from moto.emr.responses import ElasticMapReduceResponse
from moto.emrserverless import models as serverless
from moto.server import ThreadedMotoServer

from emr.dependencies import archive_name
from emr.settings import PROJECT
from tests.support.hadoop.daemons import APPLICATIONS, Hadoop
from tests.support.hadoop.spark import spark_on_yarn
from tests.support.java import SPARK
from tests.support.jobs import environment
from tests.support.places import ROOT
from tests.support.s3 import S3Server

ACCOUNT, REGION = "123456789012", "eu-west-1"
APPLICATION = "application_1700000000000_0001"
MOTO_RELEASE = "emr-7.13.0"
"""A release that moto's EMR Serverless knows; it does not know emr-spark-8.0.0."""

DRIVER_ENVS = ("spark.yarn.appMasterEnv.", "spark.emr-serverless.driverEnv.")
SUBMIT_S = 360
"""Seconds that a job may take, beside other tests."""

Run = Callable[[list[str], Path], tuple[int, str]]
"""Runs a job's command in an empty folder; returns the exit code and the output."""


def describe_release_label(self: Any) -> ActionResult:
    """Answer an operation that moto lacks."""
    label = self._get_param("ReleaseLabel")
    return ActionResult({"ReleaseLabel": label, "Applications": [{"Name": "Spark", "Version": "4.0.2"}]})


def cancel_steps(self: Any) -> ActionResult:
    """Answer an operation that moto lacks."""
    step_ids = self._get_param("StepIds")
    for step in self.backend.clusters[self._get_param("ClusterId")].steps:
        if step.id in step_ids:
            step.state = "CANCELLED"
    return ActionResult({"CancelStepsInfoList": [{"StepId": step, "Status": "SUBMITTED"} for step in step_ids]})


@dataclass
class Cloud:
    """A server with S3, IAM and EMR.

    Attributes:
        endpoint: moto's address.
        s3: another server that keeps S3's objects; None for moto.
        failures: errors of the runner itself, which no test expects.
    """

    endpoint: str
    s3: S3Server | None = None
    failures: list[BaseException] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for processes that use the server as if it were AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            **({} if self.s3 is None else self.s3.environment),
        }

    def client(self, service: str) -> Any:
        """Return a client of the server."""
        if service == "s3" and self.s3 is not None:
            return self.s3.client()
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    @property
    def clusters(self) -> list[Any]:
        """Clusters as moto keeps them."""
        # in all regions, because moto uses its default region for addresses that name none
        backends = emr_backends[ACCOUNT].values()
        return [cluster for backend in backends for cluster in list(backend.clusters.values())]

    @property
    def applications(self) -> list[Any]:
        """Applications of EMR Serverless as moto keeps them."""
        return [app for backend in self._serverless() for app in list(backend.applications.values())]

    def cancelled(self, step: str) -> bool:
        """Return True if a step has been cancelled, or its cluster terminated."""
        return any(
            one.state == "CANCELLED" or cluster.state.startswith("TERMINAT")
            for cluster in self.clusters
            for one in cluster.steps
            if one.id == step
        )

    def _serverless(self) -> list[Any]:
        return list(serverless.emrserverless_backends[ACCOUNT].values())

    def default_roles(self) -> None:
        """Create the roles that `aws emr create-default-roles` creates, and that of jobs on EMR Serverless."""
        iam = self.client("iam")
        iam.create_role(RoleName="EMR_DefaultRole", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="EMR_EC2_DefaultRole")
        trust = (ROOT / "emr" / "serverless" / "trust.json").read_text()
        role = (ROOT / "emr" / "serverless" / "role.json").read_text()
        iam.create_role(RoleName=f"{PROJECT}-job", AssumeRolePolicyDocument=trust)
        iam.put_role_policy(RoleName=f"{PROJECT}-job", PolicyName="s3", PolicyDocument=role)

    @contextmanager
    def running(self, run: Run, folder: Path) -> Iterator[None]:
        """Run steps and job runs as they are added, one after the other.

        Args:
            run: runs a job's command.
            folder: the folder in which to make its empty folders.
        """
        ended = threading.Event()

        def work() -> None:
            done: set[str] = set()
            while not ended.wait(0.1):
                for cluster in self.clusters:
                    for step in cluster.steps:
                        if step.id not in done and step.state in ("PENDING", "RUNNING"):
                            done.add(step.id)
                            self._run_step(cluster, step, run, folder / step.id)
                for job_run in [job for backend in self._serverless() for job in _job_runs(backend)]:
                    if job_run.id not in done and job_run.state == "SUBMITTED":
                        done.add(job_run.id)
                        self._run_job(job_run, run, folder / job_run.id)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield
        finally:
            ended.set()
            worker.join()

    def _run_step(self, cluster: Any, step: Any, run: Run, folder: Path) -> None:
        step.state = "RUNNING"
        code, output = self._run(run, list(step.args), folder)
        self._write_logs(cluster, step.id, output)
        if step.state == "RUNNING":
            step.state = "COMPLETED" if code == 0 else "FAILED"

    def _run_job(self, job_run: Any, run: Run, folder: Path) -> None:
        """Run the command that a job run stands for."""
        job_run.state = "RUNNING"
        submit = job_run.job_driver["sparkSubmit"]
        words = ["spark-submit", *submit["sparkSubmitParameters"].split(" "), submit["entryPoint"]]
        code, output = self._run(run, [*words, *submit["entryPointArguments"]], folder)
        monitoring = job_run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]
        bucket, _, prefix = monitoring["logUri"].removeprefix("s3://").partition("/")
        key = f"{prefix}applications/{job_run.application_id}/jobs/{job_run.id}/SPARK_DRIVER/stdout.gz"
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=gzip.compress(output.encode()))
        if job_run.state == "RUNNING":
            job_run.state = "SUCCESS" if code == 0 else "FAILED"

    def _run(self, run: Run, words: list[str], folder: Path) -> tuple[int, str]:
        folder.mkdir()
        try:
            return run(words, folder)
        except BaseException as error:
            self.failures.append(error)
            return 1, "".join(traceback.format_exception(error))

    def _write_logs(self, cluster: Any, step: str, output: str) -> None:
        """Write the logs of the submission and of the driver to the keys that a cluster gives them."""
        bucket, _, prefix = cluster.log_uri.removeprefix("s3://").partition("/")
        below = f"{prefix}{cluster.id}"
        submitted = f"INFO Client: Submitted application {APPLICATION}\n"
        driver = f"containers/{APPLICATION}/container_1700000000000_0001_01_000001/stdout.gz"
        for key, text in ((f"steps/{step}/stderr.txt.gz", submitted), (driver, output)):
            self.client("s3").put_object(Bucket=bucket, Key=f"{below}/{key}", Body=gzip.compress(text.encode()))


def _job_runs(backend: Any) -> list[Any]:
    return [run for runs in list(backend.job_runs.values()) for run in runs]


@contextmanager
def cloud(s3: S3Server | None = None) -> Iterator[Cloud]:
    """Start a server with nothing in it; stop it at the end of the block.

    Args:
        s3: another server that keeps S3's objects; None for this one.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ElasticMapReduceResponse.describe_release_label = describe_release_label
    ElasticMapReduceResponse.cancel_steps = cancel_steps
    job_state, serverless.JOB_STATUS = serverless.JOB_STATUS, "SUBMITTED"
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        server_cloud = Cloud(f"http://127.0.0.1:{port}", s3)
        request = urllib.request.Request(f"{server_cloud.endpoint}/moto-api/reset", method="POST")  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310
        yield server_cloud
    finally:
        server.stop()
        serverless.JOB_STATUS = job_state
        for name in ("describe_release_label", "cancel_steps"):
            delattr(ElasticMapReduceResponse, name)


def put_light_packages(aws: Cloud, bucket: str, prefix: str) -> None:
    """Upload what takes the place of the archive of packages: a module that finds those of this machine.

    The real archive has 165 MB, which each node unpacks for each job; one test of each target uses it.
    """
    data = io.BytesIO()
    module = f"import site\nsite.addsitedir({str(SPARK.parent)!r})\n".encode()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        entry = tarfile.TarInfo("sitecustomize.py")
        entry.size = len(module)
        archive.addfile(entry, io.BytesIO(module))
    key = f"{prefix}/artefacts/{archive_name('3.11', 'x86_64')}"
    aws.client("s3").put_object(Bucket=bucket, Key=key, Body=data.getvalue())


def bare_python(folder: Path) -> Path:
    """Make a virtual environment without any package; return the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin"


def on_standalone(running_cloud: Cloud, master: str, programs: Path) -> Run:
    """Return a function that runs a job's command on a standalone cluster in the place of YARN, or of workers."""

    def run(words: list[str], container: Path) -> tuple[int, str]:
        local = _localised(running_cloud, words, container)
        assert local[0] == "spark-submit"
        assert "--master" not in local
        for archive in local[local.index("--archives") + 1].split(","):
            file, _, name = archive.partition("#")
            (container / name).mkdir()
            subprocess.run(["tar", "-xzf", file, "-C", container / name], check=True)
        conf = [word.removeprefix(env) for word in local for env in DRIVER_ENVS if word.startswith(env)]
        driver = {name: value for name, _, value in (word.partition("=") for word in conf)}
        clean = (
            environment(**running_cloud.environment, SPARK_HOME=str(SPARK), SPARK_LOCAL_IP="127.0.0.1") | driver
        )
        clean["PATH"] = f"{programs}{os.pathsep}{clean['PATH']}"
        submit = [SPARK / "bin" / "spark-submit", "--master", master, "--conf", "spark.driver.host=127.0.0.1"]
        return _submitted([*submit, *local[1:]], container, clean)

    return run


def on_yarn(running_cloud: Cloud, servers: Hadoop, s3: S3Server) -> Run:
    """Return a function that runs a step's command word for word, as EMR does.

    Hadoop's own S3 file system takes the place of EMR's. A step that is cancelled loses its process, and nothing
    else, as EMR has it.
    """

    def run(words: list[str], container: Path) -> tuple[int, str]:
        # S3's variables alone: given moto's address as well, Spark would send its requests to S3 there
        variables = environment(**s3.environment, **spark_on_yarn(servers, container))
        variables["PATH"] = f"{servers.programs}{os.pathsep}{variables['PATH']}"
        if words[0] != "spark-submit":
            return _submitted(list(words), container, variables)
        assert words[:5] == ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
        submit = [SPARK / "bin" / "spark-submit", *words[1:]]

        def cancelled() -> bool:
            return running_cloud.cancelled(container.name)

        code, output = _submitted(submit, container, variables, cancelled)
        application = APPLICATIONS.search(output)
        if application is None or cancelled():  # its driver may still run, and the next step is to kill it
            return code, output
        return code, output + servers.driver_log(application[0])

    return run


def _submitted(
    words: list[str | Path], folder: Path, variables: dict[str, str], cancelled: Callable[[], bool] = lambda: False
) -> tuple[int, str]:
    """Run a command in a folder until it ends or is cancelled; return its exit code and all that it prints."""
    output = folder.with_name(f"{folder.name}.output")
    with output.open("wb") as file:
        process = subprocess.Popen(
            words, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + SUBMIT_S
    while process.poll() is None:
        if cancelled() or time.monotonic() > deadline:
            process.terminate()
            process.wait()
        time.sleep(0.05)
    return process.returncode, output.read_text(errors="replace")


def _localised(running_cloud: Cloud, words: list[str], container: Path) -> list[str]:
    """Download what a command names before the job's own flags; return the command with paths in their place."""
    artefacts = container.with_name(f"{container.name}.artefacts")
    artefacts.mkdir()
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return [_downloaded(running_cloud, word, artefacts) for word in words[: script + 1]] + words[script + 1 :]


def _downloaded(running_cloud: Cloud, word: str, folder: Path) -> str:
    """Download the artefacts that a word names; return the word with their paths instead of their addresses."""
    parts = []
    for part in word.split(","):
        address, hash_, name = part.partition("#")
        if address.startswith("s3://"):
            bucket, _, key = address.removeprefix("s3://").partition("/")
            path = folder / Path(key).name
            running_cloud.client("s3").download_file(bucket, key, str(path))
            address = str(path)
        parts.append(f"{address}{hash_}{name}")
    return ",".join(parts)


def settle(condition: Callable[[], bool], seconds: float = 30, every: float = 0.1) -> None:
    """Wait until a condition holds.

    Args:
        condition: looks whether it does.
        seconds: how long to wait.
        every: seconds between two looks.

    Raises:
        AssertionError: it does not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)
