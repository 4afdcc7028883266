"""Real clients of boto3 whose calls are answered by a function instead of AWS.

botocore checks every request against the API's description before the function gets it; the function's answer is
checked against the same description.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.validate import validate_parameters

from emr.aws import Aws
from tests.support.emr.cloud import REGION

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Takes the operation and its parameters; returns the answer, or raises."""


class Refused(Exception):  # noqa: N818
    """Raised by a function to answer with an error.

    Args:
        code: AWS's code for the error.
        message: its message.
        status: the HTTP status.
    """

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(code)
        self.parsed = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        }
        self.status = status


CURRENT: list[Answer] = []
"""The function that answers the calls of all clients: the one of the `AnsweredAws` that was made last."""


class AnsweredAws(Aws):
    """Services whose calls are answered by a function."""

    def __init__(self, answer: Answer) -> None:
        CURRENT[:] = [answer]
        self.region = REGION  # is not checked: to list all regions would take longer than a whole deployment

    def _client(self, service: str, attempts: int = 1) -> Any:
        return _client(service)


@cache  # making a client takes longer than a whole deployment
def _client(service: str) -> Any:
    secret = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client(service, region_name=REGION, **secret)

    def keep_parameters(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["parameters"] = params

    def reply(model: Any, context: dict[str, Any], **_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        try:
            answer = CURRENT[0](model.name, context["parameters"])
        except Refused as refused:
            return AWSResponse("https://aws", refused.status, {}, None), refused.parsed
        if model.output_shape is not None:
            plain = {name: value for name, value in answer.items() if name != "Body"}
            validate_parameters(plain, model.output_shape)
        metadata = {"HTTPStatusCode": 200, "HTTPHeaders": {}}
        return AWSResponse("https://aws", 200, {}, None), {**answer, "ResponseMetadata": metadata}

    client.meta.events.register("before-parameter-build", keep_parameters)
    client.meta.events.register("before-call", reply)
    return client
