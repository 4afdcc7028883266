"""Applications and job runs: found again by their tags and names, and deleted only if they are ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from common.errors import InputError, RunError
from emr.aws import CALL_ERRORS, Aws, Clock, code_of, explained
from emr.bucket import project_bucket
from emr.follow import CANCELLED, DONE, FAILED, Outcome, Reporter, Seen, follow
from emr.once import poll, request_once
from emr.serverless.logs import JobRunLogs
from emr.serverless.plan import ApplicationPlan
from emr.serverless.preflight import preflight
from emr.settings import PROJECT, Settings
from emr.target import Host, Work, of_run

ACTIVE = ["CREATING", "CREATED", "STARTING", "STARTED", "STOPPING", "STOPPED"]
"""States of applications that take job runs, now or soon: one that has stopped starts again by itself."""

READY = {"CREATED", "STARTING", "STARTED", "STOPPED"}
"""States in which an application takes a job run at once."""

DELETABLE = {"CREATED", "STOPPED"}
"""States in which an application can be deleted."""

UNDER_WAY = ["SUBMITTED", "PENDING", "SCHEDULED", "QUEUED", "RUNNING", "CANCELLING"]
"""States of job runs that have not ended."""

CHANGE_S = 300
"""Seconds that an application may take to be created or to stop, and a job run to be cancelled."""

NAME = re.compile(r"(\w+ [0-9a-f]{12}) (\S+)")
"""The name of a job run of ours: of the work, then of the run folder."""

Record = dict[str, Any]
"""An application or a job run as the API describes it."""


class Applications:
    """Applications of EMR Serverless and their job runs; see Target for its methods.

    Args:
        aws: the services.
        clock: measures time.
        settings: the user's settings.
    """

    host, work = "application", "job run"
    idle = "it stops after `idle_minutes` without work, and then costs nothing"
    listed = "those that were deleted are not listed"

    def __init__(self, aws: Aws, clock: Clock, settings: Settings) -> None:
        self._aws = aws
        self._clock = clock
        self._settings = settings

    def preflight(self, plan: ApplicationPlan) -> list[str]:
        """Check the role of jobs."""
        return preflight(self._aws, plan)

    def look(self, host: str) -> Host | None:
        """Describe an application, or return None. One that was deleted is as good as unknown."""
        application = self._describe(host)
        return None if application is None or application["state"] == "TERMINATED" else _host(application)

    def hosts(self, active: bool) -> Iterator[Host]:
        """Yield applications; those that were deleted are not listed in either case."""
        return map(_host, self._list_ours())

    def find(self, plan: ApplicationPlan) -> str | None:
        """Find the application by the key among its tags."""
        for application in self._list_ours():
            if application.get("tags", {}).get("deployment") == plan.host_key:
                return str(application["applicationId"])
        return None

    def create(self, plan: ApplicationPlan, run: str) -> str:
        """Create an application; it costs nothing until a job runs."""
        request = plan.application(run)
        return request_once(
            self._clock,
            "create an application",
            lambda: str(self._aws.serverless.create_application(**request)["applicationId"]),
            lambda: self.find(plan),
        )

    def begin(self, plan: ApplicationPlan, host: str, run: str) -> str:
        """Start the job run."""
        return self.add(plan, host, run)

    def add(self, plan: ApplicationPlan, host: str, run: str) -> str:
        """Start the job run, as soon as the application takes it."""
        self._wait_until_ready(host)
        request = plan.job_run(host, run)

        def lookup() -> str | None:
            work = of_run(self.works(host), run)
            return work.id if work else None

        return request_once(
            self._clock,
            f"start a job run on application {host}",
            lambda: str(self._aws.serverless.start_job_run(**request)["jobRunId"]),
            lookup,
        )

    def works(self, host: str) -> list[Work]:
        """List the job runs."""
        with explained(f"job runs of application {host}"):
            pages = self._aws.serverless.get_paginator("list_job_runs").paginate(applicationId=host)
            runs = [run for page in pages for run in page["jobRuns"]]
        return [_work(run) for run in sorted(runs, key=lambda run: run["createdAt"], reverse=True)]

    def follow(
        self, reporter: Reporter, host: str, work: str, deadline: float, progress: Callable[[], str | None]
    ) -> Outcome:
        """Wait for a job run."""

        def look() -> Seen:
            run = self._aws.serverless.get_job_run(applicationId=host, jobRunId=work)["jobRun"]
            return Seen(f"job run {run['state']}", _outcome(run), run["state"] == "RUNNING")

        return follow(self._clock, reporter, f"follow job run {work}", look, deadline, progress)

    def cancel(self, host: str, work: Work, host_stays: bool) -> str:
        """Cancel a job run, which ends its driver and executors."""
        if not work.under_way:
            return f"it is already {work.state}"
        with explained(f"cancel job run {work.id}"):
            try:
                self._aws.serverless.cancel_job_run(applicationId=host, jobRunId=work.id)
            except ClientError as error:
                if code_of(error) != "ValidationException":
                    raise
                return "it has ended by itself"
        return "submitted"

    def end(self, host: str) -> bool:
        """Cancel the job runs of an application, stop it, and delete it."""
        known = self.look(host)
        if known is None:
            return False
        if not known.ours:
            raise InputError(f"application {host}: lacks the tag project={PROJECT}, so it is not ours to delete")
        for work in self.works(host):
            if work.under_way and work.state != "CANCELLING":
                self.cancel(host, work, host_stays=False)
        self._stop(host)
        with explained(f"delete application {host}"):
            try:
                self._aws.serverless.delete_application(applicationId=host)
            except CALL_ERRORS:
                if self.look(host) is not None:  # an answer may have been lost
                    raise
        return True

    def _stop(self, host: str) -> None:
        """Stop an application, as soon as its job runs have ended.

        Raises:
            RunError: it does not stop in time.
        """

        def stopped() -> bool | None:
            known = self._describe(host)
            state = known["state"] if known else "TERMINATED"
            if state == "STARTED":
                try:
                    self._aws.serverless.stop_application(applicationId=host)
                except ClientError as error:
                    if code_of(error) != "ValidationException":  # that is what it says while a job run goes on
                        raise
            return True if state in {*DELETABLE, "TERMINATED"} else None

        with explained(f"stop application {host}"):
            if poll(self._clock, stopped, self._clock.now() + CHANGE_S, 1) is None:
                raise RunError(f"application {host} does not stop; `make emr-terminate` tries again")

    def logs(self, host: str, work: str) -> JobRunLogs:
        """Return the logs of a job run."""
        prefix = f"{self._settings.logs}applications/{host}/jobs/{work}/"
        return JobRunLogs(project_bucket(self._aws, self._settings), prefix)

    def _wait_until_ready(self, host: str) -> None:
        """Wait until an application takes job runs.

        Raises:
            RunError: it does not in time.
        """
        state = "unknown"

        def arrived() -> bool | None:
            nonlocal state
            application = self._describe(host)
            state = application["state"] if application else "unknown"
            return True if state in {*READY, "TERMINATED", "unknown"} else None

        poll(self._clock, arrived, self._clock.now() + CHANGE_S, 1)
        if state not in READY:
            raise RunError(f"application {host} takes no job: it is {state}; `make emr-list` shows what there is")

    def _describe(self, host: str) -> Record | None:
        """Return an application's description, or None if there is no such id."""
        with explained(f"application {host}"):
            try:
                application: Record = self._aws.serverless.get_application(applicationId=host)["application"]
            except ClientError as error:
                if code_of(error) == "ResourceNotFoundException":
                    return None
                raise
        return application

    def _list_ours(self) -> Iterator[Record]:
        """Yield this project's applications, newest first.

        Tags are requested only for applications whose names begin with the project's, which saves calls.
        """
        with explained("applications"):
            pages = self._aws.serverless.get_paginator("list_applications").paginate(states=ACTIVE)
            summaries = [
                summary
                for page in pages
                for summary in page["applications"]
                if summary.get("name", "").startswith(PROJECT)
            ]
        for summary in sorted(summaries, key=lambda summary: summary["createdAt"], reverse=True):
            application = self._describe(summary["id"])
            if application is not None and _host(application).ours:
                yield application


