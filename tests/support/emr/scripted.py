"""A scripted model of Amazon EMR, which decides what becomes of clusters and steps."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.emr.clients import Refused
from tests.support.emr.cloud import APPLICATION
from tests.support.emr.services import Services, moment

BOOTSTRAPPING_S, RUNNING_S, WORK_S, TERMINATING_S, LOGS_LATE_S = 60, 180, 120, 90, 200
ACTIVE = {"STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"}


@dataclass
class Fate:
    """What becomes of steps and clusters.

    Attributes:
        step: the state in which steps end; "" if they never end.
        details: FailureDetails of steps that fail.
        cluster: code and message of the cluster's failure; None if it does not fail.
        dies_after: seconds until the cluster fails.
        log: output of a driver.
        log_name: name of the file with that output.
    """

    step: str = "COMPLETED"
    details: dict[str, str] | None = None
    cluster: tuple[str, str] | None = None
    dies_after: float = RUNNING_S + WORK_S / 2
    log: str = ""
    log_name: str = "stdout.gz"


@dataclass
class Step:
    """A step of a cluster; times are in seconds since the epoch, or None."""

    id: str
    config: dict[str, Any]
    added: float
    cancelled: float | None = None


@dataclass
class Cluster:
    """A cluster; times are in seconds since the epoch, or None."""

    id: str
    request: dict[str, Any]
    created: float
    steps: list[Step] = field(default_factory=list)
    terminated: float | None = None


class Scripted(Services):
    """The services for clusters.

    Attributes:
        fate: what becomes of steps and clusters.
        clusters: clusters by id.
        security_configurations: security configurations by name, as JSON.
    """

    POLLED = "DescribeStep"

    def __init__(self, pace: float = 1.0) -> None:
        super().__init__(pace)
        self.fate = Fate()
        self.clusters: dict[str, Cluster] = {}
        self.security_configurations: dict[str, str] = {}

    def state(self, cluster: str) -> str:
        """Return a cluster's present state."""
        return str(self.describe(self.clusters[cluster])["Status"]["State"])

    def running(self) -> list[str]:
        """Return the ids of clusters that cost money."""
        return [cluster for cluster in self.clusters if self.state(cluster) in ACTIVE]

    def foreign_cluster(self, **request: Any) -> str:
        """Start a cluster that is not this project's; return its id."""
        return str(self.run_job_flow({"Name": "theirs", "Steps": [], "Tags": [], **request})["JobFlowId"])

    def describe_release_label(self, params: dict[str, Any]) -> dict[str, Any]:
        return {**params, "Applications": [{"Name": "Spark", "Version": "4.0.2"}]}

    def describe_security_configuration(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["Name"] not in self.security_configurations:
            raise Refused("InvalidRequestException", "Security configuration with name does not exist.", 400)
        return {"Name": params["Name"], "SecurityConfiguration": self.security_configurations[params["Name"]]}

    def create_security_configuration(self, params: dict[str, Any]) -> dict[str, Any]:
        imds = json.loads(params["SecurityConfiguration"])["InstanceMetadataServiceConfiguration"]
        assert imds["MinimumInstanceMetadataServiceVersion"] == 2
        self.security_configurations[params["Name"]] = params["SecurityConfiguration"]
        return {"Name": params["Name"], "CreationDateTime": moment(0)}

    def run_job_flow(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = Cluster(f"j-{len(self.clusters) + 1}", params, self.clock.now())
        self.clusters[cluster.id] = cluster
        self.add_steps(cluster, params["Steps"])
        return {"JobFlowId": cluster.id}

    def add_job_flow_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self.clusters[params["JobFlowId"]]
        if self.state(cluster.id) not in ACTIVE:
            raise Refused("ValidationException", "A job flow that is shutting down may not be modified.", 400)
        return {"StepIds": self.add_steps(cluster, params["Steps"])}

    def add_steps(self, cluster: Cluster, steps: list[dict[str, Any]]) -> list[str]:
        """Add steps, and schedule the objects that they will write to S3; return the steps' ids."""
        ids = []
        for config in steps:
            step = Step(f"s-{cluster.id}-{len(cluster.steps) + 1}", config, self.clock.now())
            cluster.steps.append(step)
            ids.append(step.id)
            ends = self._starts(cluster, step) + self.pace * WORK_S
            out = next((w for w in config["HadoopJarStep"]["Args"] if w.startswith("--out=")), "")
            prefix = out.removeprefix("--out=s3://").partition("/")[2]
            if self.fate.step == "COMPLETED" and self.fate.cluster is None and out:
                for name in ("report.html", "metrics.json"):
                    self.objects[f"{prefix}/{name}"] = (ends, b"{}")
            if self.fate.log:
                below = f"{prefix.partition('/runs/')[0]}/logs/{cluster.id}"
                submitted = gzip.compress(f"Submitted application {APPLICATION}\n".encode())
                self.objects[f"{below}/steps/{step.id}/stderr.gz"] = (ends + self.pace * LOGS_LATE_S, submitted)
                container = f"containers/{APPLICATION}/container_1_0001_01_000001"
                driver = (ends + self.pace * LOGS_LATE_S, gzip.compress(self.fate.log.encode()))
                self.objects[f"{below}/{container}/{self.fate.log_name}"] = driver
        return ids

    def _starts(self, cluster: Cluster, step: Step) -> float:
        """Return when a step begins: after those before it, once the cluster runs."""
        before = cluster.steps[: cluster.steps.index(step)]
        ends = [self._starts(cluster, earlier) + self.pace * WORK_S for earlier in before]
        return max([cluster.created + self.pace * RUNNING_S, step.added, *ends])

    def _step_state(self, cluster: Cluster, step: Step) -> str:
        """Return a step's present state."""
        now = self.clock.now()
        starts = self._starts(cluster, step)
        cluster_ends = [time for time in (cluster.terminated, self._dies(cluster)) if time is not None]
        stops = min(cluster_ends, default=float("inf"))
        ends = starts + self.pace * WORK_S if self.fate.step else float("inf")
        if step.cancelled is not None and step.cancelled < min(ends, stops):
            return "CANCELLED"
        if stops < ends and now >= stops:
            return "CANCELLED" if stops < starts else "INTERRUPTED"
        return "PENDING" if now < starts else "RUNNING" if now < ends else self.fate.step

    def _dies(self, cluster: Cluster) -> float | None:
        """Return when a cluster fails, or None if it does not."""
        return cluster.created + self.fate.dies_after if self.fate.cluster else None

    def describe(self, cluster: Cluster) -> dict[str, Any]:
        """Return a cluster's description, without its tags."""
        now, dies, reason = self.clock.now(), self._dies(cluster), {}
        if dies is not None and dies <= now and (cluster.terminated is None or dies < cluster.terminated):
            code, message = self.fate.cluster or ("", "")
            state = "TERMINATING" if now < dies + self.pace * TERMINATING_S else "TERMINATED_WITH_ERRORS"
            reason = {"Code": code, "Message": message}
        elif cluster.terminated is not None:
            state = "TERMINATING" if now < cluster.terminated + self.pace * TERMINATING_S else "TERMINATED"
            reason = {"Code": "USER_REQUEST", "Message": "Terminated by user request"}
        elif now < cluster.created + self.pace * RUNNING_S:
            state = "STARTING" if now < cluster.created + self.pace * BOOTSTRAPPING_S else "BOOTSTRAPPING"
        else:
            under_way = any(self._step_state(cluster, step) in ("PENDING", "RUNNING") for step in cluster.steps)
            state = "RUNNING" if under_way else "WAITING"
        timeline = {"CreationDateTime": moment(cluster.created)}
        status = {"State": state, "StateChangeReason": reason, "Timeline": timeline}
        return {"Id": cluster.id, "Name": cluster.request["Name"], "Status": status}

    def describe_cluster(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self._cluster(params["ClusterId"])
        return {"Cluster": {**self.describe(cluster), "Tags": cluster.request["Tags"]}}

    def list_clusters(self, params: dict[str, Any]) -> dict[str, Any]:
        states = params.get("ClusterStates")
        now = self.clock.now()
        listed = [cluster for cluster in self.clusters.values() if cluster.created + self.listed_after <= now]
        found = [self.describe(cluster) for cluster in listed]
        return {"Clusters": [cluster for cluster in found if not states or cluster["Status"]["State"] in states]}

    def _cluster(self, name: str) -> Cluster:
        """Return a cluster, or refuse an unknown id."""
        if name not in self.clusters:
            raise Refused("InvalidRequestException", f"Cluster id '{name}' is not valid.", 400)
        return self.clusters[name]

    def _described(self, cluster: Cluster, step: Step) -> dict[str, Any]:
        """Return a step's description."""
        status: dict[str, Any] = {"State": self._step_state(cluster, step)}
        if status["State"] == "FAILED" and self.fate.details:
            status["FailureDetails"] = self.fate.details
        config = {"Jar": "command-runner.jar", "Args": step.config["HadoopJarStep"]["Args"]}
        return {"Id": step.id, "Name": step.config["Name"], "Config": config, "Status": status}

    def describe_step(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self._cluster(params["ClusterId"])
        step = next(step for step in cluster.steps if step.id == params["StepId"])
        return {"Step": self._described(cluster, step)}

    def list_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self._cluster(params["ClusterId"])
        now = self.clock.now()
        listed = [step for step in reversed(cluster.steps) if step.added + self.listed_after <= now]
        return {"Steps": [self._described(cluster, step) for step in listed]}

    def cancel_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        for step in self._cluster(params["ClusterId"]).steps:
            if step.id in params["StepIds"] and step.cancelled is None:
                step.cancelled = self.clock.now()
        return {"CancelStepsInfoList": [{"StepId": step, "Status": "SUBMITTED"} for step in params["StepIds"]]}

    def terminate_job_flows(self, params: dict[str, Any]) -> dict[str, Any]:
        for name in params["JobFlowIds"]:
            self._cluster(name).terminated = self.clock.now()
        return {}
