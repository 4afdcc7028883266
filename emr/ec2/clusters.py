"""Clusters and steps: found again by their tags, requested only once, and terminated only if they are ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from common.errors import InputError, RunError
from emr.aws import Aws, Clock, code_of, explained
from emr.bucket import Bucket, project_bucket
from emr.ec2.logs import StepLogs
from emr.ec2.outcome import ENDED, describe_cluster_state, describe_step_failure, outcome_of
from emr.ec2.plan import RUN_TAG, ClusterPlan
from emr.ec2.preflight import preflight
from emr.follow import Outcome, Reporter, Seen, follow
from emr.once import SETTLE_S, poll, request_once
from emr.settings import PROJECT, Settings
from emr.target import Host, Work, of_run

ACTIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
"""States of clusters that take steps."""

UNDER_WAY = {"PENDING", "RUNNING", "CANCEL_PENDING"}
"""States of steps that have not ended."""

LAG_POLLS = 3
"""How many polls may still show a step as running after its cluster has ended."""

LOG_ADDRESS = re.compile(r"s3[an]?://([^/]+)/*(.*?)/*")
"""Matches the address of a cluster's logs: bucket and prefix. Amazon EMR answers with s3n for s3."""

Record = dict[str, Any]
"""A cluster or a step as the API describes it."""


