"""Clusters and steps: found again by their tags, asked for once, and terminated if they are this project's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from common.errors import InputError
from emr.aws import ERRORS, Aws, Clock, code_of, explained, is_ambiguous, is_throttled
from emr.plan import RUN_TAG, Plan
from emr.settings import PROJECT

ACTIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
ENDED = {"TERMINATED", "TERMINATED_WITH_ERRORS"}
UNDER_WAY = {"PENDING", "RUNNING", "CANCEL_PENDING"}
ADOPTED = {"PENDING", "RUNNING"}
"""States of a step of the same name that a deployment goes on with, rather than add its own."""

SETTLE_S = 60
"""After so long, a cluster that was asked for is listed if there is one."""

LOOK_S = 5
ATTEMPTS = 6

Answer = TypeVar("Answer")
Record = dict[str, Any]


def tags_of(cluster: Record) -> dict[str, str]:
    """Tags by name."""
    return {tag["Key"]: tag.get("Value", "") for tag in cluster.get("Tags", [])}


def is_ours(cluster: Record) -> bool:
    """Whether this project started it."""
    return tags_of(cluster).get("project") == PROJECT


def describe(aws: Aws, cluster: str) -> Record:
    """A cluster's description.

    Raises:
        InputError: there is none of that id.
    """
    with explained(f"cluster {cluster}"):
        found: Record = aws.emr.describe_cluster(ClusterId=cluster)["Cluster"]
    return found


def listed(aws: Aws, states: list[str]) -> Iterator[Record]:
    """Clusters of this project in these states, newest first; all there are without states.

    Names are ours to begin with, which saves asking for the tags of everybody's clusters.
    """
    with explained("clusters"):
        wanted = {"ClusterStates": states} if states else {}
        pages = aws.emr.get_paginator("list_clusters").paginate(**wanted)
        named = [own for page in pages for own in page["Clusters"] if own["Name"].startswith(PROJECT)]
    named.sort(key=lambda own: own["Status"]["Timeline"]["CreationDateTime"], reverse=True)
    for own in named:
        cluster = describe(aws, own["Id"])
        if is_ours(cluster):
            yield cluster


def state_of(aws: Aws, cluster: str) -> str | None:
    """A cluster's state; None if Amazon EMR knows of none of that id, or has forgotten it."""
    try:
        return str(describe(aws, cluster)["Status"]["State"])
    except InputError as error:
        if isinstance(error.__cause__, ClientError) and code_of(error.__cause__) == "InvalidRequestException":
            return None
        raise


def steps(aws: Aws, cluster: str) -> list[Record]:
    """A cluster's steps, newest first."""
    with explained(f"steps of cluster {cluster}"):
        pages = aws.emr.get_paginator("list_steps").paginate(ClusterId=cluster)
        return [step for page in pages for step in page["Steps"]]


def find(aws: Aws, plan: Plan) -> str | None:
    """A cluster that an earlier attempt at this deployment left."""
    for cluster in listed(aws, ACTIVE):
        if tags_of(cluster).get("deployment") == plan.cluster_key:
            return str(cluster["Id"])
    return None


def run_of(step: Record) -> str:
    """The run that a step was asked for by."""
    tags = (word for word in step["Config"].get("Args", []) if word.startswith(RUN_TAG))
    return str(next(tags, RUN_TAG)).removeprefix(RUN_TAG)


def find_run(aws: Aws, cluster: str, run: str) -> Record | None:
    """The step that was asked for by a run, whatever became of it."""
    return next((step for step in steps(aws, cluster) if run and run_of(step) == run), None)


def find_alike(aws: Aws, plan: Plan, cluster: str) -> Record | None:
    """A step with the same work, under way or waiting."""
    alike = (step for step in steps(aws, cluster) if step["Name"] == plan.step_name)
    return next((step for step in alike if step["Status"]["State"] in ADOPTED), None)


def wait_for(clock: Clock, look: Callable[[], Answer | None], until: float) -> Answer | None:
    """Look again and again, at least once, until there is an answer or it is too late for one."""
    while (found := look()) is None and clock.now() < until:
        clock.sleep(LOOK_S)
    return found


def once(clock: Clock, what: str, ask: Callable[[], Answer], look: Callable[[], Answer | None]) -> Answer:
    """Ask for something that must not come into being twice.

    An answer that is lost on its way says nothing of whether the call had its effect; then only looking tells.

    Args:
        clock: to wait by.
        what: is asked for.
        ask: asks, once.
        look: finds what an attempt brought about, if it did.

    Raises:
        InputError: AWS refuses, or cannot be reached.
    """
    with explained(what):
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except ERRORS as error:
                throttled = isinstance(error, ClientError) and is_throttled(error)
                if is_ambiguous(error):
                    if (found := wait_for(clock, look, clock.now() + SETTLE_S)) is not None:
                        return found
                elif throttled:
                    clock.sleep(2.0**attempt)
                if attempt == ATTEMPTS - 1 or not (throttled or is_ambiguous(error)):
                    raise
    raise AssertionError("the last attempt returns or raises")


def create(aws: Aws, clock: Clock, plan: Plan, run: str) -> str:
    """Start a cluster with the step on it; its id."""
    return once(
        clock,
        "start a cluster",
        lambda: str(aws.emr_once.run_job_flow(**plan.cluster(run))["JobFlowId"]),
        lambda: find(aws, plan),
    )


def add_step(aws: Aws, clock: Clock, plan: Plan, cluster: str, run: str) -> str:
    """Add the step to a cluster that runs; its id."""
    request = plan.step(run)

    def look() -> str | None:
        step = find_run(aws, cluster, run)
        return str(step["Id"]) if step else None

    def ask() -> str:
        return str(aws.emr_once.add_job_flow_steps(JobFlowId=cluster, Steps=[request])["StepIds"][0])

    return once(clock, f"add a step to cluster {cluster}", ask, look)


def cancel(aws: Aws, cluster: str, step: str) -> str:
    """Cancel a step, running or not; what AWS says of it."""
    with explained(f"cancel step {step}"):
        said = aws.emr.cancel_steps(ClusterId=cluster, StepIds=[step], StepCancellationOption="TERMINATE_PROCESS")
    info: Record = next(iter(said.get("CancelStepsInfoList", [])), {})
    return str(info.get("Reason") or info.get("Status", "SUBMITTED").lower())


def kill_application(aws: Aws, cluster: str, run: str) -> None:
    """Have a cluster that stays kill what a cancelled step left to YARN; only the step's own process ended.

    Raises:
        InputError: no run is named: every application would be meant.
    """
    if not run:
        raise InputError("the step is none of this project's; what it left to YARN is not touched")
    listed = f"yarn application -list -appTags {shlex.quote(run)} -appStates ACCEPTED,RUNNING"
    kill = f"{listed} | grep -o '^application_[0-9_]*' | xargs -r -n 1 yarn application -kill"
    step = {
        "Name": f"kill {run}",
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": ["bash", "-c", kill]},
    }
    with explained(f"kill the application of {run}"):
        aws.emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])


def terminate(aws: Aws, cluster: str) -> bool:
    """Terminate a cluster of this project's, unless it has ended.

    Returns:
        whether there was anything to terminate.

    Raises:
        InputError: it is not this project's.
    """
    found = describe(aws, cluster)
    if not is_ours(found):
        raise InputError(f"cluster {cluster}: has not the tag project={PROJECT}, so it is not ours to terminate")
    if found["Status"]["State"] not in ACTIVE:
        return False
    with explained(f"terminate cluster {cluster}"):
        aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    return True
