"""Waiting for a step, with back-off and a deadline, and the outcome of its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import ClientError

from emr.aws import CALL_ERRORS, Aws, Clock, explained, is_ambiguous, is_throttled
from emr.clusters import ENDED, Record

DONE, FAILED, WRONG, TIMED_OUT, CANCELLED = 0, 1, 2, 3, 4
"""Exit codes: 0 done, 1 the job or its cluster failed, 2 something else was wrong, 3 timeout, 4 cancelled."""

MIN_PAUSE_S, MAX_PAUSE_S, PAUSE_SHARE = 1.0, 30.0, 0.1
"""The pause between two polls is a share of the seconds since the last change, within bounds."""

LAG_POLLS = 3
"""How many polls may still show a step as running after its cluster has ended."""


@dataclass(frozen=True)
class Outcome:
    """The end of a step.

    Attributes:
        code: DONE, FAILED, WRONG, TIMED_OUT or CANCELLED.
        reason: the reason, for people; empty if the step completed.
        step_failed: whether the job itself failed, so that its logs say more.
    """

    code: int
    reason: str = ""
    step_failed: bool = False


class Reporter(Protocol):
    """Shows messages to the user."""

    def info(self, text: str) -> None:
        """Show an event, unless the user wants quiet."""

    def error(self, text: str) -> None:
        """Show an error, even if the user wants quiet."""

    def status(self, text: str) -> None:
        """Show the current state, which the next message replaces."""


def follow(
    aws: Aws,
    clock: Clock,
    reporter: Reporter,
    cluster_id: str,
    step_id: str,
    deadline: float,
    progress: Callable[[], str | None],
) -> Outcome:
    """Wait until a step has ended or the deadline has passed.

    Args:
        aws: the services.
        clock: measures time.
        reporter: shows every change.
        cluster_id: the cluster's id.
        step_id: the step's id.
        deadline: the time, by the clock, at which to give up.
        progress: returns how far the job is, or None if that is unknown.

    Returns:
        how the step ended.

    Raises:
        InputError: AWS refuses the calls.
    """
    started = changed = clock.now()
    last_state, polls_after_end, throttled = "", 0, False
    while True:
        try:
            # in this order, so that a step that was lost with its cluster is seen with the cluster's reason
            step = aws.emr.describe_step(ClusterId=cluster_id, StepId=step_id)["Step"]
            cluster = aws.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
        except CALL_ERRORS as error:
            if not (is_ambiguous(error) or (isinstance(error, ClientError) and is_throttled(error))):
                with explained(f"follow step {step_id}"):
                    raise
            throttled = True  # a longer pause helps in either case
        else:
            throttled = False
            state = f"cluster {cluster['Status']['State']}, step {step['Status']['State']}"
            if state != last_state:
                reporter.info(f"{_minutes(clock.now() - started)}  {state}")
                last_state, changed = state, clock.now()
            cluster_ended = cluster["Status"]["State"] in ENDED
            outcome = outcome_of(cluster, step, final=cluster_ended and polls_after_end >= LAG_POLLS)
            if outcome is not None:
                return outcome
            polls_after_end += cluster_ended
            done_so_far = progress() if step["Status"]["State"] == "RUNNING" else None
            suffix = f", {done_so_far}" if done_so_far else ""
            reporter.status(f"{_minutes(clock.now() - started)}  {state}{suffix}")
        if clock.now() >= deadline:
            elapsed = _minutes(clock.now() - started).strip()
            return Outcome(TIMED_OUT, f"no end after {elapsed}: {last_state or 'AWS does not answer'}")
        clock.sleep(min(_pause(clock.now() - changed, throttled), max(deadline - clock.now(), 0.0)))


def _pause(unchanged_s: float, throttled: bool) -> float:
    """Return the seconds to wait before the next poll."""
    return MAX_PAUSE_S if throttled else min(max(PAUSE_SHARE * unchanged_s, MIN_PAUSE_S), MAX_PAUSE_S)


def outcome_of(cluster: Record, step: Record, final: bool) -> Outcome | None:
    """Return how a step ended, or None if it has not ended.

    Args:
        cluster: the cluster's description.
        step: the step's description.
        final: whether the cluster ended so long ago that the state of the step will not change any more.
    """
    state, over = step["Status"]["State"], cluster["Status"]["State"] in {*ENDED, "TERMINATING"}
    change = cluster["Status"].get("StateChangeReason", {})
    by_user = change.get("Code") == "USER_REQUEST"
    described = describe_cluster_state(cluster)
    if state == "COMPLETED":
        return Outcome(DONE)
    if state == "FAILED":
        return Outcome(FAILED, describe_step_failure(step), step_failed=True)
    if state == "CANCELLED" and cluster["Status"]["State"] in {"STARTING", "BOOTSTRAPPING"}:
        return None  # either the step alone was cancelled or, as the next polls will show, the cluster is failing
    if state == "CANCELLED":
        if over and not by_user and change.get("Code"):
            return Outcome(FAILED, f"the cluster failed before the job could run: {described}")
        suffix = f": the cluster was terminated ({described})" if over else ""
        return Outcome(CANCELLED, f"the step was cancelled{suffix}")
    if state == "INTERRUPTED" or final:
        if by_user:
            return Outcome(CANCELLED, f"the cluster was terminated while the step was {state}: {described}")
        return Outcome(FAILED, f"the cluster was lost while the step was {state}: {described}")
    return None


def describe_step_failure(step: Record) -> str:
    """Return everything that Amazon EMR says about a step's failure, in one line."""
    details = step["Status"].get("FailureDetails", {})
    parts = [details.get("Reason"), details.get("Message")]
    reason = ": ".join(part for part in parts if part) or "Amazon EMR gives no reason"
    message = step["Status"].get("StateChangeReason", {}).get("Message")
    log = f" (log: {details['LogFile']})" if details.get("LogFile") else ""
    return f"the step failed: {reason}{'; ' + message if message else ''}{log}"


def describe_cluster_state(cluster: Record) -> str:
    """Return a cluster's state and the reasons for it, in one line."""
    status: dict[str, Any] = cluster["Status"]
    change = status.get("StateChangeReason", {})
    parts = [status["State"], change.get("Code"), change.get("Message")]
    parts += [
        f"{detail.get('ErrorCode')}: {detail.get('ErrorMessage')}" for detail in status.get("ErrorDetails", [])
    ]
    return ": ".join(part for part in parts if part)


def _minutes(seconds: float) -> str:
    """Return a duration as minutes:seconds."""
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
