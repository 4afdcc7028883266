"""Clusters and steps: found again by their tags, requested only once, and terminated only if they are ours."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from common.errors import InputError
from emr.aws import CALL_ERRORS, Aws, Clock, code_of, explained, is_ambiguous, is_throttled
from emr.plan import RUN_TAG, Plan
from emr.settings import PROJECT

ACTIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
"""States of clusters that take steps."""

ENDED = {"TERMINATED", "TERMINATED_WITH_ERRORS"}
UNDER_WAY = {"PENDING", "RUNNING", "CANCEL_PENDING"}
"""States of steps that have not ended."""

ADOPTED = {"PENDING", "RUNNING"}
"""States of an equal step that a deployment continues with instead of adding its own."""

SETTLE_S = 60
"""Seconds after which a cluster or step that was requested is listed, if the request had its effect."""

POLL_S = 5
"""Seconds between two lookups."""

MAX_ATTEMPTS = 6

Answer = TypeVar("Answer")
Record = dict[str, Any]
"""A cluster or a step as the API describes it."""


def tags_of(cluster: Record) -> dict[str, str]:
    """Return a cluster's tags by name."""
    return {tag["Key"]: tag.get("Value", "") for tag in cluster.get("Tags", [])}


def is_ours(cluster: Record) -> bool:
    """Return True if this project started the cluster."""
    return tags_of(cluster).get("project") == PROJECT


def describe(aws: Aws, cluster_id: str) -> Record:
    """Return a cluster's description.

    Raises:
        InputError: there is no cluster with this id.
    """
    with explained(f"cluster {cluster_id}"):
        cluster: Record = aws.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    return cluster


def list_ours(aws: Aws, states: list[str]) -> Iterator[Record]:
    """Yield this project's clusters, newest first.

    Tags are requested only for clusters whose names begin with the project's, which saves calls in accounts with
    many clusters.

    Args:
        aws: the services.
        states: states to select; an empty list selects all.
    """
    with explained("clusters"):
        selection = {"ClusterStates": states} if states else {}
        pages = aws.emr.get_paginator("list_clusters").paginate(**selection)
        summaries = [
            summary for page in pages for summary in page["Clusters"] if summary["Name"].startswith(PROJECT)
        ]
    summaries.sort(key=lambda summary: summary["Status"]["Timeline"]["CreationDateTime"], reverse=True)
    for summary in summaries:
        cluster = describe(aws, summary["Id"])
        if is_ours(cluster):
            yield cluster


def state_of(aws: Aws, cluster_id: str) -> str | None:
    """Return a cluster's state, or None if Amazon EMR does not know the id or has forgotten it."""
    try:
        return str(describe(aws, cluster_id)["Status"]["State"])
    except InputError as error:
        if isinstance(error.__cause__, ClientError) and code_of(error.__cause__) == "InvalidRequestException":
            return None
        raise


def list_steps(aws: Aws, cluster_id: str) -> list[Record]:
    """Return a cluster's steps, newest first."""
    with explained(f"steps of cluster {cluster_id}"):
        pages = aws.emr.get_paginator("list_steps").paginate(ClusterId=cluster_id)
        return [step for page in pages for step in page["Steps"]]


def find_cluster(aws: Aws, plan: Plan) -> str | None:
    """Return the id of an active cluster that an earlier attempt at this deployment left, or None."""
    for cluster in list_ours(aws, ACTIVE):
        if tags_of(cluster).get("deployment") == plan.cluster_key:
            return str(cluster["Id"])
    return None


def run_name(step: Record) -> str:
    """Return the name of the run that a step belongs to; "" if the step is not this project's."""
    tags = (word for word in step["Config"].get("Args", []) if word.startswith(RUN_TAG))
    return str(next(tags, RUN_TAG)).removeprefix(RUN_TAG)


def find_step_of_run(aws: Aws, cluster_id: str, run: str) -> Record | None:
    """Return the step of a run, in whatever state, or None."""
    return next((step for step in list_steps(aws, cluster_id) if run and run_name(step) == run), None)


def find_equal_step(aws: Aws, plan: Plan, cluster_id: str) -> Record | None:
    """Return a step that does the same work and has not ended, or None."""
    equal = (step for step in list_steps(aws, cluster_id) if step["Name"] == plan.step_name)
    return next((step for step in equal if step["Status"]["State"] in ADOPTED), None)


