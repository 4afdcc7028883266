"""A scripted model of Amazon EMR Serverless, which decides what becomes of applications and job runs."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

from tests.support.emr.clients import Refused
from tests.support.emr.cloud import ACCOUNT, REGION
from tests.support.emr.services import OWNER, Services, moment

CREATING_S, STARTING_S, STOPPING_S, CANCELLING_S, LOGS_LATE_S = 10, 15, 30, 20, 60
STARTS_S, WORK_S = 60, 120
"""Seconds until a job run runs, and how long it does."""

BEFORE = ((2.0, "SUBMITTED"), (20.0, "PENDING"), (STARTS_S, "SCHEDULED"))
"""Until when a job run is in which state, before it runs."""


@dataclass
class JobFate:
    """The fate of job runs.

    Attributes:
        state: the state in which they end; "" if they never end.
        details: what the service says about it.
        log: output of the driver.
    """

    state: str = "SUCCESS"
    details: str = ""
    log: str = ""


@dataclass
class JobRun:
    """A job run; times are in seconds since the epoch, or None."""

    id: str
    request: dict[str, Any]
    created: float
    cancelled: float | None = None


@dataclass
class Application:
    """An application; times are in seconds since the epoch, or None."""

    id: str
    request: dict[str, Any]
    created: float
    runs: list[JobRun] = field(default_factory=list)
    stopped: float | None = None
    deleted: bool = False


class ScriptedServerless(Services):
    """The services for applications.

    Attributes:
        fate: what becomes of job runs.
        applications: applications by id.
    """

    POLLED = "GetJobRun"

    def __init__(self, pace: float = 1.0) -> None:
        super().__init__(pace)
        self.fate = JobFate()
        self.applications: dict[str, Application] = {}

    def there(self) -> list[str]:
        """Return the ids of applications that were not deleted."""
        return [name for name, application in self.applications.items() if not application.deleted]

    def get_role(self, params: dict[str, Any]) -> dict[str, Any]:
        trust = '{"Statement": [{"Principal": {"Service": "emr-serverless.amazonaws.com"}}]}'
        answer = super().get_role(params)
        return {"Role": {**answer["Role"], "AssumeRolePolicyDocument": trust}}

    def create_application(self, params: dict[str, Any]) -> dict[str, Any]:
        token = params["clientToken"]
        made = (app for app in self.applications.values() if app.request["clientToken"] == token)
        application = next(made, None)
        if application is None:
            application = Application(f"00f{len(self.applications) + 1}", params, self.clock.now())
            self.applications[application.id] = application
        return {"applicationId": application.id, "arn": self._arn(application.id), "name": params["name"]}

    def get_application(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"])
        return {"application": {**self._described(application), "tags": application.request.get("tags", {})}}

    def list_applications(self, params: dict[str, Any]) -> dict[str, Any]:
        now = self.clock.now()
        found = [
            {**described, "id": described["applicationId"]}
            for application in self.applications.values()
            if application.created + self.listed_after <= now
            and (described := self._described(application))["state"] in params["states"]
        ]
        return {"applications": [{k: v for k, v in found_.items() if k != "applicationId"} for found_ in found]}

    def start_job_run(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"])
        state = self.state(application)
        if state not in ("CREATED", "STARTING", "STARTED", "STOPPED"):
            raise Refused("ValidationException", f"Application {application.id} is {state}", 400)
        token = params["clientToken"]
        run = next((run for run in application.runs if run.request["clientToken"] == token), None)
        if run is None:
            application.stopped = None
            number = sum(len(app.runs) for app in self.applications.values()) + 1
            run = JobRun(f"00j{number}", params, self.clock.now())
            application.runs.append(run)
            self._write(application, run)
        arn = f"{self._arn(application.id)}/jobruns/{run.id}"
        return {"applicationId": application.id, "jobRunId": run.id, "arn": arn}

    def get_job_run(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"], deleted=False)
        run = next(run for run in application.runs if run.id == params["jobRunId"])
        state = self.run_state(run)
        more = {"jobRunId": run.id, "jobDriver": run.request["jobDriver"]}
        return {"jobRun": {**self._run(application, run, state), **more}}

    def list_job_runs(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"], deleted=False)
        now = self.clock.now()
        listed = [run for run in application.runs if run.created + self.listed_after <= now]
        runs = [{**self._run(application, run, self.run_state(run)), "id": run.id} for run in listed]
        return {"jobRuns": runs}

    def cancel_job_run(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"], deleted=False)
        run = next(run for run in application.runs if run.id == params["jobRunId"])
        if self.run_state(run) in ("SUCCESS", "FAILED", "CANCELLED"):
            raise Refused("ValidationException", f"Job run {run.id} has ended", 400)
        run.cancelled = run.cancelled or self.clock.now()
        return {"applicationId": application.id, "jobRunId": run.id}

    def stop_application(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"], deleted=False)
        if self._busy(application) or self.state(application) != "STARTED":
            raise Refused("ValidationException", f"Application {application.id} cannot be stopped now", 400)
        application.stopped = self.clock.now()
        return {}

    def delete_application(self, params: dict[str, Any]) -> dict[str, Any]:
        application = self._application(params["applicationId"], deleted=False)
        if self.state(application) not in ("CREATED", "STOPPED"):
            raise Refused("ValidationException", f"Application {application.id} must be CREATED or STOPPED", 400)
        application.deleted = True
        return {}

    def state(self, application: Application) -> str:
        """Return an application's present state."""
        now = self.clock.now()
        if application.deleted:
            return "TERMINATED"
        if now < application.created + self.pace * CREATING_S:
            return "CREATING"
        if application.stopped is not None:
            return "STOPPING" if now < application.stopped + self.pace * STOPPING_S else "STOPPED"
        if not application.runs:
            return "CREATED"
        return "STARTING" if now < application.runs[0].created + self.pace * STARTING_S else "STARTED"

    def run_state(self, run: JobRun) -> str:
        """Return a job run's present state."""
        age, ends = self.clock.now() - run.created, self.pace * (STARTS_S + WORK_S)
        if run.cancelled is not None and (not self.fate.state or run.cancelled < run.created + ends):
            over = self.clock.now() >= run.cancelled + self.pace * CANCELLING_S
            return "CANCELLED" if over else "CANCELLING"
        for until, state in BEFORE:
            if age < self.pace * until:
                return state
        return self.fate.state if self.fate.state and age >= ends else "RUNNING"

    def _busy(self, application: Application) -> bool:
        return any(self.run_state(run) not in ("SUCCESS", "FAILED", "CANCELLED") for run in application.runs)

    def _write(self, application: Application, run: JobRun) -> None:
        """Schedule the objects that a job run will write to S3."""
        ends = run.created + self.pace * (STARTS_S + WORK_S)
        arguments = run.request["jobDriver"]["sparkSubmit"]["entryPointArguments"]
        out = next((word for word in arguments if word.startswith("--out=")), "")
        prefix = out.removeprefix("--out=s3://").partition("/")[2]
        if self.fate.state == "SUCCESS" and out:
            for name in ("report.html", "metrics.json"):
                self.objects[f"{prefix}/{name}"] = (ends, b"{}")
        if self.fate.log:
            monitoring = run.request["configurationOverrides"]["monitoringConfiguration"]
            logs = monitoring["s3MonitoringConfiguration"]["logUri"].removeprefix("s3://").partition("/")[2]
            key = f"{logs}applications/{application.id}/jobs/{run.id}/SPARK_DRIVER/stdout.gz"
            self.objects[key] = (ends + self.pace * LOGS_LATE_S, gzip.compress(self.fate.log.encode()))

    def _application(self, name: str, deleted: bool = True) -> Application:
        """Return an application; refuse an unknown id and, unless `deleted`, a deleted application."""
        application = self.applications.get(name)
        if application is None or (application.deleted and not deleted):
            raise Refused("ResourceNotFoundException", f"Application {name} does not exist", 404)
        return application

    def _described(self, application: Application) -> dict[str, Any]:
        created = moment(application.created)
        kept = {name: application.request[name] for name in ("name", "releaseLabel", "type")}
        times = {"createdAt": created, "updatedAt": created}
        state = {"state": self.state(application)}
        return {"applicationId": application.id, "arn": self._arn(application.id), **kept, **times, **state}

    def _run(self, application: Application, run: JobRun, state: str) -> dict[str, Any]:
        created = moment(run.created)
        details = self.fate.details if state == self.fate.state else ""
        return {
            "applicationId": application.id,
            "name": run.request["name"],
            "arn": f"{self._arn(application.id)}/jobruns/{run.id}",
            "createdBy": OWNER,
            "createdAt": created,
            "updatedAt": created,
            "executionRole": run.request["executionRoleArn"],
            "state": state,
            "stateDetails": details or "-",
            "releaseLabel": application.request["releaseLabel"],
        }

    def _arn(self, application: str) -> str:
        return f"arn:aws:emr-serverless:{REGION}:{ACCOUNT}:/applications/{application}"
