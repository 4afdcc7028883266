"""Runs that can be resumed: an interrupt says how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Resumable(Protocol):
    """A run that can be resumed after an interrupt."""

    def resume_hint(self) -> str | None:
        """Return how to resume the run; None if there is nothing to resume."""


@contextmanager
def resumable(run: Resumable) -> Iterator[None]:
    """Add to an interrupt of the block how to resume the run."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        hint = run.resume_hint()
        if hint is not None:
            interrupt.add_note(hint)
        raise
