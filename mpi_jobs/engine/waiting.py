"""How a rank waits without taking a whole core, and how it accounts for the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mpi4py import MPI

T = TypeVar("T")

SPIN_S = 0.002
"""Seconds for which a rank with a core of its own polls without a pause."""

SHORTEST_NAP_S, LONGEST_NAP_S = 0.00001, 0.005
"""Bounds of the pauses between later polls, in seconds."""

MOVING_NAP_S = 0.0002
"""The longest pause while a message is on its way: many MPIs move messages only during calls into MPI."""


@dataclass
class Spent:
    """Seconds of a rank that were not its own work.

    Attributes:
        waiting: seconds spent waiting for other ranks.
        communicating: seconds spent exchanging data with them.
    """

    waiting: float = 0.0
    communicating: float = 0.0


class Begun:
    """A collective operation that has begun and goes on while the rank computes.

    Args:
        requests: the MPI requests that the operation consists of.
    """

    def __init__(self, requests: list[MPI.Request]) -> None:
        self._requests = requests

    def done(self) -> bool:
        """Return True once every request has completed; calling it lets MPI make progress."""
        while self._requests and self._requests[-1].Test():
            self._requests.pop()
        return not self._requests


def poll(ready: Callable[[], T], spin_s: float, longest_nap_s: float) -> T:
    """Call `ready` until its result is true, and return the result.

    Pauses between calls grow, so that other processes can use the core.

    Args:
        ready: called at least once.
        spin_s: seconds before the first pause.
        longest_nap_s: the longest pause, in seconds.
    """
    started = time.perf_counter()
    while not (answer := ready()):
        waiting = time.perf_counter() - started
        if waiting >= spin_s:
            time.sleep(min(max(waiting / 8, SHORTEST_NAP_S), longest_nap_s))
    return answer
