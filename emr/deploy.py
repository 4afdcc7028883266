"""From a plan to results: upload, find or start a cluster, follow the step, fetch, and leave no cluster behind.

Every call may be the last one that this process makes. So what is about to be asked for is written down first
(journal.py), what must not come into being twice is looked for before it is asked for again (clusters.once), and
the same line goes on wherever the last attempt ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from common.errors import InputError
from common.run.folder import LAST
from emr import clusters
from emr.aws import Aws, Clock, has_expired, is_ambiguous
from emr.bucket import Bucket
from emr.clusters import UNDER_WAY, Record
from emr.follow import CANCELLED, DONE, FAILED, WRONG, End, Teller, follow
from emr.journal import Journal
from emr.logs import Logs, progress, reason
from emr.plan import Plan
from emr.preflight import preflight

LOGS_S, LOGS_LOOK_S = 360, 15
"""How long to wait for the logs of a step that failed, and how often to look: they come 3 to 4 minutes late."""

PROGRESS_S = 60
"""How often to look into the logs of a step that runs."""


class Asker(Teller, Protocol):
    """Tells a person, and asks."""

    def moving(self, what: str, size: int) -> Callable[[int], None]:
        """Show bytes that move; the function is told of them."""

    def stop(self) -> bool:
        """After Ctrl-C: whether to give up, and not to go on following."""


class Deployment:
    """One job, from here to its results.

    Args:
        aws: the services.
        clock: to wait by.
        plan: what is asked for.
        person: hears of it.
        cluster: the id of a cluster to submit to; "" finds or starts one.
    """

    def __init__(self, aws: Aws, clock: Clock, plan: Plan, person: Asker, cluster: str = "") -> None:
        self._aws = aws
        self._clock = clock
        self._plan = plan
        self._person = person
        self._bucket = Bucket(aws, plan.bucket)
        self._journal = Journal.of(plan, cluster)
        self._looked = 0.0
        self._far: str | None = None

    def run(self) -> int:
        """Do all of it.

        Returns:
            the exit code.

        Raises:
            InputError: something is wrong with what was asked for, and no cluster was started; or nothing can be
                asked any more, because credentials have expired or AWS does not answer, and what runs goes on.
        """
        try:
            end = self._begin() or self._follow()
        except KeyboardInterrupt:
            end = End(CANCELLED, "interrupted")
        except InputError as error:
            if not self._journal.cluster:
                raise
            if has_expired(error.__cause__) or is_ambiguous(error.__cause__):
                goes_on = f"cluster {self._journal.cluster} goes on, and the same line will follow it"
                raise InputError(f"{error}; {goes_on}") from error.__cause__
            end = End(WRONG, str(error))
        return self._finish(end)

    def _begin(self) -> End | None:
        """Have the step on a cluster.

        Returns:
            how the step has ended, if it has and only its results are left.
        """
        journal, tell = self._journal, self._person.line
        state = clusters.state_of(self._aws, journal.cluster) if journal.cluster else None
        if journal.step and state is not None:
            tell(f"going on with step {journal.step} on cluster {journal.cluster}")
            return None
        if journal.owned and state not in clusters.ACTIVE:
            journal.cluster, journal.step, journal.deadline = "", "", 0.0
        for note in preflight(self._aws, self._plan, starts_cluster=journal.owned):
            tell(note)
        self._upload()
        cluster = journal.cluster or self._find()
        if cluster is None and self._has_results():
            tell("the job that an earlier attempt asked for is done")
            return End(DONE)
        step = clusters.find_run(self._aws, cluster, journal.run) if cluster else None
        if cluster and step is None and journal.owned:
            step = clusters.find_alike(self._aws, self._plan, cluster)
        if cluster and step:
            tell(f"going on with step {step['Id']} on cluster {cluster}")
            journal.run = clusters.run_of(step)
        elif cluster:
            tell(f"adding a step to cluster {cluster}")
            journal.cluster, journal.run = cluster, self._plan.new_run(self._clock.now())
            journal.save()
            step = {"Id": clusters.add_step(self._aws, self._clock, self._plan, cluster, journal.run)}
        else:
            journal.run = self._plan.new_run(self._clock.now())
            journal.asked = self._clock.now()
            journal.save()
            cluster, step = self._create()
        journal.cluster, journal.step = cluster, str(step["Id"])
        journal.save()
        return None

    def _create(self) -> tuple[str, Record]:
        """A new cluster, and its step."""
        journal = self._journal
        try:
            cluster = clusters.create(self._aws, self._clock, self._plan, journal.run)
        except InputError as error:
            if not is_ambiguous(error.__cause__):
                journal.forget()  # refused: there is none to look for
            raise
        self._person.line(f"started cluster {cluster}: {self._plan.machines()}")
        journal.cluster = cluster
        journal.save()
        until = self._clock.now() + clusters.SETTLE_S
        step = clusters.wait_for(self._clock, lambda: clusters.find_run(self._aws, cluster, journal.run), until)
        if step is None:
            raise InputError(f"cluster {cluster} was started, but not the step on it")
        return cluster, step

    def _find(self) -> str | None:
        """A cluster of an earlier attempt, given time to show if one was asked for just now."""
        until = self._journal.asked + clusters.SETTLE_S
        return clusters.wait_for(self._clock, lambda: clusters.find(self._aws, self._plan), until)

    def _has_results(self) -> bool:
        """Whether the run folder is whole on S3."""
        return bool(self._journal.run) and self._bucket.has(self._results + LAST)

    @property
    def _results(self) -> str:
        """Where the run folder is on S3."""
        return f"{self._plan.settings.runs}{self._journal.run}/"

    def _upload(self) -> None:
        """Put on S3 what is not there yet."""
        for artefact in self._plan.artefacts:
            if self._bucket.has(artefact.key):
                continue
            self._person.live(f"packing {artefact.what}")
            with tempfile.TemporaryDirectory(prefix="emr-") as folder:
                path = artefact.make(Path(folder))
                size = path.stat().st_size
                moved = self._person.moving(artefact.what, size)
                self._bucket.upload(artefact.key, path, moved)
            self._person.line(f"uploaded {artefact.what}: {size / 1e6:.1f} MB")

    def _follow(self) -> End:
        """Wait for the step, unless the person wants no more of it."""
        journal = self._journal
        if not journal.deadline:
            journal.deadline = self._clock.now() + 60 * self._plan.settings.timeout_minutes
            journal.save()
        while True:
            try:
                return follow(
                    self._aws, self._clock, self._person, journal.cluster, journal.step, journal.deadline,
                    self._progress,
                )  # fmt: skip
            except KeyboardInterrupt:
                if self._person.stop():
                    raise

    def _progress(self) -> str | None:
        """How far the job is, as far as its logs have come."""
        if self._clock.now() >= self._looked + PROGRESS_S:
            self._looked = self._clock.now()
            with suppress(InputError):  # to follow matters more
                self._far = progress(self._logs.texts())
        return self._far

    @cached_property
    def _logs(self) -> Logs:
        return Logs(self._bucket, f"{self._plan.settings.logs}{self._journal.cluster}/", self._journal.step)

    def _finish(self, end: End) -> int:
        """Fetch what there is, and leave nothing running that is ours.

        Raises:
            InputError: the results cannot be fetched; the same line tries again.
        """
        tell, failure = self._person, None
        if end.why:
            tell.error(end.why)
        if end.code == DONE:
            try:
                end = self._fetch()
            except InputError as error:
                failure = error
        elif not end.step_failed:
            try:
                self._cancel()
            except InputError as error:
                tell.error(str(error))
        try:
            left = self._leave()
        except InputError as error:
            tell.error(f"{error}; `make emr-list` shows what runs, and the same line goes on from here")
            return end.code or WRONG
        if failure is not None:
            raise failure
        if end.step_failed:
            self._explain()
        if left:
            tell.line(left)
        self._journal.forget()
        return end.code

    def _fetch(self) -> End:
        """The run folder, onto this machine."""
        if self._plan.table:
            print(f"table: {self._plan.table}")
            return End(DONE)
        folder = Path(self._plan.settings.fetch_to) / self._journal.run
        if not folder.exists():
            if not self._has_results():
                why = f"the step completed, but left no run folder at {self._plan.address(self._results)}"
                self._person.error(why)
                return End(FAILED, why)
            n = self._bucket.fetch(self._results, folder)
            self._person.line(f"fetched {n} files")
        print(f"report: {folder.absolute() / 'report.html'}")
        return End(DONE)

    def _cancel(self) -> None:
        """Cancel the step, if it was asked for; there may be one of which no answer told."""
        journal = self._journal
        if journal.asked and not journal.cluster:
            self._person.line("looking for the cluster that was asked for")
            journal.cluster = self._find() or ""
        if journal.cluster and not journal.step:
            step = clusters.find_run(self._aws, journal.cluster, journal.run)
            journal.step = str(step["Id"]) if step else ""
        if journal.step:
            said = clusters.cancel(self._aws, journal.cluster, journal.step)
            self._person.line(f"cancelling step {journal.step}: {said}")
            if self._stays:
                clusters.kill_application(self._aws, journal.cluster, journal.run)

    @property
    def _stays(self) -> bool:
        """Whether the cluster is there for more than this job."""
        return self._plan.settings.keep or not self._journal.owned

    def _leave(self) -> str:
        """Terminate the cluster if it is ours, nobody else's work is on it, and it is not to be kept.

        Returns:
            what a person should know of it.
        """
        journal = self._journal
        if not journal.owned or not journal.cluster:
            return ""
        ends = "it ends once it has been idle for long; `make emr-terminate` ends it now"
        if self._stays:
            return f"cluster {journal.cluster} is kept: {ends}"
        others = [
            step["Name"]
            for step in clusters.steps(self._aws, journal.cluster)
            if step["Status"]["State"] in UNDER_WAY and step["Id"] != journal.step
        ]
        if others:
            return f"cluster {journal.cluster} has other work ({', '.join(others)}): {ends}"
        if clusters.terminate(self._aws, journal.cluster):
            return f"terminated cluster {journal.cluster}"
        return ""

    def _explain(self) -> None:
        """Say why the job failed, once its logs have come."""
        logs, job = self._logs, self._plan.settings.job
        self._person.live("waiting for the logs")

        def look() -> str | None:
            return reason(logs.texts(), job)

        try:
            until = self._clock.now() + LOGS_S
            while (found := look()) is None and self._clock.now() < until:
                self._clock.sleep(LOGS_LOOK_S)
        except (InputError, KeyboardInterrupt) as error:
            found = str(error) or None
        address = self._plan.address(logs.prefix)
        self._person.error(found or f"no traceback is in the logs so far: `make emr-logs`, or {address}")
