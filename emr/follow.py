"""Waiting for work, with back-off and a deadline, and the outcome of its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from botocore.exceptions import ClientError

from emr.aws import CALL_ERRORS, Clock, explained, is_ambiguous, is_throttled

DONE, FAILED, WRONG, TIMED_OUT, CANCELLED = 0, 1, 2, 3, 4
"""Exit codes: 0 done, 1 the job or its cluster failed, 2 something else was wrong, 3 timeout, 4 cancelled."""

MIN_PAUSE_S, MAX_PAUSE_S, PAUSE_SHARE = 1.0, 30.0, 0.1
"""The pause between two polls is a share of the seconds since the last change, within bounds."""


@dataclass(frozen=True)
class Outcome:
    """The end of work.

    Attributes:
        code: DONE, FAILED, WRONG, TIMED_OUT or CANCELLED.
        reason: the reason, for people; empty if it was done.
        work_failed: whether the job itself failed, so that its logs say more.
    """

    code: int
    reason: str = ""
    work_failed: bool = False


class Reporter(Protocol):
    """Shows messages to the user."""

    def info(self, text: str) -> None:
        """Show an event, unless the user wants quiet."""

    def error(self, text: str) -> None:
        """Show an error, even if the user wants quiet."""

    def status(self, text: str) -> None:
        """Show the current state, which the next message replaces."""


@dataclass(frozen=True)
class Seen:
    """The state of work at one poll.

    Attributes:
        state: the state of everything, for people.
        outcome: how the work ended; None if it goes on.
        runs: whether the work runs, so that its logs may tell how far it is.
    """

    state: str
    outcome: Outcome | None
    runs: bool


def follow(
    clock: Clock,
    reporter: Reporter,
    what: str,
    look: Callable[[], Seen],
    deadline: float,
    progress: Callable[[], str | None],
) -> Outcome:
    """Wait until work has ended or the deadline has passed.

    Args:
        clock: measures time.
        reporter: shows every change.
        what: what happens; messages begin with it.
        look: polls once; may raise any of CALL_ERRORS.
        deadline: the time, by the clock, at which to give up.
        progress: returns how far the job is, or None if that is unknown.

    Returns:
        how the work ended.

    Raises:
        InputError: AWS refuses the calls.
    """
    started = changed = clock.now()
    last_state, throttled = "", False
    while True:
        try:
            seen = look()
        except CALL_ERRORS as error:
            if not (is_ambiguous(error) or (isinstance(error, ClientError) and is_throttled(error))):
                with explained(what):
                    raise
            throttled = True  # a longer pause helps in either case
        else:
            throttled = False
            if seen.state != last_state:
                reporter.info(f"{_minutes(clock.now() - started)}  {seen.state}")
                last_state, changed = seen.state, clock.now()
            if seen.outcome is not None:
                return seen.outcome
            done_so_far = progress() if seen.runs else None
            suffix = f", {done_so_far}" if done_so_far else ""
            reporter.status(f"{_minutes(clock.now() - started)}  {seen.state}{suffix}")
        if clock.now() >= deadline:
            elapsed = _minutes(clock.now() - started).strip()
            return Outcome(TIMED_OUT, f"no end after {elapsed}: {last_state or 'AWS does not answer'}")
        clock.sleep(min(_pause(clock.now() - changed, throttled), max(deadline - clock.now(), 0.0)))


def _pause(unchanged_s: float, throttled: bool) -> float:
    """Return the seconds to wait before the next poll."""
    return MAX_PAUSE_S if throttled else min(max(PAUSE_SHARE * unchanged_s, MIN_PAUSE_S), MAX_PAUSE_S)


def _minutes(seconds: float) -> str:
    """Return a duration as minutes:seconds."""
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
