"""Everything that a deployment will ask of AWS, as plain requests, before anything is asked."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from emr.dependencies import archive_name, dependencies_archive
from emr.inputs import Carried, Inputs
from emr.package import ROOT, project_zip
from emr.settings import PROJECT, Settings

MAX_ARGUMENTS = 10_240
"""Characters that a step's arguments may have in total (API reference: HadoopJarStepConfig)."""

SECURITY_CONFIGURATION = f"{PROJECT}-imdsv2"
IMDS = "InstanceMetadataServiceConfiguration"
IMDSV2 = {
    IMDS: {
        "MinimumInstanceMetadataServiceVersion": 2,
        "HttpPutResponseHopLimit": 1,
    }
}
"""No request forged through a program on a node gets at the role's credentials."""

AM_ON_CORE = {
    "Classification": "yarn-site",
    "Properties": {
        "yarn.node-labels.enabled": "true",
        "yarn.node-labels.am.default-node-label-expression": "CORE",
    },
}
"""Keeps the driver off spot nodes, with which it would be lost."""

RUN_TAG = "spark.yarn.tags="
"""What names the run among a step's arguments, and its application to YARN."""

SPARE_MINUTES = 10
"""How much later than whoever follows it a job ends itself."""

DEPS = "deps"
"""What the archive of dependencies is unpacked into."""


