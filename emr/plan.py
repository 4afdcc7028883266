"""Every request that a deployment will send to AWS, as plain dictionaries, before any is sent."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from emr.dependencies import archive_name, dependencies_archive
from emr.inputs import JobInputs, ShippedFiles
from emr.package import ROOT, project_zip
from emr.settings import PROJECT, Settings

MAX_ARGUMENTS = 10_240
"""The largest total length of a step's arguments, in characters (API reference: HadoopJarStepConfig)."""

SECURITY_CONFIGURATION = f"{PROJECT}-imdsv2"
IMDS = "InstanceMetadataServiceConfiguration"
IMDSV2 = {
    IMDS: {
        "MinimumInstanceMetadataServiceVersion": 2,
        "HttpPutResponseHopLimit": 1,
    }
}
"""Keeps forged requests through a program on a node from the role's credentials."""

AM_ON_CORE = {
    "Classification": "yarn-site",
    "Properties": {
        "yarn.node-labels.enabled": "true",
        "yarn.node-labels.am.default-node-label-expression": "CORE",
    },
}
"""Keeps the driver off spot nodes, which can be lost at any time."""

RUN_TAG = "spark.yarn.tags="
"""Setting that gives the run's name to YARN, and by which a step's arguments are recognised."""

SPARE_MINUTES = 10
"""Minutes after the timeout at which a job that nobody follows ends itself."""

DEPS = "deps"
"""Folder into which the archive of dependencies is unpacked."""


