"""The requests of a deployment on a cluster, as plain dictionaries, before any is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from emr.memory import check_memory
from emr.plan import SPARE_MINUTES, Plan, digest
from emr.settings import PROJECT

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

AM_WAIT_S = 3600
"""Seconds that a job may take to open its data before it starts Spark."""

PATIENT_YARN = {"yarn.am.liveness-monitor.expiry-interval-ms": str(1000 * AM_WAIT_S)}
"""Has YARN wait as long: it would end a driver that has not started Spark after ten minutes."""

AM_ON_CORE = {
    "yarn.node-labels.enabled": "true",
    "yarn.node-labels.am.default-node-label-expression": "CORE",
}
"""Keeps the driver off spot nodes, which can be lost at any time."""

RUN_TAG = "spark.yarn.tags="
"""Setting that gives the run's name to YARN, and by which a step's arguments are recognised."""


@dataclass(frozen=True)
class ClusterPlan(Plan):
    """A job and the cluster for it."""

    @property
    def host_key(self) -> str:
        """Key of the cluster: the same for the same owner and settings, so that a retry finds its cluster."""
        identity = [self.owner, self.region, self.bucket, self.settings.host_settings()]
        return digest(json.dumps(identity).encode())[:12]

    @property
    def cluster_name(self) -> str:
        """Name under which the cluster is listed."""
        return f"{PROJECT} {self.host_key}"

    @property
    def work_name(self) -> str:
        """Name of the step: the same for the same code with the same flags and data."""
        return f"{self.settings.job} {digest(json.dumps(self._submit('')).encode())[:12]}"

    def conf(self) -> dict[str, str]:
        """Return Spark's configuration: the settings that this project's jobs need, overridden by the user's."""
        python = f"python{self.settings.python}"
        environment = self.environment()
        return {
            "spark.pyspark.python": python,
            "spark.pyspark.driver.python": python,
            **{f"spark.yarn.appMasterEnv.{name}": value for name, value in environment.items()},
            "spark.yarn.appMasterEnv.MPLCONFIGDIR": "matplotlib",  # the driver's user has no home there
            **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
            # a second driver would find the half of a run folder that the first one left
            "spark.yarn.maxAppAttempts": "1",
            # jobs open their data before they start Spark, and executors unpack before they register
            "spark.yarn.am.waitTime": f"{AM_WAIT_S}s",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "10m",
            # a job that hangs would keep its cluster from being idle and so from ending itself
            "spark.yarn.appMasterEnv.JOB_MINUTES": str(self.settings.timeout_minutes + SPARE_MINUTES),
            **self.settings.spark_conf,
        }

    def _submit(self, run: str) -> list[str]:
        """Return the step's command."""
        words = ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster", *self.files()]
        for name, value in self.conf().items():
            words += ["--conf", f"{name}={value}"]
        return [*words, "--conf", f"{RUN_TAG}{run}", self.script, *self.job_words(run)]

    def check(self, starts_host: bool) -> None:
        """Check the length of the step's arguments, and the memory of driver and executors."""
        self.step("0" * 64)
        # YARN's share of a machine depends on its type, so that only the machine is a sure limit
        largest = max(self.settings.machines[1:], key=lambda machine: machine.memory)
        for who in ("driver", "executor") if starts_host else ():
            check_memory(self.conf(), who, largest.memory * 1024, largest.name)

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
            "Name": self.work_name,
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
            "deployment": self.host_key,
            "deployed-by": self.owner,
            "machines": settings.shape,
            "for-use-with-amazon-emr-managed-policies": "true",
        }
        return {
            "Name": self.cluster_name,
            "LogUri": self.address(settings.logs),
            "ReleaseLabel": settings.release,
            "Applications": [{"Name": "Spark"}],
            "Instances": instances,
            "Steps": [self.step(run)],
            "Configurations": [{"Classification": "yarn-site", "Properties": self.yarn_site()}],
            "ServiceRole": settings.service_role,
            "JobFlowRole": settings.instance_profile,
            "SecurityConfiguration": SECURITY_CONFIGURATION,
            "AutoTerminationPolicy": {"IdleTimeout": settings.idle_minutes * 60},
            "ScaleDownBehavior": "TERMINATE_AT_TASK_COMPLETION",
            "StepConcurrencyLevel": 1,
            "VisibleToAllUsers": True,
            "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
        }

    def yarn_site(self) -> dict[str, str]:
        """Return the settings of the cluster's YARN that differ from Amazon EMR's."""
        spot = self.settings.task_count and self.settings.task_spot
        return {**PATIENT_YARN, **(AM_ON_CORE if spot else {})}

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
