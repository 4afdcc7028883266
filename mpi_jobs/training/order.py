"""In which order images are seen, and by which rank: the same for any number of ranks.

An epoch is one shuffle of all images, cut into steps of even size, each of which is dealt out evenly to the ranks.
So every image is seen once an epoch, all ranks take the same number of steps, and what a step sees together does
not depend on how many ranks there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.arrays import Indices
from common.data.catalogue import Catalogue
from common.data.splits import shard
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Share


@dataclass(frozen=True)
class Order:
    """How an epoch is cut.

    Attributes:
        n: images of an epoch.
        batch: images of a step, all ranks together, at most.
        ranks: how many share a step.
        seed: of the run; None for images that are seen as they come.
    """

    n: int
    batch: int
    ranks: int
    seed: int | None

    @property
    def steps(self) -> int:
        """How many an epoch has."""
        return -(-self.n // self.batch)

    def step_size(self, step: int) -> int:
        """Images of a step."""
        return _length(shard(self.n, step, self.steps))

    def share(self, step: int, rank: int) -> slice:
        """Where in the epoch a rank's part of a step is; it may be empty."""
        where = shard(self.n, step, self.steps)
        part = shard(_length(where), rank, self.ranks)
        return slice(where.start + part.start, where.start + part.stop)

    def epoch(self, epoch: int) -> Indices:
        """All images in the order of an epoch, int64 (n,)."""
        if self.seed is None:
            return np.arange(self.n)
        return np.random.default_rng([self.seed, epoch, *b"epoch"]).permutation(self.n)


def _length(where: slice) -> int:
    length: int = where.stop - where.start
    return length


def deal(
    world: World, order: Order, images: Catalogue | None, numbers: Indices | None, epoch: int = 0, first: int = 0
) -> list[Share]:
    """Deal out an epoch: this rank's images of each step. All ranks call this.

    Args:
        world: the ranks.
        order: in which images are seen.
        images: of the run; on rank 0, from which the others get the names and labels of their own.
        numbers: which of them are seen, int64 (order.n,); on rank 0.
        epoch: from 0.
        first: the step to begin with.
    """

    def shares() -> list[Share]:
        if images is None or numbers is None:
            raise ValueError("rank 0 has no images to deal out")
        seen = numbers[order.epoch(epoch)]
        dealt = []
        for rank in range(world.size):
            own = [seen[order.share(step, rank)] for step in range(first, order.steps)]
            chosen = np.concatenate(own) if own else np.empty(0, np.int64)
            dealt.append(Share(chosen, images.items[chosen], images.labels[chosen]))
        return dealt

    own = world.scatter(shares)
    counts = [_length(order.share(step, world.rank)) for step in range(first, order.steps)]
    ends = np.cumsum(counts)
    return [Share(*(each[end - n : end] for each in own)) for n, end in zip(counts, ends, strict=True)]
