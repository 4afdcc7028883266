"""A scripted model of the services that every deployment needs, with a clock of its own.

The model answers the calls of real clients of boto3 (clients.py). A test's script decides which calls fail.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from typing import Any, ClassVar

from botocore.response import StreamingBody

from emr.aws import Aws, Clock
from tests.support.emr.clients import AnsweredAws, Refused
from tests.support.emr.cloud import ACCOUNT, REGION

OWNER = f"arn:aws:iam::{ACCOUNT}:user/ada"


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


class Services:
    """The services that all targets need: S3, IAM and STS.

    Attributes:
        pace: factor on the usual duration of everything.
        clock: the time.
        arn: ARN of the caller.
        objects: objects on S3 by key, each with the time at which it appears, and its content.
        bucket_region: region of the bucket; None if it does not exist.
        calls: operations that the present process called, in order.
        throttled: how many more POLLED calls are refused because they come too often.
        listed_after: seconds until what was started is listed.
        unanswered: by operation, the error with which its next answer is lost, although it has its effect.
        refused: by operation, code and message with which it is refused.
        dies_at: number of the call at which the process is killed, counted from 1; None for never.
        dies_before: whether the process is killed before that call has its effect.
        dead: whether the process was killed.
    """

    POLLED: ClassVar[str]

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self.clock = FakeClock()
        self.arn = OWNER
        self.objects: dict[str, tuple[float, bytes]] = {}
        self.bucket_region: str | None = None
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
        if self.throttled and operation == self.POLLED:  # botocore itself retries all other calls
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
        return {"Role": {**role, "Arn": "arn:aws:iam::1:role/r", "CreateDate": moment(0)}}

    def get_instance_profile(self, params: dict[str, Any]) -> dict[str, Any]:
        name = params["InstanceProfileName"]
        profile = {"InstanceProfileName": name, "Path": "/", "InstanceProfileId": "AIPA" + "0" * 16, "Roles": []}
        arn = f"arn:aws:iam::{ACCOUNT}:instance-profile/{name}"
        return {"InstanceProfile": {**profile, "Arn": arn, "CreateDate": moment(0)}}


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _snake(operation: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(operation))