@dataclass(frozen=True)
class Artefact:
    """A file to be on S3.

    Attributes:
        what: it is, for people.
        key: where, named by content, so that it is there already if nothing changed.
        make: makes it in a folder, if it has to be uploaded.
    """

    what: str
    key: str
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Plan:
    """A job on a cluster.

    Attributes:
        settings: what the user wants.
        region: where.
        bucket: for all that goes to S3.
        owner: ARN of who deploys.
        artefacts: what has to be on S3: project, script, dependencies, and what travels.
        words: the job's flags as they are on the cluster.
        carried: folders that travel, in the order of their artefacts.
    """

    settings: Settings
    region: str
    bucket: str
    owner: str
    artefacts: tuple[Artefact, ...]
    words: tuple[str, ...]
    carried: tuple[Carried, ...] = field(repr=False)

    @classmethod
    def of(
        cls, settings: Settings, region: str, account: str, owner: str, data_root: Path, packages: Path
    ) -> Plan:
        """Find out what has to be where.

        Args:
            settings: what the user wants.
            region: where.
            account: whose bucket it is, if settings name none.
            owner: ARN of who deploys.
            data_root: where named sets live.
            packages: where archives of dependencies are kept on this machine.

        Raises:
            InputError: the job's flags name what is not there.
        """
        inputs = Inputs.of(settings.job, settings.words, data_root)
        script = ROOT / "spark_jobs" / f"{settings.job}.py"
        with tempfile.TemporaryDirectory() as folder:
            project = _digest(project_zip(Path(folder) / "project.zip").read_bytes())
        python, architecture = settings.python, settings.architecture
        code, data = f"{settings.prefix}/artefacts", f"{settings.prefix}/data"
        deps = archive_name(python, architecture)
        artefacts = [
            Artefact("project", f"{code}/{project}/project.zip", lambda to: project_zip(to / "project.zip")),
            Artefact("script", f"{code}/{_digest(script.read_bytes())}/{script.name}", lambda _: script),
            Artefact("packages", f"{code}/{deps}", lambda _: dependencies_archive(packages, python, architecture)),
            *(
                Artefact(own.folder, f"{data}/{digest[:16]}/{own.folder}.tar.gz", _writer(own, digest))
                for own, digest in ((own, own.digest()) for own in inputs.carried)
            ),
        ]
        return cls(
            settings,
            region,
            settings.bucket_in(account, region),
            owner,
            tuple(artefacts),
            tuple(inputs.words),
            tuple(inputs.carried),
        )

    def address(self, key: str) -> str:
        """The s3:// address of a key."""
        return f"s3://{self.bucket}/{key}"

    @property
    def cluster_key(self) -> str:
        """Tells clusters apart: those of one owner and shape have the same, so that a retry finds its own."""
        told_apart_by = [self.owner, self.region, self.bucket, self.settings.of_cluster()]
        return _digest(json.dumps(told_apart_by).encode())[:12]

    @property
    def cluster_name(self) -> str:
        """By which a cluster is listed."""
        return f"{PROJECT} {self.cluster_key}"

    @property
    def step_name(self) -> str:
        """Tells jobs apart: the same code with the same flags and data has the same."""
        return f"{self.settings.job} {_digest(json.dumps(self._submit('')).encode())[:12]}"

    def new_run(self, at: float) -> str:
        """A name for a run folder that begins now."""
        data = next((word for word in self.words if word.startswith("--data=")), "").removeprefix("--data=")
        kind = f"-{data.partition(':')[0]}" if data else ""
        key = self.step_name.split()[1]
        return f"{self.settings.job}{kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}-{key[:4]}"

    @property
    def table(self) -> str | None:
        """Where ingest writes, which has no run folder."""
        return self.words[1] if self.settings.job == "ingest" else None

    def conf(self) -> dict[str, str]:
        """Spark's configuration: what this project's jobs need, and what the user says."""
        python = f"python{self.settings.python}"
        place = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, "PYTHONPATH": DEPS}
        return {
            "spark.pyspark.python": python,
            "spark.pyspark.driver.python": python,
            **{f"spark.yarn.appMasterEnv.{name}": value for name, value in place.items()},
            "spark.yarn.appMasterEnv.MPLCONFIGDIR": "matplotlib",  # its user has no home there
            **{f"spark.executorEnv.{name}": value for name, value in place.items()},
            # a failed driver would find its own half of a run folder
            "spark.yarn.maxAppAttempts": "1",
            # jobs open their data before they start Spark, and executors unpack before they register
            "spark.yarn.am.waitTime": "1h",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "10m",
            # a job that hangs is no idle cluster, which would end itself
            "spark.yarn.appMasterEnv.JOB_MINUTES": str(self.settings.timeout_minutes + SPARE_MINUTES),
            **self.settings.spark_conf,
        }

    def _submit(self, run: str) -> list[str]:
        project, script, deps, *carried = (self.address(artefact.key) for artefact in self.artefacts)
        folders = [own.folder for own in self.carried]
        archives = [f"{deps}#{DEPS}", *(f"{own}#{name}" for own, name in zip(carried, folders, strict=True))]
        words = ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
        words += ["--py-files", project, "--archives", ",".join(archives)]
        for name, value in self.conf().items():
            words += ["--conf", f"{name}={value}"]
        words += ["--conf", f"{RUN_TAG}{run}"]
        words += [script, *self.words]
        return words if self.table else [*words, f"--out={self.address(self.settings.runs + run)}"]

    def step(self, run: str) -> dict[str, Any]:
        """The step that runs the job (API reference: StepConfig).

        Raises:
            InputError: its arguments are longer than the API takes.
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
            # a failed step leaves the cluster to whoever follows it, who finds out why before it is terminated
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": words},
        }

    def cluster(self, run: str) -> dict[str, Any]:
        """The cluster with the step (API reference: RunJobFlow)."""
        own = self.settings
        groups = [
            _group("primary", "MASTER", own.primary_type, 1, spot=False),
            _group("core", "CORE", own.core_type, own.core_count, spot=False),
        ]
        if own.task_count:
            groups.append(_group("task", "TASK", own.task_type, own.task_count, own.task_spot))
        instances: dict[str, Any] = {
            "InstanceGroups": groups,
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": False,
        }
        if own.subnet:
            instances["Ec2SubnetId"] = own.subnet
        tags = {
            **own.tags,
            "project": PROJECT,
            "deployment": self.cluster_key,
            "deployed-by": self.owner,
            "machines": self.shape,
            "for-use-with-amazon-emr-managed-policies": "true",
        }
        return {
            "Name": self.cluster_name,
            "LogUri": self.address(self.settings.logs),
            "ReleaseLabel": own.release,
            "Applications": [{"Name": "Spark"}],
            "Instances": instances,
            "Steps": [self.step(run)],
            "Configurations": [AM_ON_CORE] if own.task_count and own.task_spot else [],
            "ServiceRole": own.service_role,
            "JobFlowRole": own.instance_profile,
            "SecurityConfiguration": SECURITY_CONFIGURATION,
            "AutoTerminationPolicy": {"IdleTimeout": own.idle_minutes * 60},
            "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
            "StepConcurrencyLevel": 1,
            "VisibleToAllUsers": True,
            "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
        }

    @property
    def shape(self) -> str:
        """The machines that Spark is sized for."""
        own = self.settings
        return f"{own.core_count} {own.core_type} {own.task_count} {own.task_type}"

    @property
    def n_machines(self) -> int:
        """Machines of the cluster, each of which is paid for by the time it runs."""
        return 1 + self.settings.core_count + self.settings.task_count

    def machines(self) -> str:
        """The machines of the cluster, for people."""
        own = self.settings
        counted = [f"1 {own.primary_type} (primary)", f"{own.core_count} {own.core_type} (core)"]
        if own.task_count:
            counted.append(f"{own.task_count} {own.task_type} ({'spot ' if own.task_spot else ''}task)")
        primary, core, *task = own.machines
        cores = primary.cores + core.cores * own.core_count + sum(m.cores for m in task) * own.task_count
        return f"{self.n_machines} machines, {cores} vCPUs: {', '.join(counted)}"


def _group(name: str, role: str, kind: str, count: int, spot: bool) -> dict[str, Any]:
    market = "SPOT" if spot else "ON_DEMAND"  # spot without a price bids the on-demand price
    return {"Name": name, "InstanceRole": role, "InstanceType": kind, "InstanceCount": count, "Market": market}


def _writer(carried: Carried, digest: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"{carried.folder}.tar.gz"
        try:
            with path.open("wb") as file:
                carried.write(file)
        except OSError as error:
            raise InputError(f"{carried.folder}: cannot be packed ({error})") from error
        if carried.digest() != digest:  # it would be found under that name ever after
            raise InputError(f"{carried.folder}: its files changed while they were packed; try again")
        return path

    return write


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
