"""AWS as a script has it: real clients of boto3, whose calls a model of the services answers, and a clock.

botocore checks every request against the API's description before it comes here, and every answer is checked
against it too. The model decides when clusters and steps change their states, and which calls fail.
"""

from __future__ import annotations

import datetime
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.response import StreamingBody
from botocore.validate import validate_parameters

from emr.aws import Aws, Clock
from tests.support.emr.cloud import ACCOUNT, APPLICATION, REGION

OWNER = f"arn:aws:iam::{ACCOUNT}:user/ada"
BOOTSTRAPPING_S, RUNNING_S, WORK_S, TERMINATING_S, LOGS_LATE_S = 60, 180, 120, 90, 200
ACTIVE = {"STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"}


class KilledError(Exception):
    """The process is no more; nothing that it still tries has any effect."""


class FakeClock(Clock):
    """Time that passes when somebody sleeps.

    Attributes:
        interrupt_at: seconds after which Ctrl-C is pressed, once.
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
        step: the state in which steps end; "" for never.
        details: FailureDetails of steps that fail.
        cluster: code and message of why the cluster fails, if it does.
        dies_after: seconds after which.
        log: what a driver prints, under the name `log_name`.
    """

    step: str = "COMPLETED"
    details: dict[str, str] | None = None
    cluster: tuple[str, str] | None = None
    dies_after: float = RUNNING_S + WORK_S / 2
    log: str = ""
    log_name: str = "stdout.gz"


@dataclass
class Step:
    id: str
    config: dict[str, Any]
    added: float
    cancelled: float | None = None


@dataclass
class Cluster:
    id: str
    request: dict[str, Any]
    created: float
    steps: list[Step] = field(default_factory=list)
    terminated: float | None = None


