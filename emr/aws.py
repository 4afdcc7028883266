"""Clients for AWS, readable messages for their errors, and the clock that waiting goes by."""

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

from common.errors import InputError, JobError, RunError

MAX_ATTEMPTS = 8
"""Attempts per call, with back-off (botocore's standard mode)."""

THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
    "RequestThrottled",
    "RequestThrottledException",
    "BandwidthLimitExceeded",
}
"""Error codes of calls that came too soon after others."""

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"}
"""Error codes of calls for which permissions are missing."""

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
"""Error codes of calls with credentials that are no longer valid."""

UNCONFIGURED = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
"""Errors of users who have not set up credentials, or who name a profile that does not exist."""

UNOBTAINABLE = (CredentialRetrievalError, TokenRetrievalError, UnauthorizedSSOTokenError, SSOTokenLoadError)
"""Errors of obtaining the credentials that are configured."""

UNSENT = (*UNCONFIGURED, *UNOBTAINABLE, ParamValidationError)
"""Errors that are raised before a request is sent."""

CALL_ERRORS = (ClientError, BotoCoreError, ResponseParserError)
"""Errors that a call of a client can raise."""

NO_CREDENTIALS = "no AWS credentials: `aws configure` or `aws sso login`, and AWS_PROFILE; a dry run needs none"


class Identity(NamedTuple):
    """The caller, to whom the credentials belong.

    Attributes:
        account: the account's number.
        arn: ARN of the user or role, the same in every process.
    """

    account: str
    arn: str


class NotConfiguredError(InputError):
    """Credentials, profile or region are not configured."""


class Clock:
    """The time, which tests replace by one that passes at their own pace."""

    def now(self) -> float:
        """Return seconds since the epoch, which are the same for all processes of a machine."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Aws:
    """The services of AWS in one region.

    Args:
        region: the region's name; "" takes the one of the user's profile.

    Raises:
        NotConfiguredError: no region is configured, or the profile does not exist.
        InputError: Amazon EMR does not know the region.
    """

    def __init__(self, region: str) -> None:
        with explained("AWS"):
            self._session = boto3.Session(region_name=region or None)
        self.region = str(self._session.region_name or "")
        if not self.region:
            raise NotConfiguredError("no region: set AWS_REGION, or region in emr/cluster.toml, such as eu-west-1")
        partitions = self._session.get_available_partitions()
        regions = {name for part in partitions for name in self._session.get_available_regions("emr", part)}
        if self.region not in regions:
            raise InputError(f"region {self.region!r}: Amazon EMR has no region of that name")

    def _client(self, service: str, attempts: int = MAX_ATTEMPTS) -> Any:
        config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
        with explained("AWS"):
            return self._session.client(service, config=config)

    @cached_property
    def emr(self) -> Any:
        """Client for Amazon EMR."""
        return self._client("emr")

    @cached_property
    def emr_once(self) -> Any:
        """Client for requests that must not be repeated: a second RunJobFlow would start a second cluster."""
        return self._client("emr", attempts=1)

    @cached_property
    def serverless(self) -> Any:
        """Client for Amazon EMR Serverless, whose requests to create and to start carry tokens."""
        return self._client("emr-serverless")

    @cached_property
    def s3(self) -> Any:
        """Client for Amazon S3."""
        return self._client("s3")

    @cached_property
    def iam(self) -> Any:
        """Client for IAM."""
        return self._client("iam")

    @cached_property
    def identity(self) -> Identity:
        """The caller.

        Raises:
            InputError: there are no credentials, or they are not valid.
            RunError: AWS cannot be reached.
        """
        with explained("credentials"):
            answer = self._client("sts").get_caller_identity()
        # a role that a profile assumes without naming its session gets a new session name in each process
        return Identity(answer["Account"], re.sub(r"/botocore-session-\d+$", "", answer["Arn"]))


def code_of(error: ClientError) -> str:
    """Return AWS's code for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttled(error: ClientError) -> bool:
    """Return True if a call was refused because it came too soon, so that it had no effect."""
    return code_of(error) in THROTTLED


def has_expired(error: BaseException | None) -> bool:
    """Return True if credentials were valid and no longer are."""
    unobtainable = isinstance(error, (*UNCONFIGURED, *UNOBTAINABLE))
    return unobtainable or (isinstance(error, ClientError) and code_of(error) in EXPIRED)


def is_ambiguous(error: BaseException | None) -> bool:
    """Return True if a call may have had its effect although no readable answer came."""
    if isinstance(error, ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    unreadable = isinstance(error, ResponseParserError)
    return unreadable or (isinstance(error, BotoCoreError) and not isinstance(error, UNSENT))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors of AWS's clients into errors of one line.

    Args:
        what: what the calls are about; messages begin with it.

    Raises:
        NotConfiguredError: there are no credentials, or the profile does not exist.
        InputError: AWS refuses the call, or credentials cannot be obtained.
        RunError: AWS cannot be reached, fails itself, or is asked too often.
    """
    try:
        yield
    except ProfileNotFound as error:
        raise NotConfiguredError(
            f"{_in_one_line(error)}; AWS_PROFILE names one of `aws configure list-profiles`"
        ) from error
    except UNCONFIGURED as error:
        raise NotConfiguredError(NO_CREDENTIALS) from error
    except UNOBTAINABLE as error:
        raise InputError(
            f"AWS credentials cannot be obtained ({_in_one_line(error)}); `aws sso login`?"
        ) from error
    except ClientError as error:
        raise _refusal(what, error) from error
    except ParamValidationError as error:
        raise InputError(f"{what}: {_in_one_line(error)}") from error
    except (BotoCoreError, ResponseParserError) as error:
        raise RunError(f"{what}: {_in_one_line(error)}") from error
    except Boto3Error as error:  # transfers wrap the errors of their calls
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ClientError):
            raise _refusal(what, cause) from cause
        raise RunError(f"{what}: {_in_one_line(error)}") from cause


def _refusal(what: str, error: ClientError) -> JobError:
    """Return the error to raise for an answer of AWS that is an error."""
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    hint = "; emr/policy.json has the permissions that are needed" if code_of(error) in DENIED else ""
    kind = RunError if is_throttled(error) or is_ambiguous(error) else InputError
    return kind(f"{what}: {code_of(error)}: {message}{hint}")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
