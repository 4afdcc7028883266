"""How messages get from role to role, on one rank or from rank to rank, and how a rank waits for them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from mpi_jobs.engine.world import World
from mpi_jobs.pipeline.layout import Kind

SHORTEST_NAP_S, LONGEST_NAP_S = 0.00005, 0.01
"""How long a rank sleeps that has nothing to do. A worker has a chunk in reserve, so that nobody waits for it."""
MOVING_NAP_S = 0.001
"""The longest sleep while a message is leaving: many MPIs move it only when they are asked about it."""


class Post:
    """A rank's letter box.

    Messages between two roles arrive in the order in which they were sent. Sending never waits: what is sent must
    not change afterwards.

    Args:
        world: the ranks.

    Attributes:
        rank: this one.
        wake: to be set by a thread of this rank that has made something, so that the rank does not sleep on.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.rank = world.rank
        self.wake = threading.Event()
        self._local: deque[tuple[Kind, Any]] = deque()
        self._leaving: list[Any] = []

    def send(self, rank: int, kind: Kind, message: object) -> None:
        """Send a message to a role on a rank."""
        if rank == self.rank:
            self._local.append((kind, message))
        else:
            self._leaving.append(self._world.send((kind, message), rank))

    def deliver(self, roles: dict[Kind, Role]) -> bool:
        """Give roles of this rank all messages that are there for them; whether there were any."""
        self._leaving = [request for request in self._leaving if not self._world.has_left(request)]
        found = False
        while True:
            if self._local:
                kind, message = self._local.popleft()
            elif (arrived := self._world.next_message()) is not None:
                kind, message = arrived
            else:
                return found
            roles[kind].receive(message)
            found = True

    def nap(self, idle_s: float) -> None:
        """Sleep, the longer the longer there has been nothing to do, or until a thread of this rank is done.

        Messages wake nobody: a rank looks for them again after a nap, which is short while some are leaving.
        """
        longest = MOVING_NAP_S if self._leaving else LONGEST_NAP_S
        self.wake.wait(min(max(idle_s / 4, SHORTEST_NAP_S), longest))
        self.wake.clear()

    @property
    def empty(self) -> bool:
        """Whether everything that was sent is on its way."""
        return not self._leaving and not self._local


class Role(ABC):
    """What a rank is: it answers messages, and gets on with what its threads have made."""

    ended = False
    images = 0
    """That it has dealt with."""

    @abstractmethod
    def receive(self, message: Any) -> None:
        """Take a message; at once, because others wait."""

    @abstractmethod
    def step(self) -> bool:
        """Get on with what there is; whether there was anything."""

    @property
    @abstractmethod
    def seconds(self) -> dict[str, float]:
        """That it has worked, by what it did; those of several threads side by side count once."""


def work(post: Post, roles: dict[Kind, Role]) -> None:
    """Let the roles of this rank work until all of them have ended."""
    busy = time.perf_counter()
    while not (all(role.ended for role in roles.values()) and post.empty):
        moved = post.deliver(roles)
        steps: Sequence[bool] = [role.step() for role in roles.values()]
        if moved or any(steps):
            busy = time.perf_counter()
        else:
            post.nap(time.perf_counter() - busy)