def _host(application: Record) -> Host:
    tags = application.get("tags", {})
    parts = [application["state"], application.get("stateDetails", "")]
    return Host(
        str(application["applicationId"]),
        ": ".join(part for part in parts if part),
        application["state"] in ACTIVE,
        tags.get("project") == PROJECT,
        tags.get("deployed-by", ""),
        application["createdAt"],
        tags.get("machines", ""),
    )


def _work(run: Record) -> Work:
    state, name = str(run["state"]), run.get("name", "")
    ours = NAME.fullmatch(name)
    name, run_name = (ours[1], ours[2]) if ours else (name, "")
    failure = _failure(run) if state == "FAILED" else ""
    return Work(str(run["id"]), name, run_name, state, state in UNDER_WAY, failure)


def _outcome(run: Record) -> Outcome | None:
    """Return how a job run ended, or None if it has not ended."""
    if run["state"] == "SUCCESS":
        return Outcome(DONE)
    if run["state"] == "FAILED":
        return Outcome(FAILED, _failure(run), work_failed=True)
    if run["state"] == "CANCELLED":
        return Outcome(CANCELLED, ": ".join(["the job run was cancelled", *_details(run)]))
    return None


def _failure(run: Record) -> str:
    return ": ".join(["the job run failed", *(_details(run) or ["EMR Serverless gives no reason"])])


def _details(run: Record) -> list[str]:
    """Return what the service says about a state, if it says anything."""
    details = " ".join(run.get("stateDetails", "").split())
    return [details] if details.strip("-") else []
