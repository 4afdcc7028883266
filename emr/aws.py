"""Clients of AWS, what their errors mean to a person, and the clock that waiting goes by."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError

from common.errors import InputError

RETRIES = 8
"""Attempts at each call, with back-off (botocore's standard mode)."""

THROTTLED = {
    "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "TooManyRequestsException",
    "SlowDown", "RequestThrottled", "RequestThrottledException", "BandwidthLimitExceeded",
}  # fmt: skip
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
LACKING = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, ProfileNotFound,
    UnauthorizedSSOTokenError, SSOTokenLoadError,
)  # fmt: skip
"""Credentials that cannot be had."""

CERTAIN = (*LACKING, ParamValidationError)
"""Errors before anything was asked."""

ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""What calls raise."""
NO_CREDENTIALS = "no AWS credentials: `aws configure` or `aws sso login`, and AWS_PROFILE; a dry run needs none"


class Identity(NamedTuple):
    """Who calls.

    Attributes:
        account: its number.
        arn: of the user or role, the same in every process.
    """

    account: str
    arn: str


class NotConfiguredError(InputError):
    """The user has not said yet who and where they are."""


class Clock:
    """Time, which tests have pass at their own pace."""

    def now(self) -> float:
        """Seconds since some moment, the same for all processes of a machine."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Aws:
    """The services in one region.

    Args:
        region: its name; "" is that of the user's profile.

    Raises:
        InputError: there is no such region or profile.
    """

    def __init__(self, region: str) -> None:
        with explained("AWS"):
            self._session = boto3.Session(region_name=region or None)
        self.region = str(self._session.region_name or "")
        if not self.region:
            raise NotConfiguredError("no region: set AWS_REGION, or region in emr/cluster.toml, such as eu-west-1")
        partitions = self._session.get_available_partitions()
        known = [name for part in partitions for name in self._session.get_available_regions("emr", part)]
        if self.region not in known:
            raise InputError(f"region {self.region!r}: Amazon EMR has none of that name")

    def _client(self, service: str, attempts: int = RETRIES) -> Any:
        config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
        with explained("AWS"):
            return self._session.client(service, config=config)

    @cached_property
    def emr(self) -> Any:
        """Amazon EMR."""
        return self._client("emr")

    @cached_property
    def emr_once(self) -> Any:
        """Amazon EMR for what must not be asked twice: a second RunJobFlow would be a second cluster."""
        return self._client("emr", attempts=1)

    @cached_property
    def s3(self) -> Any:
        """Amazon S3."""
        return self._client("s3")

    @cached_property
    def iam(self) -> Any:
        """IAM."""
        return self._client("iam")

    @cached_property
    def identity(self) -> Identity:
        """Who the credentials belong to.

        Raises:
            InputError: there are none, or they are not valid.
        """
        with explained("credentials"):
            said = self._client("sts").get_caller_identity()
        # a role that a profile assumes without naming its session gets a new name in each process
        return Identity(said["Account"], re.sub(r"/botocore-session-\d+$", "", said["Arn"]))


def code_of(error: ClientError) -> str:
    """AWS's name for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttled(error: ClientError) -> bool:
    """Whether a call was refused for coming too soon, and so had no effect."""
    return code_of(error) in THROTTLED


def has_expired(error: BaseException | None) -> bool:
    """Whether credentials were good and are so no more."""
    return isinstance(error, LACKING) or (isinstance(error, ClientError) and code_of(error) in EXPIRED)


def is_ambiguous(error: BaseException | None) -> bool:
    """Whether a call may have had its effect although no answer came, or none that can be read."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    unreadable = isinstance(error, ResponseParserError)
    return unreadable or (isinstance(error, BotoCoreError) and not isinstance(error, CERTAIN))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors of AWS's clients into one line.

    Raises:
        InputError: `what`, what AWS says of it, and how to mend it.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise NotConfiguredError(NO_CREDENTIALS) from error
    except (CredentialRetrievalError, TokenRetrievalError, UnauthorizedSSOTokenError, SSOTokenLoadError) as error:
        raise InputError(f"AWS credentials cannot be had ({_line(error)}); `aws sso login`?") from error
    except ProfileNotFound as error:
        raise NotConfiguredError(
            f"{_line(error)}; AWS_PROFILE names one of `aws configure list-profiles`"
        ) from error
    except ClientError as error:
        raise InputError(f"{what}: {_said(error)}") from error
    except (BotoCoreError, ResponseParserError) as error:
        raise InputError(f"{what}: {_line(error)}") from error
    except Boto3Error as error:  # what a transfer makes of them
        cause = error.__cause__ or error.__context__
        said = _said(cause) if isinstance(cause, ClientError) else _line(error)
        raise InputError(f"{what}: {said}") from cause


def _said(error: ClientError) -> str:
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    hint = "; emr/policy.json has the permissions that are needed" if code_of(error) in DENIED else ""
    return f"{code_of(error)}: {message}{hint}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
