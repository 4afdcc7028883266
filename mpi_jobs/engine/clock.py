"""How a rank spends its time: seconds per phase, and how many of them went into waiting and communicating."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from common.console import Console
from mpi_jobs.engine.world import World


class RankClock:
    """Times the phases of a rank.

    Args:
        world: the ranks.
        console: the console of this rank, which measures phases and, on rank 0, shows them.

    Attributes:
        world: as above.
        console: as above.
        images: the number of images that this rank worked on, which the code that deals them out counts.
    """

    def __init__(self, world: World, console: Console) -> None:
        self.world = world
        self.console = console
        self.images = 0
        self._waited: dict[str, float] = {}
        self._communicated: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase on this rank, and how much of it was spent waiting and communicating."""
        before = replace(self.world.spent)
        with self.console.phase(name):
            yield
        spent = self.world.spent
        self._waited[name] = self._waited.get(name, 0.0) + spent.waiting - before.waiting
        self._communicated[name] = self._communicated.get(name, 0.0) + spent.communicating - before.communicating

    def record(self) -> dict[str, Any]:
        """Return the record of this rank for metrics.json."""
        return {
            "host": platform.node(),
            "images": self.images,
            "seconds": {name: value for name, value in self.console.seconds.items() if name != "open"},
            "waited": self._waited,
            "communicated": self._communicated,
            "peak_mib": peak_mib(),
        }


def peak_mib() -> float:
    """Return the largest amount of memory that this process has used at once, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
