"""Where jobs run: what clusters of Amazon EMR and applications of EMR Serverless have in common.

A host is a cluster or an application. Work is what runs on it: a step or a job run.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from emr.follow import Outcome, Reporter
from emr.logs import Logs
from emr.plan import Plan

STOPPING = {"CANCEL_PENDING", "CANCELLING"}
"""States of work that has not ended, but will not be done either."""

AnyPlan = TypeVar("AnyPlan", bound=Plan, contravariant=True)


@dataclass(frozen=True)
class Host:
    """A cluster or an application.

    Attributes:
        id: its id.
        state: its state, and the reason for it, for people.
        active: whether it takes work.
        ours: whether this project started it.
        owner: ARN of the user who started it; "" if that is unknown.
        created: when it was started.
        shape: the machines that it was started with, as `Plan.shape` has them; "" if that is unknown.
    """

    id: str
    state: str
    active: bool
    ours: bool
    owner: str
    created: datetime.datetime
    shape: str = ""


@dataclass(frozen=True)
class Work:
    """A step or a job run.

    Attributes:
        id: its id.
        name: its name, which is the same for the same code with the same flags and data.
        run: the name of its run folder; "" if it is not this project's.
        state: its state.
        under_way: whether it has not ended.
        failure: why it failed; "" if it did not.
    """

    id: str
    name: str
    run: str
    state: str
    under_way: bool
    failure: str = ""


class Target(Protocol[AnyPlan]):
    """A service that runs jobs.

    Every method raises InputError if AWS refuses, and RunError if AWS cannot be reached or fails itself.

    Attributes:
        host: what its hosts are called.
        work: what its work is called.
        idle: what becomes of a host without work, for people.
        listed: which hosts are listed, for people.
    """

    host: str
    work: str
    idle: str
    listed: str

    def preflight(self, plan: AnyPlan) -> list[str]:
        """Check what a new host needs; create missing things that cost nothing; return notes for the user."""

    def look(self, host: str) -> Host | None:
        """Return a host, or None if the service does not know the id or has forgotten it."""

    def hosts(self, active: bool) -> Iterator[Host]:
        """Yield this project's hosts, newest first; if `active`, only those."""

    def find(self, plan: AnyPlan) -> str | None:
        """Return the id of an active host that an earlier attempt at this deployment left, or None."""

    def create(self, plan: AnyPlan, run: str) -> str:
        """Start a host; return its id."""

    def begin(self, plan: AnyPlan, host: str, run: str) -> str:
        """Begin the work on a host that was created for it; return the id of the work."""

    def add(self, plan: AnyPlan, host: str, run: str) -> str:
        """Add the work to an active host; return the id of the work."""

    def works(self, host: str) -> list[Work]:
        """Return the work of a host, newest first."""

    def follow(
        self, reporter: Reporter, host: str, work: str, deadline: float, progress: Callable[[], str | None]
    ) -> Outcome:
        """Wait until the work has ended or the deadline has passed."""

    def cancel(self, host: str, work: Work, host_stays: bool) -> str:
        """Cancel work, whether it runs or waits; return AWS's answer as text."""

    def end(self, host: str) -> bool:
        """End a host of ours, so that nothing of it stays; return True if it was active.

        Raises:
            InputError: the host is not this project's.
        """

    def logs(self, host: str, work: str) -> Logs:
        """Return the logs of work."""


def of_run(works: list[Work], run: str) -> Work | None:
    """Return the work of a run, in whatever state, or None."""
    return next((work for work in works if run and work.run == run), None)


def equal_to(works: list[Work], plan: Plan) -> Work | None:
    """Return work that does the same as a plan and goes on, or None."""
    equal = (work for work in works if work.name == plan.work_name and work.under_way)
    return next((work for work in equal if work.state not in STOPPING), None)
