"""Errors that end a job with one line instead of a traceback."""

from __future__ import annotations

from typing import ClassVar


class JobError(Exception):
    """An error whose message is one line: what is wrong, where, and how to mend it.

    Attributes:
        exit_code: with which a job ends.
    """

    exit_code: ClassVar[int] = 1


class InputError(JobError):
    """The flags or the input of the user are wrong."""

    exit_code = 2


class RunError(JobError):
    """A failure while a job ran: a full disk, a service that is down, a loss that diverged."""
