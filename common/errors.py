"""Errors that end a job with one line instead of a traceback."""

from __future__ import annotations

from collections.abc import Sequence
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


class UnusableImagesError(InputError):
    """Images of a batch whose features a map cannot compute.

    Args:
        rows: their positions in the batch, ascending.
        reason: what is wrong with each of them.
    """

    def __init__(self, rows: Sequence[int], reason: str) -> None:
        self.rows = list(rows)
        self.reason = reason
        super().__init__(self._line(f"image {self.rows[0] + 1} of a batch"))

    def __reduce__(self) -> tuple[type[UnusableImagesError], tuple[list[int], str]]:
        return type(self), (self.rows, self.reason)

    def moved(self, by: int) -> UnusableImagesError:
        """Return the error of a larger batch, in which `by` images come before these."""
        return UnusableImagesError([row + by for row in self.rows], self.reason)

    def named(self, names: Sequence[object]) -> InputError:
        """Return an error that names the first of the images, given the names of the whole batch."""
        return InputError(self._line(str(names[self.rows[0]])))

    def _line(self, first: str) -> str:
        others = f" (and of {len(self.rows) - 1} more)" if len(self.rows) > 1 else ""
        return f"{first}: {self.reason}{others}; leave the image out, or use other --features"


class RunError(JobError):
    """A failure while a job ran: a full disk, a service that is down, a loss that diverged."""
