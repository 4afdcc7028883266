"""Checks of roles, which users may or may not be allowed to see."""

from __future__ import annotations

from collections.abc import Callable

from botocore.exceptions import ClientError

from common.errors import InputError
from emr.aws import DENIED, code_of, explained


def check_exists(what: str, name: str, request: Callable[[], object], remedy: str) -> list[str]:
    """Check that a role or profile exists; return a note if the user may not look.

    Args:
        what: the setting.
        name: its value.
        request: asks for it.
        remedy: how to make one.

    Raises:
        InputError: it does not exist.
    """
    with explained(f"{what} {name}"):
        try:
            request()
        except ClientError as error:
            if code_of(error) in DENIED:
                return [f"{what} {name}: you may not see whether it exists"]
            if code_of(error) == "NoSuchEntity":
                raise InputError(f"{what} {name}: does not exist; {remedy}") from error
            raise
    return []
