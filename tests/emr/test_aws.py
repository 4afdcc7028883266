"""Errors of AWS's clients: which are the user's to mend before a start, and which are failures while running."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    SSOTokenLoadError,
)
from botocore.parsers import ResponseParserError

from common.errors import InputError, JobError, RunError
from emr.__main__ import main
from emr.aws import explained
from tests.support.emr.deploying import deploy
from tests.support.emr.scripted import Scripted


def answer(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "RunJobFlow")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (NoCredentialsError(), InputError),
        (SSOTokenLoadError(error_msg="no token"), InputError),
        (ParamValidationError(report="no such parameter"), InputError),
        (answer("AccessDeniedException", 400), InputError),
        (answer("ValidationException", 400), InputError),
        (answer("ThrottlingException", 400), RunError),
        (answer("InternalServerException", 500), RunError),
        (EndpointConnectionError(endpoint_url="https://aws"), RunError),
        (ResponseParserError("half an answer"), RunError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_what_the_user_can_mend_is_wrong_input_and_the_rest_failed_while_running(
    raised: Exception, kind: type[JobError]
) -> None:
    with pytest.raises(kind) as caught, explained("start a cluster"):
        raise raised
    assert type(caught.value).exit_code == kind.exit_code
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("_small_packages")
def test_a_service_that_is_down_before_the_start_is_a_failure_while_running(tmp_path: Path) -> None:
    script = Scripted()
    script.unanswered["DescribeReleaseLabel"] = EndpointConnectionError(endpoint_url="https://aws")
    with pytest.raises(RunError, match=r"release emr-spark-8\.0\.0 in eu-west-1: Could not connect"):
        deploy(script, tmp_path)
    assert not script.clusters


def test_the_command_line_ends_with_2_when_aws_is_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its 1 is for jobs that fail on their clusters."""

    def down(*_: object, **__: object) -> None:
        raise RunError("credentials: AWS cannot be reached")

    monkeypatch.setattr("emr.context.Context.own_hosts", down)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert main(["terminate"]) == 2
    assert capsys.readouterr().err == "emr terminate: credentials: AWS cannot be reached\n"
