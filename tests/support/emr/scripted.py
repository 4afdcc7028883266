"""A scripted model of AWS's services, with a clock of its own.

The model answers the calls of real clients of boto3 (clients.py). A test's script decides what becomes of
clusters and steps, and which calls fail.
"""

from __future__ import annotations

import datetime
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.response import StreamingBody

from emr.aws import Aws, Clock
from tests.support.emr.clients import AnsweredAws, Refused
from tests.support.emr.cloud import ACCOUNT, APPLICATION, REGION

OWNER = f"arn:aws:iam::{ACCOUNT}:user/ada"
BOOTSTRAPPING_S, RUNNING_S, WORK_S, TERMINATING_S, LOGS_LATE_S = 60, 180, 120, 90, 200
ACTIVE = {"STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"}


class KilledError(Exception):
    """The process was killed; its further calls have no effect."""


class FakeClock(Clock):
    """A clock on which time passes only when somebody sleeps.

    Attributes:
        time: the present, in seconds since the epoch.
        began: when the clock was made.
        interrupt_at: seconds from then until Ctrl-C is pressed, once; None for never.
    """

    def __init__(self) -> None:
        self.time = self.began = 1_700_000_000.0
        self.interrupt_at: float | None = None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.time += max(seconds, 0.01)
        if self.interrupt_at is not None and self.time - self.began >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt


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


