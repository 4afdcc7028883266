"""The requests of a deployment on an application of EMR Serverless, before any is sent."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from emr.memory import check_memory
from emr.plan import SPARE_MINUTES, Plan, digest
from emr.settings import PROJECT

MAX_PARAMETERS = 102_400
"""The largest length of the flags of spark-submit, in characters (API reference: SparkSubmit)."""

MAX_ARGUMENTS, MAX_ARGUMENT = 1_024, 10_280
"""The largest number of the job's flags, and the largest length of one (API reference: SparkSubmit)."""

QUEUE_MINUTES = 720
"""The longest that a job may wait for others (API reference: SchedulerConfiguration)."""

DRIVER_ENV = "spark.emr-serverless.driverEnv."


@dataclass(frozen=True)
class ApplicationPlan(Plan):
    """A job and the application for it."""

    @property
    def host_key(self) -> str:
        """Key of the application: the same for the same owner and settings."""
        identity = [self.owner, self.region, self.bucket, "serverless", self.settings.host_settings()]
        return digest(json.dumps(identity).encode())[:12]

    @property
    def application_name(self) -> str:
        """Name under which the application is listed."""
        return f"{PROJECT}-{self.host_key}"

    @property
    def work_name(self) -> str:
        """First part of the job run's name: the same for the same code with the same flags and data."""
        return f"{self.settings.job} {digest(json.dumps(self._driver('')).encode())[:12]}"

    @property
    def role(self) -> str:
        """ARN of the role of jobs."""
        role = self.settings.execution_role
        if role.startswith("arn:"):
            return role
        partition = self.owner.split(":")[1] if self.owner.startswith("arn:") else "aws"
        return f"arn:{partition}:iam::{self.account}:role/{role}"

    def conf(self) -> dict[str, str]:
        """Return Spark's configuration: the settings that this project's jobs need, overridden by the user's."""
        python = f"python{self.settings.python}"
        environment = {**self.environment(), "PYSPARK_PYTHON": python}
        return {
            f"{DRIVER_ENV}PYSPARK_DRIVER_PYTHON": python,
            f"{DRIVER_ENV}MPLCONFIGDIR": "matplotlib",  # the driver's user may have no home
            **{f"{DRIVER_ENV}{name}": value for name, value in environment.items()},
            **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
            # executors unpack before they register
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "10m",
            **self.settings.spark_conf,
        }

    def _driver(self, run: str) -> dict[str, Any]:
        """Return the job (API reference: SparkSubmit)."""
        words = self.files()
        for name, value in self.conf().items():
            words += ["--conf", f"{name}={value}"]
        arguments = self.job_words(run)
        return {
            "entryPoint": self.script,
            "entryPointArguments": arguments,
            "sparkSubmitParameters": " ".join(words),
        }

    def check(self, starts_host: bool) -> None:
        """Check the length of the job's flags, the memory, and that Spark's settings fit into one line."""
        for name, value in self.conf().items():
            if re.search(r"[\s\"'\\]", name + value):
                raise InputError(
                    f"spark {name}={value}: EMR Serverless takes no blanks and no quotes; leave them out"
                )
        worker = self.settings.worker
        for who in ("driver", "executor") if starts_host else ():
            check_memory(self.conf(), who, worker.gb * 1024, f"a worker of {worker.gb} GB")
        driver = self._driver("0" * 64)
        arguments, parameters = driver["entryPointArguments"], driver["sparkSubmitParameters"]
        longest = max(map(len, arguments), default=0)
        if len(arguments) > MAX_ARGUMENTS or longest > MAX_ARGUMENT or len(parameters) > MAX_PARAMETERS:
            raise InputError(
                f"the job has {len(arguments):,} flags of up to {longest:,} characters, and Spark's settings have "
                f"{len(parameters):,}; EMR Serverless takes {MAX_ARGUMENTS:,} of {MAX_ARGUMENT:,}, and "
                f"{MAX_PARAMETERS:,}; shorten them"
            )

    def application(self, run: str) -> dict[str, Any]:
        """Return the request for an application (API reference: CreateApplication).

        Args:
            run: the run folder's name, from which the token comes, so that a request can be repeated.
        """
        settings, worker = self.settings, self.settings.worker
        request: dict[str, Any] = {
            "name": self.application_name,
            "releaseLabel": settings.release,
            "type": "SPARK",
            "clientToken": self._token(run),
            "architecture": settings.architecture.upper(),
            "maximumCapacity": worker.times(self.n_workers),
            # the capacity is that of one job, so a second one waits, as on a cluster
            "schedulerConfiguration": {"maxConcurrentRuns": 1, "queueTimeoutMinutes": QUEUE_MINUTES},
            "autoStartConfiguration": {"enabled": True},
            "autoStopConfiguration": {"enabled": True, "idleTimeoutMinutes": settings.idle_minutes},
            "tags": {
                **settings.tags,
                "project": PROJECT,
                "deployment": self.host_key,
                "deployed-by": self.owner,
                "machines": settings.shape,
            },
        }
        if settings.ready_executors:
            ready = {"workerConfiguration": worker.capacity()}
            request["initialCapacity"] = {
                "DRIVER": {"workerCount": 1, **ready},
                "EXECUTOR": {"workerCount": settings.ready_executors, **ready},
            }
        if settings.subnet:
            request["networkConfiguration"] = {"subnetIds": [settings.subnet]}
        return request

    def job_run(self, application: str, run: str) -> dict[str, Any]:
        """Return the request that runs the job on an application (API reference: StartJobRun)."""
        logs = {"logUri": self.address(self.settings.logs)}
        return {
            "applicationId": application,
            "clientToken": self._token(run),
            "name": f"{self.work_name} {run}",
            "executionRoleArn": self.role,
            "jobDriver": {"sparkSubmit": self._driver(run)},
            "configurationOverrides": {"monitoringConfiguration": {"s3MonitoringConfiguration": logs}},
            # a job that nobody follows ends itself, and is not tried again beside its own half-written results
            "executionTimeoutMinutes": self.settings.timeout_minutes + SPARE_MINUTES,
            "retryPolicy": {"maxAttempts": 1},
            "tags": {**self.settings.tags, "project": PROJECT, "deployed-by": self.owner},
        }

    def _token(self, run: str) -> str:
        """Return the token of requests for a run: the same whenever they are repeated, and only then."""
        return digest(json.dumps([self.owner, self.host_key, run]).encode())

    @property
    def n_workers(self) -> int:
        """Number of workers, each of which is billed while it runs."""
        return 1 + self.settings.executors

    def machines(self) -> str:
        """Return the workers as text for people."""
        settings = self.settings
        ready = f", {settings.ready_executors} of them kept ready" if settings.ready_executors else ""
        return f"1 driver and {settings.executors} executors{ready}, {settings.worker}"

    def most(self) -> str:
        """Return the most that a job can be billed for, as text for people."""
        hours = (self.settings.timeout_minutes + SPARE_MINUTES) / 60
        vcpus, gb = (self.n_workers * n * hours for n in (self.settings.worker.vcpus, self.settings.worker.gb))
        return f"{vcpus:,.0f} vCPU-hours and {gb:,.0f} GB-hours"
