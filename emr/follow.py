"""Waiting for a step, with back-off and a deadline, and telling how it ended from why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.exceptions import ClientError

from emr.aws import ERRORS, Aws, Clock, explained, is_ambiguous, is_throttled
from emr.clusters import ENDED, Record

DONE, FAILED, WRONG, TIMED_OUT, CANCELLED = 0, 1, 2, 3, 4
"""Exit codes."""

SOONEST_S, LATEST_S, SHARE = 1.0, 30.0, 0.1
"""Between looks passes a share of the seconds since something changed, within bounds."""

LAG_LOOKS = 3
"""How often a step may still seem to run after its cluster has ended."""


@dataclass(frozen=True)
class End:
    """How a step ended.

    Attributes:
        code: DONE, FAILED, WRONG, TIMED_OUT or CANCELLED.
        why: for a person; empty if all is well.
        step_failed: whether the job itself failed, so that its logs say more.
    """

    code: int
    why: str = ""
    step_failed: bool = False


class Teller(Protocol):
    """Tells a person."""

    def line(self, text: str) -> None:
        """Something happened."""

    def error(self, text: str) -> None:
        """Something went wrong, which even those want to hear who want quiet."""

    def live(self, text: str) -> None:
        """So it stands, until the next of these."""


def follow(
    aws: Aws,
    clock: Clock,
    tell: Teller,
    cluster: str,
    step: str,
    deadline: float,
    progress: Callable[[], str | None],
) -> End:
    """Wait until a step has ended, or the deadline has passed.

    Args:
        aws: the services.
        clock: to wait by.
        tell: hears of every change.
        cluster: its id.
        step: likewise.
        deadline: by the clock.
        progress: how far the job is, if that is known.

    Returns:
        how it ended.

    Raises:
        InputError: AWS refuses to say.
    """
    started = changed = clock.now()
    known, lagging, throttled = "", 0, False
    while True:
        try:
            # in this order: a step that was lost with its cluster is seen with the cluster's reason
            stepped = aws.emr.describe_step(ClusterId=cluster, StepId=step)["Step"]
            described = aws.emr.describe_cluster(ClusterId=cluster)["Cluster"]
        except ERRORS as error:
            if not (is_ambiguous(error) or (isinstance(error, ClientError) and is_throttled(error))):
                with explained(f"follow step {step}"):
                    raise
            throttled = True  # whatever it is that AWS has too much of, it will be less of it
        else:
            throttled = False
            state = f"cluster {described['Status']['State']}, step {stepped['Status']['State']}"
            if state != known:
                tell.line(f"{_minutes(clock.now() - started)}  {state}")
                known, changed = state, clock.now()
            ended = described["Status"]["State"] in ENDED
            end = verdict(described, stepped, final=ended and lagging >= LAG_LOOKS)
            if end is not None:
                return end
            lagging += ended
            far = progress() if stepped["Status"]["State"] == "RUNNING" else None
            tell.live(f"{_minutes(clock.now() - started)}  {state}{', ' + far if far else ''}")
        if clock.now() >= deadline:
            after = _minutes(clock.now() - started).strip()
            return End(TIMED_OUT, f"no end after {after}: {known or 'AWS does not answer'}")
        pause = LATEST_S if throttled else min(max(SHARE * (clock.now() - changed), SOONEST_S), LATEST_S)
        clock.sleep(min(pause, max(deadline - clock.now(), 0.0)))


def verdict(cluster: Record, step: Record, final: bool) -> End | None:
    """How a step ended, by what is said of it and of its cluster; None if it has not.

    Args:
        cluster: its description.
        step: likewise.
        final: whether the cluster ended long enough ago for the step's state to be believed.
    """
    state, over = step["Status"]["State"], cluster["Status"]["State"] in {*ENDED, "TERMINATING"}
    reason = cluster["Status"].get("StateChangeReason", {})
    by_user = reason.get("Code") == "USER_REQUEST"
    why = why_cluster(cluster)
    if state == "COMPLETED":
        return End(DONE)
    if state == "FAILED":
        return End(FAILED, why_step(step), step_failed=True)
    if state == "CANCELLED" and cluster["Status"]["State"] in {"STARTING", "BOOTSTRAPPING"}:
        return None  # either of the step alone or, as will show, because the cluster is failing
    if state == "CANCELLED":
        if over and not by_user and reason.get("Code"):
            return End(FAILED, f"the cluster failed before the job could run: {why}")
        return End(CANCELLED, "the step was cancelled" + (f": the cluster was terminated ({why})" if over else ""))
    if state == "INTERRUPTED" or final:
        if by_user:
            return End(CANCELLED, f"the cluster was terminated while the step was {state}: {why}")
        return End(FAILED, f"the cluster was lost while the step was {state}: {why}")
    return None


def why_step(step: Record) -> str:
    """What Amazon EMR knows of a step's failure."""
    details = step["Status"].get("FailureDetails", {})
    said = [details.get("Reason"), details.get("Message")]
    told = ": ".join(text for text in said if text) or "Amazon EMR gives no reason"
    message = step["Status"].get("StateChangeReason", {}).get("Message")
    log = f" (log: {details['LogFile']})" if details.get("LogFile") else ""
    return f"the step failed: {told}{'; ' + message if message else ''}{log}"


def why_cluster(cluster: Record) -> str:
    """Why a cluster is in the state it is in."""
    status: dict[str, Any] = cluster["Status"]
    reason = status.get("StateChangeReason", {})
    said = [status["State"], reason.get("Code"), reason.get("Message")]
    said += [f"{own.get('ErrorCode')}: {own.get('ErrorMessage')}" for own in status.get("ErrorDetails", [])]
    return ": ".join(text for text in said if text)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