class Scripted:
    """The services.

    Attributes:
        pace: factor on the usual duration of everything.
        clock: the time.
        fate: what becomes of steps and clusters.
        arn: ARN of the caller.
        clusters: clusters by id.
        objects: objects on S3 by key, each with the time at which it appears, and its content.
        bucket_region: region of the bucket; None if it does not exist.
        security_configurations: security configurations by name, as JSON.
        calls: operations that the present process called, in order.
        throttled: how many more DescribeStep calls are refused because they come too often.
        listed_after: seconds until a new cluster is listed.
        unanswered: by operation, the error with which its next answer is lost, although it has its effect.
        refused: by operation, code and message with which it is refused.
        dies_at: number of the call at which the process is killed, counted from 1; None for never.
        dies_before: whether the process is killed before that call has its effect.
        dead: whether the process was killed.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self.clock = FakeClock()
        self.fate = Fate()
        self.arn = OWNER
        self.clusters: dict[str, Cluster] = {}
        self.objects: dict[str, tuple[float, bytes]] = {}
        self.bucket_region: str | None = None
        self.security_configurations: dict[str, str] = {}
        self.calls: list[str] = []
        self.throttled = 0
        self.listed_after = 0.0
        self.unanswered: dict[str, Exception] = {}
        self.refused: dict[str, tuple[str, str]] = {}
        self.dies_at: int | None = None
        self.dies_before = False
        self.dead = False

    def aws(self) -> Aws:
        """Return the services as a new process sees them."""
        self.dead = False
        self.calls = []
        return AnsweredAws(self.answer)

    def state(self, cluster: str) -> str:
        """Return a cluster's present state."""
        return str(self.describe(self.clusters[cluster])["Status"]["State"])

    def running(self) -> list[str]:
        """Return the ids of clusters that cost money."""
        return [cluster for cluster in self.clusters if self.state(cluster) in ACTIVE]

    def foreign_cluster(self, **request: Any) -> str:
        """Start a cluster that is not this project's; return its id."""
        return str(self.run_job_flow({"Name": "theirs", "Steps": [], "Tags": [], **request})["JobFlowId"])

    def answer(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Carry out a call and return its answer, or fail as the script says.

        Raises:
            KilledError: the process is killed at this call, or was before.
            Refused: the call is refused.
        """
        if self.dead:
            raise KilledError
        self.calls.append(operation)
        last = self.dies_at is not None and len(self.calls) == self.dies_at
        if last and self.dies_before:
            self.dead = True
            raise KilledError
        if self.throttled and operation == "DescribeStep":  # botocore itself retries all other calls
            self.throttled -= 1
            raise Refused("ThrottlingException", "Rate exceeded", 400)
        if operation in self.refused:
            raise Refused(*self.refused[operation], 400)
        method: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, _snake(operation))
        try:
            answer = method(params)
        finally:
            if last:
                self.dead = True
                raise KilledError
        if operation in self.unanswered:
            raise self.unanswered.pop(operation)
        return answer

    def get_caller_identity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"Account": ACCOUNT, "Arn": self.arn, "UserId": "AIDA"}

    def head_bucket(self, _: dict[str, Any]) -> dict[str, Any]:
        if self.bucket_region is None:
            raise Refused("404", "Not Found", 404)
        return {"BucketRegion": self.bucket_region}

    def create_bucket(self, _: dict[str, Any]) -> dict[str, Any]:
        self.bucket_region = REGION
        return {}

    def put_public_access_block(self, params: dict[str, Any]) -> dict[str, Any]:
        assert all(params["PublicAccessBlockConfiguration"].values())
        return {}

    def put_bucket_encryption(self, _: dict[str, Any]) -> dict[str, Any]:
        return {}

    def put_bucket_tagging(self, _: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _object(self, key: str) -> bytes:
        """Return an object's content, or refuse if it is not there yet."""
        since, data = self.objects.get(key, (float("inf"), b""))
        if since > self.clock.now():
            raise Refused("404", "Not Found", 404)
        return data

    def head_object(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"ContentLength": len(self._object(params["Key"])), "ETag": '"1"'}

    def put_object(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["ServerSideEncryption"] == "AES256"
        self.objects[params["Key"]] = (self.clock.now(), params["Body"].read())
        return {"ETag": '"1"'}

    def get_object(self, params: dict[str, Any]) -> dict[str, Any]:
        data = self._object(params["Key"])
        return {"ContentLength": len(data), "ETag": '"1"', "Body": StreamingBody(io.BytesIO(data), len(data))}

    def list_objects_v2(self, params: dict[str, Any]) -> dict[str, Any]:
        there = [
            {"Key": key, "Size": len(data), "ETag": '"1"'}
            for key, (since, data) in sorted(self.objects.items())
            if key.startswith(params["Prefix"]) and since <= self.clock.now()
        ]
        return {"Contents": there, "IsTruncated": False}

    def get_role(self, params: dict[str, Any]) -> dict[str, Any]:
        role = {"RoleName": params["RoleName"], "Path": "/", "RoleId": "AROA" + "0" * 16}
        return {"Role": {**role, "Arn": "arn:aws:iam::1:role/r", "CreateDate": _moment(0)}}

    def get_instance_profile(self, params: dict[str, Any]) -> dict[str, Any]:
        name = params["InstanceProfileName"]
        profile = {"InstanceProfileName": name, "Path": "/", "InstanceProfileId": "AIPA" + "0" * 16, "Roles": []}
        arn = f"arn:aws:iam::{ACCOUNT}:instance-profile/{name}"
        return {"InstanceProfile": {**profile, "Arn": arn, "CreateDate": _moment(0)}}

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
        return {"Name": params["Name"], "CreationDateTime": _moment(0)}

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
        timeline = {"CreationDateTime": _moment(cluster.created)}
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
        return {"Steps": [self._described(cluster, step) for step in reversed(cluster.steps)]}

    def cancel_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        for step in self._cluster(params["ClusterId"]).steps:
            if step.id in params["StepIds"] and step.cancelled is None:
                step.cancelled = self.clock.now()
        return {"CancelStepsInfoList": [{"StepId": step, "Status": "SUBMITTED"} for step in params["StepIds"]]}

    def terminate_job_flows(self, params: dict[str, Any]) -> dict[str, Any]:
        for name in params["JobFlowIds"]:
            self._cluster(name).terminated = self.clock.now()
        return {}


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _snake(operation: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(operation))