class Clusters:
    """Clusters of Amazon EMR and their steps; see Target for its methods.

    Args:
        aws: the services.
        clock: measures time.
        settings: the user's settings.
    """

    host, work = "cluster", "step"
    idle = "it ends after `idle_minutes` without work"
    listed = "Amazon EMR forgets them after two months"

    def __init__(self, aws: Aws, clock: Clock, settings: Settings) -> None:
        self._aws = aws
        self._clock = clock
        self._settings = settings

    def preflight(self, plan: ClusterPlan) -> list[str]:
        """Check release and roles, and create the security configuration."""
        return preflight(self._aws, plan)

    def look(self, host: str) -> Host | None:
        """Describe a cluster, or return None."""
        cluster = self._known(host)
        return None if cluster is None else _host(cluster)

    def hosts(self, active: bool) -> Iterator[Host]:
        """Yield clusters."""
        return map(_host, self._list_ours(ACTIVE if active else []))

    def find(self, plan: ClusterPlan) -> str | None:
        """Find the cluster by the key among its tags."""
        for cluster in self._list_ours(ACTIVE):
            if _tags(cluster).get("deployment") == plan.host_key:
                return str(cluster["Id"])
        return None

    def create(self, plan: ClusterPlan, run: str) -> str:
        """Start a cluster that runs the step."""
        return request_once(
            self._clock,
            "start a cluster",
            lambda: str(self._aws.emr_once.run_job_flow(**plan.cluster(run))["JobFlowId"]),
            lambda: self.find(plan),
        )

    def begin(self, plan: ClusterPlan, host: str, run: str) -> str:
        """Find the step that the cluster was started with.

        Raises:
            RunError: there is none.
        """
        until = self._clock.now() + SETTLE_S
        step = poll(self._clock, lambda: of_run(self.works(host), run), until)
        if step is None:
            raise RunError(f"cluster {host} was started, but not the step on it")
        return step.id

    def add(self, plan: ClusterPlan, host: str, run: str) -> str:
        """Add the step."""
        step_request = plan.step(run)

        def lookup() -> str | None:
            step = of_run(self.works(host), run)
            return step.id if step else None

        def request() -> str:
            answer = self._aws.emr_once.add_job_flow_steps(JobFlowId=host, Steps=[step_request])
            return str(answer["StepIds"][0])

        return request_once(self._clock, f"add a step to cluster {host}", request, lookup)

    def works(self, host: str) -> list[Work]:
        """List the steps."""
        with explained(f"steps of cluster {host}"):
            pages = self._aws.emr.get_paginator("list_steps").paginate(ClusterId=host)
            return [_work(step) for page in pages for step in page["Steps"]]

    def follow(
        self, reporter: Reporter, host: str, work: str, deadline: float, progress: Callable[[], str | None]
    ) -> Outcome:
        """Wait for a step, and watch its cluster as well."""
        polls_after_end = 0

        def look() -> Seen:
            nonlocal polls_after_end
            # in this order, so that a step that was lost with its cluster is seen with the cluster's reason
            step = self._aws.emr.describe_step(ClusterId=host, StepId=work)["Step"]
            cluster = self._aws.emr.describe_cluster(ClusterId=host)["Cluster"]
            cluster_state, state = cluster["Status"]["State"], step["Status"]["State"]
            outcome = outcome_of(cluster, step, final=polls_after_end >= LAG_POLLS)
            polls_after_end += cluster_state in ENDED
            return Seen(f"cluster {cluster_state}, step {state}", outcome, state == "RUNNING")

        return follow(self._clock, reporter, f"follow step {work}", look, deadline, progress)

    def cancel(self, host: str, work: Work, host_stays: bool) -> str:
        """Cancel a step, and on a cluster that stays kill its YARN application as well."""
        with explained(f"cancel step {work.id}"):
            answer = self._aws.emr.cancel_steps(
                ClusterId=host, StepIds=[work.id], StepCancellationOption="TERMINATE_PROCESS"
            )
        info: Record = next(iter(answer.get("CancelStepsInfoList", [])), {})
        if host_stays:
            self._kill_application(host, work.run)
        return str(info.get("Reason") or info.get("Status", "SUBMITTED").lower())

    def _kill_application(self, host: str, run: str) -> None:
        """Add a step that kills the YARN application of a cancelled step.

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
            self._aws.emr.add_job_flow_steps(JobFlowId=host, Steps=[step])

    def end(self, host: str) -> bool:
        """Terminate a cluster, unless it has ended."""
        cluster = _host(self._describe(host))
        if not cluster.ours:
            raise InputError(f"cluster {host}: lacks the tag project={PROJECT}, so it is not ours to terminate")
        if not cluster.active:
            return False
        with explained(f"terminate cluster {host}"):
            self._aws.emr.terminate_job_flows(JobFlowIds=[host])
        return True

    def logs(self, host: str, work: str) -> StepLogs:
        """Return the logs of a step, which lie where its cluster was told to put them."""
        cluster = self._known(host) or {}  # forgotten after two months: the logs may still be there
        told = LOG_ADDRESS.fullmatch(cluster.get("LogUri", ""))
        if told is None:
            return StepLogs(project_bucket(self._aws, self._settings), f"{self._settings.logs}{host}/", work)
        below = f"{told[2]}/{host}/" if told[2] else f"{host}/"
        return StepLogs(Bucket(self._aws, told[1]), below, work)

    def _known(self, host: str) -> Record | None:
        """Return a cluster's description, or None if Amazon EMR knows no such cluster."""
        try:
            return self._describe(host)
        except InputError as error:
            if isinstance(error.__cause__, ClientError) and code_of(error.__cause__) == "InvalidRequestException":
                return None
            raise

    def _describe(self, host: str) -> Record:
        """Return a cluster's description.

        Raises:
            InputError: there is no cluster with this id.
        """
        with explained(f"cluster {host}"):
            cluster: Record = self._aws.emr.describe_cluster(ClusterId=host)["Cluster"]
        return cluster

    def _list_ours(self, states: list[str]) -> Iterator[Record]:
        """Yield this project's clusters, newest first.

        Tags are requested only for clusters whose names begin with the project's, which saves calls in accounts
        with many clusters.

        Args:
            states: states to select; an empty list selects all.
        """
        with explained("clusters"):
            selection = {"ClusterStates": states} if states else {}
            pages = self._aws.emr.get_paginator("list_clusters").paginate(**selection)
            summaries = [
                summary for page in pages for summary in page["Clusters"] if summary["Name"].startswith(PROJECT)
            ]
        summaries.sort(key=lambda summary: summary["Status"]["Timeline"]["CreationDateTime"], reverse=True)
        for summary in summaries:
            cluster = self._describe(summary["Id"])
            if _host(cluster).ours:
                yield cluster


def _tags(cluster: Record) -> dict[str, str]:
    """Return a cluster's tags by name."""
    return {tag["Key"]: tag.get("Value", "") for tag in cluster.get("Tags", [])}


def _host(cluster: Record) -> Host:
    tags, status = _tags(cluster), cluster["Status"]
    return Host(
        str(cluster["Id"]),
        describe_cluster_state(cluster),
        status["State"] in ACTIVE,
        tags.get("project") == PROJECT,
        tags.get("deployed-by", ""),
        status["Timeline"]["CreationDateTime"],
        tags.get("machines", ""),
    )


def _work(step: Record) -> Work:
    state = str(step["Status"]["State"])
    words = (word for word in step["Config"].get("Args", []) if word.startswith(RUN_TAG))
    run = str(next(words, RUN_TAG)).removeprefix(RUN_TAG)
    failure = describe_step_failure(step) if state == "FAILED" else ""
    return Work(str(step["Id"]), step["Name"], run, state, state in UNDER_WAY, failure)
