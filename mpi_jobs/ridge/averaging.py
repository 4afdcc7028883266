"""A model a shard, and their average: what it costs in accuracy not to add up moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.ridge.moments import FoldMoments, total
from common.ridge.path import RidgePath, ridge_fits, ridge_path
from mpi_jobs.engine.world import World


class Shards:
    """The ranks' images as so many problems of their own.

    A shard's squared errors are about its share n_r/n of all, so its λ is that share too: fitted at λ itself, P
    shards would be penalised P times. Weights and intercepts are averaged with the same shares, so that shards of
    uneven size, or without an image, count for what they hold.

    Args:
        world: the ranks.
        own: moments of this rank's images.
        n: how many images all ranks have, and how many train each fold that validates.
        shape: (features, classes).
        penalty: "sum" or "mean".
    """

    def __init__(
        self, world: World, own: FoldMoments, n: Mapping[int | None, int], shape: tuple[int, int], penalty: str
    ) -> None:
        self._world, self._own, self._n, self._shape, self._penalty = world, own, n, shape, penalty

    def paths(self, lambdas: Sequence[float]) -> dict[int, RidgePath]:
        """For each fold that validates, the averaged path of the shards' images of the other folds."""
        return {fold: self._average(fold, lambdas) for fold in self._n if fold is not None}

    def refit(self, lambda_: float) -> RidgePath:
        """The average of models of all images at one λ: a path of length one."""
        return self._average(None, [lambda_])

    def _average(self, without: int | None, lambdas: Sequence[float]) -> RidgePath:
        """The averaged path of the images of all folds but one."""
        weights, intercepts = np.zeros((len(lambdas), *self._shape)), np.zeros((len(lambdas), self._shape[1]))
        own = [moments for fold, moments in self._own.items() if fold != without]
        if own:
            moments = sum(own[1:], start=own[0])
            share = moments.n / self._n[without]
            # "mean" multiplies λ by the images that it is given, which is this shard's share already
            scaled = [lambda_ * share for lambda_ in lambdas] if self._penalty == "sum" else lambdas
            fit = ridge_fits if len(lambdas) == 1 else ridge_path
            path = fit(moments, scaled, self._penalty)
            weights, intercepts = share * path.weights, share * path.intercepts
        self._world.sum(weights)
        self._world.sum(intercepts)
        return RidgePath(weights, intercepts)

    def warnings(self) -> list[str]:
        """What speaks against trusting the average, on rank 0; an empty list elsewhere."""
        seen = total(self._own).class_counts if self._own else np.zeros(1)
        shards = self._world.gather(seen)
        empty = sum(not counts.any() for counts in shards)
        blind = sum(bool(counts.any() and not counts.all()) for counts in shards)
        told = []
        if empty:
            told.append(f"{empty} of {len(shards)} ranks had no training image, and no say in the average")
        if blind:
            told.append(f"{blind} of {len(shards)} ranks have not seen an image of every class")
        return told
