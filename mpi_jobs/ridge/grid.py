"""The ridge path, solved by all ranks: every (fold, λ) is a system of its own.

Each rank takes an even share of the systems. The remaining systems are fewer than the ranks. Each of them is
solved by a team of ranks (cholesky.py), all at the same time, so that no rank idles while another factorises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from common.data.splits import shard
from common.ridge.moments import Moments
from common.ridge.path import RidgePath, ridge_fits, ridge_path
from mpi_jobs.engine.world import World
from mpi_jobs.ridge.cholesky import most_ranks, solve_together

EIGENDECOMPOSITION = 12
"""The number of factorisations that cost as much as an eigendecomposition, which serves any number of λ."""


class Stretch(NamedTuple):
    """Consecutive λ of one fold."""

    fold: int
    lambdas: slice


class Grid:
    """The weights at every λ of every fold; each rank holds the ones that it helped to solve.

    Args:
        world: the ranks.
        folds: the folds that validate.
        n_lambdas: the number of λ.
        d: the number of features.
        n_classes: the number of classes.

    Attributes:
        own: the systems that this rank solves, numbered fold by fold and λ by λ.
        left: the remaining systems, which teams solve; every rank receives their solutions.
    """

    def __init__(self, world: World, folds: Sequence[int], n_lambdas: int, d: int, n_classes: int) -> None:
        self._world = world
        self._folds, self._n_lambdas = list(folds), n_lambdas
        systems = len(folds) * n_lambdas
        each = systems // world.size
        self.own = range(world.rank * each, (world.rank + 1) * each)
        self.left = range(world.size * each, systems)
        # Zeros take no memory until something is written.
        self._weights = np.zeros((systems, d, n_classes))
        self._intercepts = np.zeros((systems, n_classes))

    def stretches(self, systems: range) -> Iterator[Stretch]:
        """Yield the λ and folds that the systems belong to."""
        for i, fold in enumerate(self._folds):
            first = i * self._n_lambdas
            start, stop = max(systems.start - first, 0), min(systems.stop - first, self._n_lambdas)
            if start < stop:
                yield Stretch(fold, slice(start, stop))

    def put(self, stretch: Stretch, path: RidgePath) -> None:
        """Store a solution."""
        where = self._where(stretch)
        self._weights[where], self._intercepts[where] = path.weights, path.intercepts

    def get(self, stretch: Stretch) -> RidgePath:
        """Return a solution that this rank holds."""
        where = self._where(stretch)
        return RidgePath(self._weights[where], self._intercepts[where])

    def share(self) -> None:
        """Send every rank the solutions of the ranks' own systems."""
        dealt = slice(0, self.left.start)
        self._world.share(self._weights[dealt])
        self._world.share(self._intercepts[dealt])

    def share_left(self) -> None:
        """Send every rank the solutions of the teams; one rank per team has stored its solution."""
        left = slice(self.left.start, self.left.stop)
        self._world.sum(self._weights[left])
        self._world.sum(self._intercepts[left])

    def paths(self) -> dict[int, RidgePath]:
        """Return the path of each fold, after share()."""
        return {fold: self.get(Stretch(fold, slice(0, self._n_lambdas))) for fold in self._folds}

    def _where(self, stretch: Stretch) -> slice:
        first = self._folds.index(stretch.fold) * self._n_lambdas
        return slice(first + stretch.lambdas.start, first + stretch.lambdas.stop)


def solve_grid(world: World, training: Mapping[int, Moments], lambdas: Sequence[float], penalty: str) -> Grid:
    """Fit every λ of every fold; every rank calls this with the same moments.

    Args:
        world: the ranks.
        training: for each fold that validates, the moments of all other images.
        lambdas: the grid.
        penalty: "sum", "mean" or "scaled".
    """
    d, n_classes = next(iter(training.values())).cross.shape
    grid = Grid(world, list(training), len(lambdas), d, n_classes)
    alone = partial(solve_together, World(MPI.COMM_SELF))
    for stretch in grid.stretches(grid.own):
        moments, own = training[stretch.fold], lambdas[stretch.lambdas]
        if len(own) < EIGENDECOMPOSITION:
            grid.put(stretch, ridge_fits(moments, own, penalty, alone))
        else:
            grid.put(stretch, ridge_path(moments, own, penalty))
    if grid.left:
        teams = [team_of(world.size, len(grid.left), i, most_ranks(d)) for i in range(len(grid.left))]
        own_team = next((i for i, ranks in enumerate(teams) if world.rank in ranks), None)
        with world.team(() if own_team is None else teams[own_team]) as team:
            if team is not None and own_team is not None:
                (stretch,) = grid.stretches(grid.left[own_team : own_team + 1])
                solve = partial(solve_together, team)
                path = ridge_fits(training[stretch.fold], lambdas[stretch.lambdas], penalty, solve)
                if team.is_root:
                    grid.put(stretch, path)
        grid.share_left()
    return grid


def team_of(size: int, teams: int, number: int, most: int) -> range:
    """Return the ranks of team `number` of `teams`: consecutive, of even sizes, and at most `most` of them."""
    return range(size)[shard(size, number, teams)][:most]