class Scripted:
    """The services.

    Attributes:
        pace: how much of its usual time everything takes.
        clock: time.
        arn: of who asks.
        fate: what becomes of things.
        calls: operations that were asked for, in order.
        listed_after: seconds after which a cluster is listed.
        throttled: how often EMR will still answer that it is asked too often.
        unanswered: by operation, how its answer is lost, once, though it has its effect.
        refused: an error to answer with, by operation.
        dies_at: the number of the call at which the process is killed.
        dies_before: whether that is before the call has its effect.
        objects: on S3, by key, with the moment from which they are there.
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
        """A connection of a new process."""
        self.dead = False
        self.calls = []
        return _ScriptedAws(self)

    def state(self, cluster: str) -> str:
        return str(self.describe(self.clusters[cluster])["Status"]["State"])

    def running(self) -> list[str]:
        """Clusters that somebody pays for."""
        return [own for own in self.clusters if self.state(own) in ACTIVE]

    def foreign_cluster(self, **request: Any) -> str:
        """A cluster that somebody started by other means."""
        return str(self.run_job_flow({"Name": "theirs", "Steps": [], "Tags": [], **request})["JobFlowId"])

    # what the services do

    def answer(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Have a call's effect, or fail as the script has it."""
        if self.dead:
            raise KilledError
        self.calls.append(operation)
        last = self.dies_at is not None and len(self.calls) == self.dies_at
        if last and self.dies_before:
            self.dead = True
            raise KilledError
        if self.throttled and operation == "DescribeStep":  # whatever else is retried by botocore
            self.throttled -= 1
            raise Refused("ThrottlingException", "Rate exceeded", 400)
        if operation in self.refused:
            raise Refused(*self.refused[operation], 400)
        method: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, _snake(operation))
        try:
            said = method(params)
        finally:
            if last:
                self.dead = True
                raise KilledError
        if operation in self.unanswered:
            raise self.unanswered.pop(operation)
        return said

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
        self._add(cluster, params["Steps"])
        return {"JobFlowId": cluster.id}

    def add_job_flow_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self.clusters[params["JobFlowId"]]
        if self.state(cluster.id) not in ACTIVE:
            raise Refused("ValidationException", "A job flow that is shutting down may not be modified.", 400)
        return {"StepIds": self._add(cluster, params["Steps"])}

    def _add(self, cluster: Cluster, steps: list[dict[str, Any]]) -> list[str]:
        made = []
        for config in steps:
            step = Step(f"s-{cluster.id}-{len(cluster.steps) + 1}", config, self.clock.now())
            cluster.steps.append(step)
            made.append(step.id)
            ends = self._starts(cluster, step) + self.pace * WORK_S
            out = next((w for w in config["HadoopJarStep"]["Args"] if w.startswith("--out=")), "")
            prefix = out.removeprefix("--out=s3://").partition("/")[2]
            if self.fate.step == "COMPLETED" and self.fate.cluster is None and out:
                for name in ("report.html", "metrics.json"):
                    self.objects[f"{prefix}/{name}"] = (ends, b"{}")
            if self.fate.log:
                below = f"{prefix.partition('/runs/')[0]}/logs/{cluster.id}"
                said = gzip.compress(f"Submitted application {APPLICATION}\n".encode())
                self.objects[f"{below}/steps/{step.id}/stderr.gz"] = (ends + self.pace * LOGS_LATE_S, said)
                container = f"containers/{APPLICATION}/container_1_0001_01_000001"
                driver = (ends + self.pace * LOGS_LATE_S, gzip.compress(self.fate.log.encode()))
                self.objects[f"{below}/{container}/{self.fate.log_name}"] = driver
        return made

    def _starts(self, cluster: Cluster, step: Step) -> float:
        """When a step can begin: one after the other, once the cluster is there."""
        before = cluster.steps[: cluster.steps.index(step)]
        free = [self._starts(cluster, own) + self.pace * WORK_S for own in before]
        return max([cluster.created + self.pace * RUNNING_S, step.added, *free])

    def _step_state(self, cluster: Cluster, step: Step) -> str:
        now = self.clock.now()
        starts = self._starts(cluster, step)
        stops = min(
            moment for moment in (cluster.terminated, self._dies(cluster), float("inf")) if moment is not None
        )
        ends = starts + self.pace * WORK_S if self.fate.step else float("inf")
        if step.cancelled is not None and step.cancelled < min(ends, stops):
            return "CANCELLED"
        if stops < ends and now >= stops:
            return "CANCELLED" if stops < starts else "INTERRUPTED"
        return "PENDING" if now < starts else "RUNNING" if now < ends else self.fate.step

    def _dies(self, cluster: Cluster) -> float | None:
        return cluster.created + self.fate.dies_after if self.fate.cluster else None

    def describe(self, cluster: Cluster) -> dict[str, Any]:
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
        old = [own for own in self.clusters.values() if own.created + self.listed_after <= self.clock.now()]
        found = [self.describe(own) for own in old]
        return {"Clusters": [own for own in found if not states or own["Status"]["State"] in states]}

    def _cluster(self, name: str) -> Cluster:
        if name not in self.clusters:
            raise Refused("InvalidRequestException", f"Cluster id '{name}' is not valid.", 400)
        return self.clusters[name]

    def _described(self, cluster: Cluster, step: Step) -> dict[str, Any]:
        status: dict[str, Any] = {"State": self._step_state(cluster, step)}
        if status["State"] == "FAILED" and self.fate.details:
            status["FailureDetails"] = self.fate.details
        config = {"Jar": "command-runner.jar", "Args": step.config["HadoopJarStep"]["Args"]}
        return {"Id": step.id, "Name": step.config["Name"], "Config": config, "Status": status}

    def describe_step(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self._cluster(params["ClusterId"])
        step = next(own for own in cluster.steps if own.id == params["StepId"])
        return {"Step": self._described(cluster, step)}

    def list_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        cluster = self._cluster(params["ClusterId"])
        return {"Steps": [self._described(cluster, step) for step in reversed(cluster.steps)]}

    def cancel_steps(self, params: dict[str, Any]) -> dict[str, Any]:
        for step in self._cluster(params["ClusterId"]).steps:
            if step.id in params["StepIds"] and step.cancelled is None:
                step.cancelled = self.clock.now()
        return {"CancelStepsInfoList": [{"StepId": own, "Status": "SUBMITTED"} for own in params["StepIds"]]}

    def terminate_job_flows(self, params: dict[str, Any]) -> dict[str, Any]:
        for name in params["JobFlowIds"]:
            self._cluster(name).terminated = self.clock.now()
        return {}


class Refused(Exception):  # noqa: N818
    """An answer of AWS that is an error."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code)
        self.parsed = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        }
        self.status = status


CURRENT: list[Scripted] = []
"""The script that clients are for."""


class _ScriptedAws(Aws):
    """Clients whose calls go to a script."""

    def __init__(self, script: Scripted) -> None:
        CURRENT[:] = [script]
        self.region = REGION  # which names there are takes longer to find out than to deploy

    def _client(self, service: str, attempts: int = 1) -> Any:
        return _client(service)


@cache  # they take longer to make than a whole deployment
def _client(service: str) -> Any:
    secret = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client(service, region_name=REGION, **secret)

    def take(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["asked"] = params

    def reply(model: Any, context: dict[str, Any], **_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        try:
            said = CURRENT[0].answer(model.name, context["asked"])
        except Refused as refused:
            return AWSResponse("https://aws", refused.status, {}, None), refused.parsed
        if model.output_shape is not None:
            plain = {name: value for name, value in said.items() if name != "Body"}
            validate_parameters(plain, model.output_shape)
        told = {"HTTPStatusCode": 200, "HTTPHeaders": {}}
        return AWSResponse("https://aws", 200, {}, None), {**said, "ResponseMetadata": told}

    client.meta.events.register("before-parameter-build", take)
    client.meta.events.register("before-call", reply)
    return client


class Person:
    """Remembers what it was told."""

    def __init__(self, stops: bool = True) -> None:
        self.told: list[str] = []
        self.stops = stops

    def line(self, text: str) -> None:
        self.told.append(text)

    def error(self, text: str) -> None:
        self.told.append(text)

    def live(self, text: str) -> None:
        self.told.append(text)

    def moving(self, what: str, size: int) -> Callable[[int], None]:
        return lambda n: None

    def stop(self) -> bool:
        return self.stops

    @property
    def text(self) -> str:
        return "\n".join(self.told)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _snake(operation: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(operation))
