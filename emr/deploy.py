"""From a plan to results: upload, find or start a host, follow the work, fetch, and leave no host behind.

A host is a cluster or an application; work is a step or a job run (target.py).

Every call may be the last one that this process makes. So each request is noted in the journal (journal.py) before
it is sent, effects that must not happen twice are looked for before they are requested again
(once.py), and the same command continues wherever the last attempt ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from common.errors import JobError, RunError
from common.run.folder import LAST
from emr.aws import Aws, Clock, has_expired, is_ambiguous
from emr.bucket import Bucket
from emr.follow import CANCELLED, DONE, FAILED, WRONG, Outcome, Reporter
from emr.journal import Journal
from emr.logs import Logs, failure_reason, progress
from emr.once import SETTLE_S, poll
from emr.plan import Artefact, Plan
from emr.target import Target, Work, equal_to, of_run

AnyPlan = TypeVar("AnyPlan", bound=Plan)

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


class Deployment(Generic[AnyPlan]):
    """One job, from the plan to its results.

    Args:
        aws: the services.
        clock: measures time.
        target: runs the job.
        plan: the job and what it runs on.
        reporter: shows what happens.
        host: id of a host to submit to; "" finds or starts one.
    """

    def __init__(
        self,
        aws: Aws,
        clock: Clock,
        target: Target[AnyPlan],
        plan: AnyPlan,
        reporter: InteractiveReporter,
        host: str = "",
    ) -> None:
        self._clock = clock
        self._target = target
        self._plan = plan
        self._reporter = reporter
        self._bucket = Bucket(aws, plan.bucket)
        self._journal = Journal.of(plan, host)
        self._progress_read_at = 0.0
        self._last_progress: str | None = None

    def run(self) -> int:
        """Deploy, follow and clean up.

        Returns:
            the exit code.

        Raises:
            InputError: settings, permissions or input are wrong, and no host was started.
            RunError: credentials have expired or AWS does not answer. The host, if there is one, goes on.
        """
        try:
            outcome = self._begin() or self._follow()
        except KeyboardInterrupt:
            outcome = Outcome(CANCELLED, "interrupted")
        except JobError as error:
            if not self._journal.host:
                raise
            cause = error.__cause__
            if has_expired(cause) or is_ambiguous(cause):
                goes_on = f"{self._named_host} goes on, and the same command will follow it"
                raise RunError(f"{error}; {goes_on}") from cause
            outcome = Outcome(WRONG, str(error))
        return self._finish(outcome)

    @property
    def _named_host(self) -> str:
        return f"{self._target.host} {self._journal.host}"

    def _begin(self) -> Outcome | None:
        """Get the work onto a host, or find what an earlier attempt left there.

        Returns:
            the outcome, if the job has ended and only the rest is left to do.
        """
        journal, reporter, target = self._journal, self._reporter, self._target
        if journal.ended is not None:
            return Outcome(*journal.ended)
        known = target.look(journal.host) if journal.host else None
        if journal.work and known is not None:
            reporter.info(f"continuing with {target.work} {journal.work} on {self._named_host}")
            return None
        if journal.owned and not (known and known.active):
            journal.host, journal.work, journal.deadline = "", "", 0.0
        self._check()
        self._upload()
        host = journal.host or self._find_host()
        if host is None and self._has_results():
            reporter.info("the job that an earlier attempt requested is done")
            return Outcome(DONE)
        work = self._find_work(host) if host else None
        if host and work:
            reporter.info(f"continuing with {target.work} {work.id} on {target.host} {host}")
            journal.host, journal.work, journal.run = host, work.id, work.run
        elif host:
            reporter.info(f"adding a {target.work} to {target.host} {host}")
            # a request of an earlier attempt, whose answer was lost, had this run's name
            journal.run = journal.run if journal.host and journal.run else self._plan.new_run(self._clock.now())
            journal.host = host
            journal.save()
            journal.work = target.add(self._plan, host, journal.run)
        else:
            journal.run = self._plan.new_run(self._clock.now())
            journal.asked = self._clock.now()
            journal.save()
            self._create()
            journal.work = target.begin(self._plan, journal.host, journal.run)
        journal.save()
        return None

    def _check(self) -> None:
        """Check everything that could fail, before anything is started."""
        self._plan.check(starts_host=self._journal.owned)
        if self._bucket.ensure(ours=not self._plan.settings.bucket):
            self._reporter.info(f"bucket {self._plan.bucket} was made: private, encrypted")
        for note in self._target.preflight(self._plan) if self._journal.owned else []:
            self._reporter.info(note)

    def _create(self) -> None:
        """Start a host."""
        journal = self._journal
        try:
            journal.host = self._target.create(self._plan, journal.run)
        except JobError as error:
            if not is_ambiguous(error.__cause__):
                journal.forget()  # the request was refused, so that there is no host to look for
            raise
        self._reporter.info(f"started {self._named_host}: {self._plan.machines()}")
        journal.save()

    def _find_host(self) -> str | None:
        """Return the id of an earlier attempt's host. One that was requested just now gets time to appear."""
        until = self._journal.asked + SETTLE_S
        return poll(self._clock, lambda: self._target.find(self._plan), until)

    def _find_work(self, host: str) -> Work | None:
        """Return the work that an earlier attempt requested; on a host of ours, any equal work that goes on."""
        works = self._target.works(host)
        work = of_run(works, self._journal.run)
        return equal_to(works, self._plan) if work is None and self._journal.owned else work

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
        """Wait for the work, unless the user gives up."""
        journal = self._journal
        if not journal.deadline:
            journal.deadline = self._clock.now() + 60 * self._plan.settings.timeout_minutes
            journal.save()
        while True:
            try:
                return self._target.follow(
                    self._reporter, journal.host, journal.work, journal.deadline, self._progress
                )
            except KeyboardInterrupt:
                if self._reporter.confirm_stop():
                    raise

    def _progress(self) -> str | None:
        """Return how far the job is, according to the logs that have arrived."""
        if self._clock.now() >= self._progress_read_at + PROGRESS_S:
            self._progress_read_at = self._clock.now()
            with suppress(JobError):  # following the work matters more
                self._last_progress = progress(self._logs.texts())
        return self._last_progress

    @cached_property
    def _logs(self) -> Logs:
        return self._target.logs(self._journal.host, self._journal.work)

    def _finish(self, outcome: Outcome) -> int:
        """Fetch the results, or cancel what still runs; then end the host if it is ours.

        Returns:
            the exit code.

        Raises:
            RunError: the results cannot be fetched; the same command tries again.
        """
        reporter, failure = self._reporter, None
        if outcome.reason:
            reporter.error(outcome.reason)
        if outcome.code in (DONE, FAILED):
            self._journal.ended = (outcome.code, outcome.reason, outcome.work_failed)
            self._journal.save()
        if outcome.code == DONE:
            try:
                outcome = self._fetch()
            except JobError as error:
                failure = error
        elif not outcome.work_failed:
            try:
                self._cancel()
            except JobError as error:
                reporter.error(str(error))
        try:
            try:
                note = self._release_host()
            except KeyboardInterrupt:
                reporter.error(f"{self._named_host} is still to be ended; Ctrl-C once more leaves it as it is")
                note = self._release_host()
        except JobError as error:
            reporter.error(f"{error}; `make emr-list` shows what runs, and the same command goes on from here")
            return outcome.code or WRONG
        if failure is not None:
            raise RunError(str(failure)) from failure
        if outcome.work_failed:
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
                results = self._plan.address(self._results)
                reason = f"the {self._target.work} completed, but left no run folder at {results}"
                self._reporter.error(reason)
                return Outcome(FAILED, reason)
            n_files = self._bucket.fetch(self._results, folder)
            self._reporter.info(f"fetched {n_files} files")
        print(f"report: {folder.absolute() / 'report.html'}")
        return Outcome(DONE)

    def _cancel(self) -> None:
        """Cancel the work, if any was requested. Look for it if no answer to the request came."""
        journal, target = self._journal, self._target
        if journal.asked and not journal.host:
            self._reporter.info(f"looking for the {target.host} that was requested")
            journal.host = self._find_host() or ""
        works = target.works(journal.host) if journal.host else []
        work = next((work for work in works if work.id == journal.work), None) or of_run(works, journal.run)
        if work is None and journal.work:  # it may be too new to be listed
            work = Work(journal.work, self._plan.work_name, journal.run, "unknown", under_way=True)
        if work:
            journal.work = work.id
            answer = target.cancel(journal.host, work, self._host_stays)
            self._reporter.info(f"cancelling {target.work} {work.id}: {answer}")

    @property
    def _host_stays(self) -> bool:
        """True if the host is not ended after this job."""
        return self._plan.settings.keep or not self._journal.owned

    def _release_host(self) -> str:
        """End the host if it is ours, is not to be kept, and has no other work.

        Returns:
            a note for the user, or "".
        """
        journal, target = self._journal, self._target
        known = target.look(journal.host) if journal.owned and journal.host else None
        if known is None or not known.active:
            return ""
        later = f"{target.idle}; `make emr-terminate` ends it now"
        if self._host_stays:
            return f"{self._named_host} is kept: {later}"
        works = target.works(journal.host)
        others = [work.name for work in works if work.under_way and work.id != journal.work]
        if others:
            return f"{self._named_host} has other work ({', '.join(others)}): {later}"
        if target.end(journal.host):
            return f"terminated {self._named_host}"
        return ""

    def _explain_failure(self) -> None:
        """Show why the job failed, once its logs have arrived."""
        job, place = self._plan.settings.job, ""
        self._reporter.status("waiting for the logs")
        try:
            logs = self._logs
            place = f", or {logs.address}"
            reason = poll(
                self._clock,
                lambda: failure_reason(logs.texts(), job),
                self._clock.now() + LOGS_WAIT_S,
                LOGS_POLL_S,
            )
        except (JobError, KeyboardInterrupt) as error:
            reason = str(error) or None
        journal, target, service = self._journal, self._target, self._plan.settings.target
        named = f"--{target.host} {journal.host} --{target.work.replace(' ', '-')} {journal.work}"
        later = f"`python -m emr logs --target {service} {named}`{place}"
        self._reporter.error(reason or f"no traceback is in the logs yet: {later}")


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
