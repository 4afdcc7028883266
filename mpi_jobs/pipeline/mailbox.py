"""How messages get from role to role, within a rank and between ranks, and how a rank waits for them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from mpi_jobs.engine.world import World
from mpi_jobs.pipeline.layout import RoleName

SHORTEST_NAP_S, LONGEST_NAP_S = 0.00005, 0.01
"""Bounds of the sleep of an idle rank, in seconds. Nobody waits for it, because workers hold a spare chunk."""
MOVING_NAP_S = 0.001
"""The longest sleep while a message is being sent: many MPIs move messages only during calls into MPI."""


class Mailbox:
    """The mailbox of a rank.

    Messages from one role to another arrive in the order in which they were sent. Sending never waits. A message
    must not change after it was sent.

    Args:
        world: the ranks.

    Attributes:
        rank: the number of this rank.
        wake: an event that threads of this rank set when they have a result, so that the rank stops sleeping.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.rank = world.rank
        self.wake = threading.Event()
        self._local: deque[tuple[RoleName, Any]] = deque()
        self._leaving: list[Any] = []

    def send(self, rank: int, role: RoleName, message: object) -> None:
        """Send a message to a role of a rank."""
        if rank == self.rank:
            self._local.append((role, message))
        else:
            self._leaving.append(self._world.send((role, message), rank))

    def deliver(self, roles: dict[RoleName, Role]) -> bool:
        """Give this rank's roles all messages that have arrived for them; return True if there were any."""
        self._leaving = [request for request in self._leaving if not self._world.has_left(request)]
        delivered = False
        while True:
            if self._local:
                role, message = self._local.popleft()
            elif (arrived := self._world.next_message()) is not None:
                role, message = arrived
            else:
                return delivered
            roles[role].receive(message)
            delivered = True

    def nap(self, idle_s: float) -> None:
        """Sleep until a thread of this rank has a result, but at most for a while that grows with `idle_s`.

        A message does not end the sleep: the rank looks for messages after it. Sleeps are short while messages of
        this rank are being sent.

        Args:
            idle_s: seconds since the rank last had something to do.
        """
        longest = MOVING_NAP_S if self._leaving else LONGEST_NAP_S
        self.wake.wait(min(max(idle_s / 4, SHORTEST_NAP_S), longest))
        self.wake.clear()

    @property
    def empty(self) -> bool:
        """True if no message waits here to be sent or delivered."""
        return not self._leaving and not self._local


class Role(ABC):
    """A role of a rank: it handles messages, and passes on what its threads have computed.

    Attributes:
        ended: True once the role has nothing left to do.
        images: the number of images that it has handled.
    """

    ended = False
    images = 0

    @abstractmethod
    def receive(self, message: Any) -> None:
        """Handle a message without waiting for anything, because the rank's other roles share this thread."""

    @abstractmethod
    def step(self) -> bool:
        """Do what can be done now; return True if there was anything to do."""

    @property
    @abstractmethod
    def seconds(self) -> dict[str, float]:
        """Seconds of work by kind of work; the time of threads that work side by side counts once."""


def work(mailbox: Mailbox, roles: dict[RoleName, Role]) -> None:
    """Let the roles of this rank work until all of them have ended."""
    last_busy = time.perf_counter()
    while not (all(role.ended for role in roles.values()) and mailbox.empty):
        delivered = mailbox.deliver(roles)
        steps: Sequence[bool] = [role.step() for role in roles.values()]
        if delivered or any(steps):
            last_busy = time.perf_counter()
        else:
            mailbox.nap(time.perf_counter() - last_busy)
