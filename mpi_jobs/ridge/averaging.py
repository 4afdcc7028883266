"""One model per shard, and their average: the classic alternative to adding up moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.ridge.moments import FoldMoments, Moments, total
from common.ridge.path import RidgePath, ridge_fits, ridge_path
from mpi_jobs.engine.world import World


class Shards:
    """The images of each rank as a problem of its own.

    The squared errors of a shard are about its share n_r/n of all squared errors, so it is fitted at that share of
    λ; at λ itself, P shards would be penalised P times. Weights and intercepts are averaged with the same
    shares, so that shards count for the images they hold, whether their sizes are uneven or even zero.

    Args:
        world: the ranks.
        own: the moments of this rank's images.
        everything: the moments of the images of all ranks.
        training: for each fold that validates, the moments of all other images of all ranks.
        penalty: "sum", "mean" or "scaled".
    """

    def __init__(
        self, world: World, own: FoldMoments, everything: Moments, training: FoldMoments, penalty: str
    ) -> None:
        self._world, self._own, self._penalty = world, own, penalty
        self._shape = everything.cross.shape  # (d, n_classes)
        self._n: dict[int | None, int] = {None: everything.n, **{fold: own.n for fold, own in training.items()}}

    def paths(self, lambdas: Sequence[float]) -> dict[int, RidgePath]:
        """Return, for each fold that validates, the average path of the shards without that fold."""
        return {fold: self._average(fold, lambdas) for fold in self._n if fold is not None}

    def refit(self, lambda_: float) -> RidgePath:
        """Return the average of the shards' models at one λ, fitted to all their images: a path of length one."""
        return self._average(None, [lambda_])

    def _average(self, without: int | None, lambdas: Sequence[float]) -> RidgePath:
        """Return the average path of the shards without the images of one fold."""
        weights, intercepts = np.zeros((len(lambdas), *self._shape)), np.zeros((len(lambdas), self._shape[1]))
        own = [moments for fold, moments in self._own.items() if fold != without]
        if own:
            moments = sum(own[1:], start=own[0])
            share = moments.n / self._n[without]
            # the others multiply λ by the number of images, which is the number in this shard already
            scaled = [lambda_ * share for lambda_ in lambdas] if self._penalty == "sum" else lambdas
            fit = ridge_fits if len(lambdas) == 1 else ridge_path
            path = fit(moments, scaled, self._penalty)
            weights, intercepts = share * path.weights, share * path.intercepts
        self._world.sum(weights)
        self._world.sum(intercepts)
        return RidgePath(weights, intercepts)

    def warnings(self) -> list[str]:
        """Return reasons to distrust the average, on rank 0; an empty list elsewhere."""
        seen = total(self._own).class_counts if self._own else np.zeros(1)
        shards = self._world.gather(seen)
        empty = sum(not counts.any() for counts in shards)
        blind = sum(bool(counts.any() and not counts.all()) for counts in shards)
        found = []
        if empty:
            found.append(f"{empty} of {len(shards)} ranks had no training image and do not count")
        if blind:
            found.append(f"{blind} of {len(shards)} ranks have not seen an image of every class")
        return found