@dataclass(frozen=True)
class Artefact:
    """A file that a deployment needs on S3.

    Attributes:
        what: a name for people.
        key: the object's key, derived from the content, so that unchanged files are not uploaded again.
        make: makes the file, in the given folder or elsewhere, and returns its path.
    """

    what: str
    key: str
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Plan:
    """A job and the cluster for it.

    Attributes:
        settings: the user's settings.
        region: the region's name.
        bucket: the bucket for everything that goes to S3.
        owner: ARN of the caller.
        artefacts: files needed on S3: project, script, dependencies, and shipped files.
        words: the job's flags as they are on the cluster.
        shipped: the shipped files, in the order of their artefacts.
    """

    settings: Settings
    region: str
    bucket: str
    owner: str
    artefacts: tuple[Artefact, ...]
    words: tuple[str, ...]
    shipped: tuple[ShippedFiles, ...] = field(repr=False)

    @classmethod
    def of(
        cls, settings: Settings, region: str, account: str, owner: str, data_root: Path, packages: Path
    ) -> Plan:
        """Make the plan, without asking AWS.

        Args:
            settings: the user's settings.
            region: the region's name.
            account: the account's number, part of the default bucket's name.
            owner: ARN of the caller.
            data_root: the folder of named data sets.
            packages: the folder that keeps archives of dependencies on this machine.

        Raises:
            InputError: the job's flags name files that do not exist.
        """
        inputs = JobInputs.of(settings.job, settings.words, data_root)
        script = ROOT / "spark_jobs" / f"{settings.job}.py"
        with tempfile.TemporaryDirectory() as folder:
            project = _digest(project_zip(Path(folder) / "project.zip").read_bytes())
        python, architecture = settings.python, settings.architecture
        code, data = f"{settings.prefix}/artefacts", f"{settings.prefix}/data"
        deps = archive_name(python, architecture)
        artefacts = [
            Artefact(
                "project", f"{code}/{project}/project.zip", lambda folder: project_zip(folder / "project.zip")
            ),
            Artefact("script", f"{code}/{_digest(script.read_bytes())}/{script.name}", lambda _: script),
            Artefact("packages", f"{code}/{deps}", lambda _: dependencies_archive(packages, python, architecture)),
            *(
                Artefact(files.folder, f"{data}/{digest[:16]}/{files.folder}.tar.gz", _packer(files, digest))
                for files, digest in ((files, files.digest()) for files in inputs.shipped)
            ),
        ]
        return cls(
            settings,
            region,
            settings.bucket_in(account, region),
            owner,
            tuple(artefacts),
            tuple(inputs.words),
            tuple(inputs.shipped),
        )

    def address(self, key: str) -> str:
        """Return the s3:// address of a key."""
        return f"s3://{self.bucket}/{key}"

    @property
    def cluster_key(self) -> str:
        """Key of the cluster: the same for the same owner and settings, so that a retry finds its cluster."""
        identity = [self.owner, self.region, self.bucket, self.settings.cluster_settings()]
        return _digest(json.dumps(identity).encode())[:12]

    @property
    def cluster_name(self) -> str:
        """Name under which the cluster is listed."""
        return f"{PROJECT} {self.cluster_key}"

    @property
    def step_name(self) -> str:
        """Name of the step: the same for the same code with the same flags and data."""
        return f"{self.settings.job} {_digest(json.dumps(self._submit('')).encode())[:12]}"

    def new_run(self, at: float) -> str:
        """Return a name for a run folder.

        Args:
            at: when the run begins, in seconds since the epoch.
        """
        data = next((word for word in self.words if word.startswith("--data=")), "").removeprefix("--data=")
        kind = f"-{data.partition(':')[0]}" if data else ""
        key = self.step_name.split()[1]
        return f"{self.settings.job}{kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}-{key[:4]}"

    @property
    def table(self) -> str | None:
        """Address of the table that ingest writes instead of a run folder; None for other jobs."""
        return self.words[1] if self.settings.job == "ingest" else None

    def conf(self) -> dict[str, str]:
        """Return Spark's configuration: the settings that this project's jobs need, overridden by the user's."""
        python = f"python{self.settings.python}"
        environment = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, "PYTHONPATH": DEPS}
        return {
            "spark.pyspark.python": python,
            "spark.pyspark.driver.python": python,
            **{f"spark.yarn.appMasterEnv.{name}": value for name, value in environment.items()},
            "spark.yarn.appMasterEnv.MPLCONFIGDIR": "matplotlib",  # the driver's user has no home there
            **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
            # a second driver would find the half of a run folder that the first one left
            "spark.yarn.maxAppAttempts": "1",
            # jobs open their data before they start Spark, and executors unpack before they register
            "spark.yarn.am.waitTime": "1h",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "10m",
            # a job that hangs would keep its cluster from being idle and so from ending itself
            "spark.yarn.appMasterEnv.JOB_MINUTES": str(self.settings.timeout_minutes + SPARE_MINUTES),
            **self.settings.spark_conf,
        }

    def _submit(self, run: str) -> list[str]:
        """Return the step's command."""
        project, script, deps, *archives = (self.address(artefact.key) for artefact in self.artefacts)
        folders = [DEPS, *(files.folder for files in self.shipped)]
        unpacked = [f"{archive}#{name}" for archive, name in zip([deps, *archives], folders, strict=True)]
        words = ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
        words += ["--py-files", project, "--archives", ",".join(unpacked)]
        for name, value in self.conf().items():
            words += ["--conf", f"{name}={value}"]
        words += ["--conf", f"{RUN_TAG}{run}"]
        words += [script, *self.words]
        return words if self.table else [*words, f"--out={self.address(self.settings.runs + run)}"]

    def step(self, run: str) -> dict[str, Any]:
        """Return the step that runs the job (API reference: StepConfig).

        Raises:
            InputError: the arguments are longer than the API accepts.
        """
        words = self._submit(run)
        length = sum(map(len, words))
        if length > MAX_ARGUMENTS:
            raise InputError(
                f"the step's arguments have {length:,} characters, and Amazon EMR takes {MAX_ARGUMENTS:,}; "
                "shorten the job's flags"
            )
        return {
            "Name": self.step_name,
            # after a failure, the deployment that follows the step reads the logs before it terminates the cluster
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": words},
        }

    def cluster(self, run: str) -> dict[str, Any]:
        """Return the request for a cluster that runs the step (API reference: RunJobFlow)."""
        settings = self.settings
        groups = [
            _group("primary", "MASTER", settings.primary_type, 1, spot=False),
            _group("core", "CORE", settings.core_type, settings.core_count, spot=False),
        ]
        if settings.task_count:
            groups.append(_group("task", "TASK", settings.task_type, settings.task_count, settings.task_spot))
        instances: dict[str, Any] = {
            "InstanceGroups": groups,
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": False,
        }
        if settings.subnet:
            instances["Ec2SubnetId"] = settings.subnet
        tags = {
            **settings.tags,
            "project": PROJECT,
            "deployment": self.cluster_key,
            "deployed-by": self.owner,
            "machines": self.shape,
            "for-use-with-amazon-emr-managed-policies": "true",
        }
        return {
            "Name": self.cluster_name,
            "LogUri": self.address(settings.logs),
            "ReleaseLabel": settings.release,
            "Applications": [{"Name": "Spark"}],
            "Instances": instances,
            "Steps": [self.step(run)],
            "Configurations": [AM_ON_CORE] if settings.task_count and settings.task_spot else [],
            "ServiceRole": settings.service_role,
            "JobFlowRole": settings.instance_profile,
            "SecurityConfiguration": SECURITY_CONFIGURATION,
            "AutoTerminationPolicy": {"IdleTimeout": settings.idle_minutes * 60},
            "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
            "StepConcurrencyLevel": 1,
            "VisibleToAllUsers": True,
            "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
        }

    @property
    def shape(self) -> str:
        """Counts and types of the machines that Spark's settings are made for."""
        settings = self.settings
        return f"{settings.core_count} {settings.core_type} {settings.task_count} {settings.task_type}"

    @property
    def n_machines(self) -> int:
        """Number of machines, each of which is billed while it runs."""
        return 1 + self.settings.core_count + self.settings.task_count

    def machines(self) -> str:
        """Return the cluster's machines as text for people."""
        settings = self.settings
        counted = [f"1 {settings.primary_type} (primary)", f"{settings.core_count} {settings.core_type} (core)"]
        if settings.task_count:
            counted.append(
                f"{settings.task_count} {settings.task_type} ({'spot ' if settings.task_spot else ''}task)"
            )
        primary, core, *task = settings.machines
        cores = primary.cores + core.cores * settings.core_count + sum(m.cores for m in task) * settings.task_count
        return f"{self.n_machines} machines, {cores} vCPUs: {', '.join(counted)}"


def _group(name: str, role: str, kind: str, count: int, spot: bool) -> dict[str, Any]:
    """Return an instance group (API reference: InstanceGroupConfig)."""
    market = "SPOT" if spot else "ON_DEMAND"  # spot without a price bids the on-demand price
    return {"Name": name, "InstanceRole": role, "InstanceType": kind, "InstanceCount": count, "Market": market}


def _packer(files: ShippedFiles, digest: str) -> Callable[[Path], Path]:
    """Return a function that packs shipped files in a folder, and checks that they still have this digest."""

    def pack(folder: Path) -> Path:
        path = folder / f"{files.folder}.tar.gz"
        with path.open("wb") as file:
            files.write(file)
        if files.digest() != digest:  # every later deployment would take the archive for the old content
            raise RunError(f"{files.folder}: its files changed while they were packed; try again")
        return path

    return pack


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
