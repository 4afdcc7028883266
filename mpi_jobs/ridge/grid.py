"""The ridge path, solved by all ranks: every (fold, λ) is a system of its own.

Each rank takes an even share of the systems. Those that are left over are fewer than there are ranks: each is
solved by a team of ranks (cholesky.py), all at the same time, so that nobody idles while another factorises.
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
"""How many factorisations cost as much as an eigendecomposition, which serves any number of λ."""


class Stretch(NamedTuple):
    """Neighbouring λ of one fold."""

    fold: int
    lambdas: slice


class Grid:
    """Weights at every λ of every fold, of which a rank has those that it took part in.

    Args:
        world: the ranks.
        folds: that validate.
        n_lambdas: λ of the grid.
        d: features of an image.
        n_classes: how many classes there are.

    Attributes:
        own: the systems that this rank solves, numbered fold by fold and λ by λ.
        left: those that teams solve; every rank gets their solutions.
    """

    def __init__(self, world: World, folds: Sequence[int], n_lambdas: int, d: int, n_classes: int) -> None:
        self._world = world
        self._folds, self._n_lambdas = list(folds), n_lambdas
        systems = len(folds) * n_lambdas
        each = systems // world.size
        self.own = range(world.rank * each, (world.rank + 1) * each)
        self.left = range(world.size * each, systems)
        # zeros take no memory until something is written
        self._weights = np.zeros((systems, d, n_classes))
        self._intercepts = np.zeros((systems, n_classes))

    def stretches(self, systems: range) -> Iterator[Stretch]:
        """Which λ of which folds the systems are."""
        for i, fold in enumerate(self._folds):
            first = i * self._n_lambdas
            start, stop = max(systems.start - first, 0), min(systems.stop - first, self._n_lambdas)
            if start < stop:
                yield Stretch(fold, slice(start, stop))

    def put(self, stretch: Stretch, path: RidgePath) -> None:
        """Enter a solution."""
        where = self._where(stretch)
        self._weights[where], self._intercepts[where] = path.weights, path.intercepts

    def get(self, stretch: Stretch) -> RidgePath:
        """A solution that this rank has."""
        where = self._where(stretch)
        return RidgePath(self._weights[where], self._intercepts[where])

    def share(self) -> None:
        """Give every rank the solutions of all ranks' own systems."""
        dealt = slice(0, self.left.start)
        self._world.share(self._weights[dealt])
        self._world.share(self._intercepts[dealt])

    def share_left(self) -> None:
        """Give every rank the solutions of the teams, of each of which one rank has entered it."""
        left = slice(self.left.start, self.left.stop)
        self._world.sum(self._weights[left])
        self._world.sum(self._intercepts[left])

    def paths(self) -> dict[int, RidgePath]:
        """The path of each fold, once it is shared."""
        return {fold: self.get(Stretch(fold, slice(0, self._n_lambdas))) for fold in self._folds}

    def _where(self, stretch: Stretch) -> slice:
        first = self._folds.index(stretch.fold) * self._n_lambdas
        return slice(first + stretch.lambdas.start, first + stretch.lambdas.stop)


def solve_grid(world: World, training: Mapping[int, Moments], lambdas: Sequence[float], penalty: str) -> Grid:
    """Fit every λ of every fold; every rank calls this with the same moments.

    Args:
        world: the ranks.
        training: for each fold that validates, the moments of the images of the others.
        lambdas: the grid.
        penalty: "sum" or "mean".
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
    """The ranks of one of so many teams of even size, neighbours of each other, at most so many in each."""
    return range(size)[shard(size, number, teams)][:most]
