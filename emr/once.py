"""Requests whose effect must not happen twice, and waiting for what they bring about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import ClientError

from emr.aws import CALL_ERRORS, Clock, explained, is_ambiguous, is_throttled

SETTLE_S = 60
"""Seconds after which what was requested is listed, if the request had its effect."""

POLL_S = 5
"""Seconds between two lookups."""

MAX_ATTEMPTS = 6

Answer = TypeVar("Answer")


def poll(
    clock: Clock, lookup: Callable[[], Answer | None], until: float, interval: float = POLL_S
) -> Answer | None:
    """Call `lookup` at least once, until it gives something other than None or the time is up.

    Args:
        clock: measures time.
        lookup: returns None as long as there is nothing to find.
        until: the time, by the clock, at which to give up.
        interval: seconds between two calls.
    """
    while (found := lookup()) is None and clock.now() < until:
        clock.sleep(interval)
    return found


def request_once(
    clock: Clock, what: str, request: Callable[[], Answer], lookup: Callable[[], Answer | None]
) -> Answer:
    """Send a request whose effect must not happen twice.

    If its answer is lost, nobody knows whether the request had its effect. Then only looking for the effect tells
    whether the request has to be sent again.

    Args:
        clock: measures time.
        what: what is requested; messages begin with it.
        request: sends the request, without retries.
        lookup: returns what an earlier attempt brought about, or None.

    Raises:
        InputError: AWS refuses.
        RunError: AWS cannot be reached, or keeps failing.
    """
    with explained(what):
        for attempt in range(MAX_ATTEMPTS):
            try:
                return request()
            except CALL_ERRORS as error:
                throttled = isinstance(error, ClientError) and is_throttled(error)
                if is_ambiguous(error):
                    if (found := poll(clock, lookup, clock.now() + SETTLE_S)) is not None:
                        return found
                elif throttled:
                    clock.sleep(2.0**attempt)
                if attempt == MAX_ATTEMPTS - 1 or not (throttled or is_ambiguous(error)):
                    raise
    raise AssertionError("the last attempt returns or raises")
