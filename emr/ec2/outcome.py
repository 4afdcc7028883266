"""How steps end, and why, in words."""

from __future__ import annotations

from typing import Any

from emr.follow import CANCELLED, DONE, FAILED, Outcome

ENDED = {"TERMINATED", "TERMINATED_WITH_ERRORS"}
"""States of clusters that are gone."""


def outcome_of(cluster: dict[str, Any], step: dict[str, Any], final: bool) -> Outcome | None:
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
        return Outcome(FAILED, describe_step_failure(step), work_failed=True)
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


def describe_step_failure(step: dict[str, Any]) -> str:
    """Return everything that Amazon EMR says about a step's failure, in one line."""
    details = step["Status"].get("FailureDetails", {})
    parts = [details.get("Reason"), details.get("Message")]
    reason = ": ".join(part for part in parts if part) or "Amazon EMR gives no reason"
    message = step["Status"].get("StateChangeReason", {}).get("Message")
    log = f" (log: {details['LogFile']})" if details.get("LogFile") else ""
    return f"the step failed: {reason}{'; ' + message if message else ''}{log}"


def describe_cluster_state(cluster: dict[str, Any]) -> str:
    """Return a cluster's state and the reasons for it, in one line."""
    status: dict[str, Any] = cluster["Status"]
    change = status.get("StateChangeReason", {})
    parts = [status["State"], change.get("Code"), change.get("Message")]
    parts += [
        f"{detail.get('ErrorCode')}: {detail.get('ErrorMessage')}" for detail in status.get("ErrorDetails", [])
    ]
    return ": ".join(part for part in parts if part)