def poll(
    clock: Clock, lookup: Callable[[], Answer | None], until: float, interval: float = POLL_S
) -> Answer | None:
    """Call `lookup` at least once, until it gives something other than None or the time is up.

    Args:
        clock: measures time.
        lookup: returns None as long as there is nothing to find.
        until: the time, by the clock, at which to give up.
        interval: seconds between two calls.
    """
    while (found := lookup()) is None and clock.now() < until:
        clock.sleep(interval)
    return found


def request_once(
    clock: Clock, what: str, request: Callable[[], Answer], lookup: Callable[[], Answer | None]
) -> Answer:
    """Send a request whose effect must not happen twice.

    If its answer is lost, nobody knows whether the request had its effect. Then only looking for the effect tells
    whether the request has to be sent again.

    Args:
        clock: measures time.
        what: what is requested; messages begin with it.
        request: sends the request, without retries.
        lookup: returns what an earlier attempt brought about, or None.

    Raises:
        InputError: AWS refuses.
        RunError: AWS cannot be reached, or keeps failing.
    """
    with explained(what):
        for attempt in range(MAX_ATTEMPTS):
            try:
                return request()
            except CALL_ERRORS as error:
                throttled = isinstance(error, ClientError) and is_throttled(error)
                if is_ambiguous(error):
                    if (found := poll(clock, lookup, clock.now() + SETTLE_S)) is not None:
                        return found
                elif throttled:
                    clock.sleep(2.0**attempt)
                if attempt == MAX_ATTEMPTS - 1 or not (throttled or is_ambiguous(error)):
                    raise
    raise AssertionError("the last attempt returns or raises")


def create(aws: Aws, clock: Clock, plan: Plan, run: str) -> str:
    """Start a cluster that runs the step; return the cluster's id."""
    return request_once(
        clock,
        "start a cluster",
        lambda: str(aws.emr_once.run_job_flow(**plan.cluster(run))["JobFlowId"]),
        lambda: find_cluster(aws, plan),
    )


def add_step(aws: Aws, clock: Clock, plan: Plan, cluster_id: str, run: str) -> str:
    """Add the step to an active cluster; return the step's id."""
    step_request = plan.step(run)

    def lookup() -> str | None:
        step = find_step_of_run(aws, cluster_id, run)
        return str(step["Id"]) if step else None

    def request() -> str:
        answer = aws.emr_once.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step_request])
        return str(answer["StepIds"][0])

    return request_once(clock, f"add a step to cluster {cluster_id}", request, lookup)


def cancel(aws: Aws, cluster_id: str, step_id: str) -> str:
    """Cancel a step, whether it runs or waits; return AWS's answer as text."""
    with explained(f"cancel step {step_id}"):
        answer = aws.emr.cancel_steps(
            ClusterId=cluster_id, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS"
        )
    info: Record = next(iter(answer.get("CancelStepsInfoList", [])), {})
    return str(info.get("Reason") or info.get("Status", "SUBMITTED").lower())


def kill_application(aws: Aws, cluster_id: str, run: str) -> None:
    """Add a step that kills the YARN application of a cancelled step, for clusters that stay.

    Cancelling a step ends only its own process; the application would go on.

    Raises:
        InputError: `run` is empty, which would select every application.
    """
    if not run:
        raise InputError("the step is none of this project's; its YARN application is not touched")
    applications = f"yarn application -list -appTags {shlex.quote(run)} -appStates ACCEPTED,RUNNING"
    kill = f"{applications} | grep -o '^application_[0-9_]*' | xargs -r -n 1 yarn application -kill"
    step = {
        "Name": f"kill {run}",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["bash", "-c", kill]},
    }
    with explained(f"kill the application of {run}"):
        aws.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])


def terminate(aws: Aws, cluster_id: str) -> bool:
    """Terminate a cluster of this project's, unless it has ended.

    Returns:
        True if the cluster was active.

    Raises:
        InputError: the cluster is not this project's.
    """
    cluster = describe(aws, cluster_id)
    if not is_ours(cluster):
        raise InputError(f"cluster {cluster_id}: lacks the tag project={PROJECT}, so it is not ours to terminate")
    if cluster["Status"]["State"] not in ACTIVE:
        return False
    with explained(f"terminate cluster {cluster_id}"):
        aws.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    return True
