"""The order in which images are seen, and by which rank: the same for any number of ranks.

An epoch is one shuffle of all images, cut into steps of even size; each step is dealt out evenly to the ranks. So
every image is seen once per epoch, all ranks take the same number of steps, and the images of a step do not depend
on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from common.arrays import Indices
from common.data.catalogue import Catalogue
from common.data.splits import shard
from common.nets.checkpoints import Progress
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Share


@dataclass(frozen=True)
class Order:
    """The steps of an epoch.

    Attributes:
        n: the number of images of an epoch.
        batch: the largest number of images of a step, over all ranks.
        ranks: the number of ranks that share a step.
        seed: the seed of the run; None for images that are not shuffled.
    """

    n: int
    batch: int
    ranks: int
    seed: int | None

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return -(-self.n // self.batch)

    def step_size(self, step: int) -> int:
        """Return the number of images of a step."""
        return _length(shard(self.n, step, self.steps))

    def share(self, step: int, rank: int) -> slice:
        """Return which images of the epoch are a rank's share of a step; it may be empty."""
        images = shard(self.n, step, self.steps)
        part = shard(_length(images), rank, self.ranks)
        return slice(images.start + part.start, images.start + part.stop)

    def epoch(self, epoch: int) -> Indices:
        """Return all images in the order of an epoch, int64 (n,)."""
        if self.seed is None:
            return np.arange(self.n)
        return np.random.default_rng([self.seed, epoch, *b"epoch"]).permutation(self.n)

    def begin(self) -> Progress:
        """Return the progress of a run that begins."""
        return Progress(cut=[self.n, self.steps], images=[0] * self.ranks)

    def resume(self, progress: Progress) -> Progress:
        """Return the progress from which a run in this order continues.

        An epoch whose images or steps were others begins again. Images of other ranks count as evenly distributed.

        Args:
            progress: the progress of the run so far, in whatever order and on any number of ranks.
        """
        cut = [self.n, self.steps]
        if progress.step and progress.cut != cut:
            none = [0] * self.ranks
            return replace(progress, step=0, loss=0.0, correct=0, seconds=0.0, images=none, cut=cut)
        images = progress.images
        if len(images) != self.ranks:
            quotient, remainder = divmod(sum(images), self.ranks)
            images = [quotient + (rank < remainder) for rank in range(self.ranks)]
        return replace(progress, cut=cut, images=images)


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length


def deal(
    world: World, order: Order, images: Catalogue | None, numbers: Indices | None, epoch: int = 0, first: int = 0
) -> list[Share]:
    """Deal out an epoch and return this rank's images of each step. All ranks call this.

    Args:
        world: the ranks.
        order: the order in which images are seen.
        images: all images of the run, on rank 0; the other ranks get the names and labels of their own from it.
        numbers: which of them are seen, int64 (order.n,), on rank 0.
        epoch: the epoch, from 0.
        first: the step to begin with.
    """

    def shares() -> list[Share]:
        if images is None or numbers is None:
            raise ValueError("rank 0 has no images to deal out")
        seen = numbers[order.epoch(epoch)]
        dealt = []
        for rank in range(world.size):
            steps = [seen[order.share(step, rank)] for step in range(first, order.steps)]
            chosen = np.concatenate(steps) if steps else np.empty(0, np.int64)
            dealt.append(Share(chosen, images.items[chosen], images.labels[chosen]))
        return dealt

    own = world.scatter(shares)
    counts = [_length(order.share(step, world.rank)) for step in range(first, order.steps)]
    ends = np.cumsum(counts)
    return [Share(*(column[end - n : end] for column in own)) for n, end in zip(counts, ends, strict=True)]
