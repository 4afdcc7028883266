"""From a plan to results: upload, find or start a cluster, follow the step, fetch, and leave no cluster behind.

Every call may be the last one that this process makes. So each request is noted in the journal (journal.py) before
it is sent, effects that must not happen twice are looked for before they are requested again
(clusters.request_once), and the same command continues wherever the last attempt ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from common.errors import JobError, RunError
from common.run.folder import LAST
from emr import clusters
from emr.aws import Aws, Clock, has_expired, is_ambiguous
from emr.bucket import Bucket
from emr.clusters import UNDER_WAY, Record
from emr.follow import CANCELLED, DONE, FAILED, WRONG, Outcome, Reporter, follow
from emr.journal import Journal
from emr.logs import Logs, failure_reason, progress
from emr.plan import Artefact, Plan
from emr.preflight import preflight

LOGS_WAIT_S, LOGS_POLL_S = 360, 15
"""How long to wait for the logs of a failed step, and how often to look: they arrive 3 to 4 minutes late."""

PROGRESS_S = 60
"""Seconds between two looks into the logs of a running step."""


class InteractiveReporter(Reporter, Protocol):
    """Shows messages and progress to the user, and asks."""

    def upload_bar(self, what: str, size: int) -> Callable[[int], None]:
        """Show a progress bar of `size` bytes; the returned function advances it."""

    def confirm_stop(self) -> bool:
        """Return True if the user who pressed Ctrl-C wants to give up, and False to go on following."""


class Deployment:
    """One job, from the plan to its results.

    Args:
        aws: the services.
        clock: measures time.
        plan: the job and its cluster.
        reporter: shows what happens.
        cluster: id of a cluster to submit to; "" finds or starts one.
    """

    def __init__(
        self, aws: Aws, clock: Clock, plan: Plan, reporter: InteractiveReporter, cluster: str = ""
    ) -> None:
        self._aws = aws
        self._clock = clock
        self._plan = plan
        self._reporter = reporter
        self._bucket = Bucket(aws, plan.bucket)
        self._journal = Journal.of(plan, cluster)
        self._progress_read_at = 0.0
        self._last_progress: str | None = None

    def run(self) -> int:
        """Deploy, follow and clean up.

        Returns:
            the exit code.

        Raises:
            InputError: settings, permissions or input are wrong, and no cluster was started.
            RunError: credentials have expired or AWS does not answer. The cluster, if there is one, goes on.
        """
        try:
            outcome = self._begin() or self._follow()
        except KeyboardInterrupt:
            outcome = Outcome(CANCELLED, "interrupted")
        except JobError as error:
            if not self._journal.cluster:
                raise
            cause = error.__cause__
            if has_expired(cause) or is_ambiguous(cause):
                goes_on = f"cluster {self._journal.cluster} goes on, and the same command will follow it"
                raise RunError(f"{error}; {goes_on}") from cause
            outcome = Outcome(WRONG, str(error))
        return self._finish(outcome)

    def _begin(self) -> Outcome | None:
        """Get the step onto a cluster, or find the one that an earlier attempt left there.

        Returns:
            the outcome, if the job is done and only its results are left to fetch.
        """
        journal, reporter = self._journal, self._reporter
        state = clusters.state_of(self._aws, journal.cluster) if journal.cluster else None
        if journal.step and state is not None:
            reporter.info(f"continuing with step {journal.step} on cluster {journal.cluster}")
            return None
        if journal.owned and state not in clusters.ACTIVE:
            journal.cluster, journal.step, journal.deadline = "", "", 0.0
        for note in preflight(self._aws, self._plan, starts_cluster=journal.owned):
            reporter.info(note)
        self._upload()
        cluster = journal.cluster or self._find_cluster()
        if cluster is None and self._has_results():
            reporter.info("the job that an earlier attempt requested is done")
            return Outcome(DONE)
        step = self._find_step(cluster) if cluster else None
        if cluster and step:
            reporter.info(f"continuing with step {step['Id']} on cluster {cluster}")
            journal.run = clusters.run_name(step)
        elif cluster:
            reporter.info(f"adding a step to cluster {cluster}")
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
        """Start a cluster with the step; return the cluster's id and the step."""
        journal = self._journal
        try:
            cluster = clusters.create(self._aws, self._clock, self._plan, journal.run)
        except JobError as error:
            if not is_ambiguous(error.__cause__):
                journal.forget()  # the request was refused, so that there is no cluster to look for
            raise
        self._reporter.info(f"started cluster {cluster}: {self._plan.machines()}")
        journal.cluster = cluster
        journal.save()
        step = clusters.poll(
            self._clock,
            lambda: clusters.find_step_of_run(self._aws, cluster, journal.run),
            self._clock.now() + clusters.SETTLE_S,
        )
        if step is None:
            raise RunError(f"cluster {cluster} was started, but not the step on it")
        return cluster, step

    def _find_cluster(self) -> str | None:
        """Return the id of an earlier attempt's cluster. One that was requested just now gets time to appear."""
        until = self._journal.asked + clusters.SETTLE_S
        return clusters.poll(self._clock, lambda: clusters.find_cluster(self._aws, self._plan), until)

    def _find_step(self, cluster: str) -> Record | None:
        """Return the step that an earlier attempt requested; on a cluster of ours, any equal step that goes on."""
        step = clusters.find_step_of_run(self._aws, cluster, self._journal.run)
        if step is None and self._journal.owned:
            return clusters.find_equal_step(self._aws, self._plan, cluster)
        return step

    def _has_results(self) -> bool:
        """Return True if the whole run folder is on S3."""
        return bool(self._journal.run) and self._bucket.has(self._results + LAST)

    @property
    def _results(self) -> str:
        """Prefix of the run folder on S3."""
        return f"{self._plan.settings.runs}{self._journal.run}/"

    def _upload(self) -> None:
        """Upload the artefacts that S3 does not have yet."""
        for artefact in self._plan.artefacts:
            if self._bucket.has(artefact.key):
                continue
            self._reporter.status(f"packing {artefact.what}")
            with tempfile.TemporaryDirectory(prefix="emr-") as folder:
                path = _made(artefact, Path(folder))
                size = path.stat().st_size
                self._bucket.upload(artefact.key, path, self._reporter.upload_bar(artefact.what, size))
            self._reporter.info(f"uploaded {artefact.what}: {size / 1e6:.1f} MB")

    def _follow(self) -> Outcome:
        """Wait for the step, unless the user gives up."""
        journal = self._journal
        if not journal.deadline:
            journal.deadline = self._clock.now() + 60 * self._plan.settings.timeout_minutes
            journal.save()
        while True:
            try:
                return follow(
                    self._aws,
                    self._clock,
                    self._reporter,
                    journal.cluster,
                    journal.step,
                    journal.deadline,
                    self._progress,
                )
            except KeyboardInterrupt:
                if self._reporter.confirm_stop():
                    raise

    def _progress(self) -> str | None:
        """Return how far the job is, according to the logs that have arrived."""
        if self._clock.now() >= self._progress_read_at + PROGRESS_S:
            self._progress_read_at = self._clock.now()
            with suppress(JobError):  # following the step matters more
                self._last_progress = progress(self._logs.texts())
        return self._last_progress

    @cached_property
    def _logs(self) -> Logs:
        return Logs(self._bucket, f"{self._plan.settings.logs}{self._journal.cluster}/", self._journal.step)

    def _finish(self, outcome: Outcome) -> int:
        """Fetch the results, or cancel what still runs; then terminate the cluster if it is ours.

        Returns:
            the exit code.

        Raises:
            RunError: the results cannot be fetched; the same command tries again.
        """
        reporter, failure = self._reporter, None
        if outcome.reason:
            reporter.error(outcome.reason)
        if outcome.code == DONE:
            try:
                outcome = self._fetch()
            except JobError as error:
                failure = error
        elif not outcome.step_failed:
            try:
                self._cancel()
            except JobError as error:
                reporter.error(str(error))
        try:
            note = self._release_cluster()
        except JobError as error:
            reporter.error(f"{error}; `make emr-list` shows what runs, and the same command goes on from here")
            return outcome.code or WRONG
        if failure is not None:
            raise RunError(str(failure)) from failure
        if outcome.step_failed:
            self._explain_failure()
        if note:
            reporter.info(note)
        self._journal.forget()
        return outcome.code

    def _fetch(self) -> Outcome:
        """Fetch the run folder to this machine, unless it is here already, and print where the results are."""
        if self._plan.table:
            print(f"table: {self._plan.table}")
            return Outcome(DONE)
        folder = Path(self._plan.settings.fetch_to) / self._journal.run
        if not folder.exists():
            if not self._has_results():
                reason = f"the step completed, but left no run folder at {self._plan.address(self._results)}"
                self._reporter.error(reason)
                return Outcome(FAILED, reason)
            n_files = self._bucket.fetch(self._results, folder)
            self._reporter.info(f"fetched {n_files} files")
        print(f"report: {folder.absolute() / 'report.html'}")
        return Outcome(DONE)

    def _cancel(self) -> None:
        """Cancel the step, if one was requested. Look for it if no answer to the request came."""
        journal = self._journal
        if journal.asked and not journal.cluster:
            self._reporter.info("looking for the cluster that was requested")
            journal.cluster = self._find_cluster() or ""
        if journal.cluster and not journal.step:
            step = clusters.find_step_of_run(self._aws, journal.cluster, journal.run)
            journal.step = str(step["Id"]) if step else ""
        if journal.step:
            answer = clusters.cancel(self._aws, journal.cluster, journal.step)
            self._reporter.info(f"cancelling step {journal.step}: {answer}")
            if self._cluster_stays:
                clusters.kill_application(self._aws, journal.cluster, journal.run)

    @property
    def _cluster_stays(self) -> bool:
        """True if the cluster is not terminated after this job."""
        return self._plan.settings.keep or not self._journal.owned

    def _release_cluster(self) -> str:
        """Terminate the cluster if it is ours, is not to be kept, and has no other work.

        Returns:
            a note for the user, or "".
        """
        journal = self._journal
        if not journal.owned or not journal.cluster:
            return ""
        later = "it ends after `idle_minutes` without work; `make emr-terminate` ends it now"
        if self._cluster_stays:
            return f"cluster {journal.cluster} is kept: {later}"
        others = [
            step["Name"]
            for step in clusters.list_steps(self._aws, journal.cluster)
            if step["Status"]["State"] in UNDER_WAY and step["Id"] != journal.step
        ]
        if others:
            return f"cluster {journal.cluster} has other work ({', '.join(others)}): {later}"
        if clusters.terminate(self._aws, journal.cluster):
            return f"terminated cluster {journal.cluster}"
        return ""

    def _explain_failure(self) -> None:
        """Show why the job failed, once its logs have arrived."""
        logs, job = self._logs, self._plan.settings.job
        self._reporter.status("waiting for the logs")
        try:
            reason = clusters.poll(
                self._clock,
                lambda: failure_reason(logs.texts(), job),
                self._clock.now() + LOGS_WAIT_S,
                LOGS_POLL_S,
            )
        except (JobError, KeyboardInterrupt) as error:
            reason = str(error) or None
        address = self._plan.address(logs.prefix)
        self._reporter.error(reason or f"no traceback is in the logs yet: `make emr-logs`, or {address}")


def _made(artefact: Artefact, folder: Path) -> Path:
    """Make an artefact's file in `folder`, or find it elsewhere.

    Raises:
        InputError: a file that it is made of cannot be read.
        RunError: it cannot be written.
    """
    try:
        return artefact.make(folder)
    except OSError as error:
        raise RunError(f"{artefact.what}: cannot be packed ({error})") from error
