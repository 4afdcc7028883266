from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from common.data.splits import k_folds
from common.ridge.moments import FoldMoments, training_moments
from common.ridge.path import ridge_path
from mpi_jobs.engine.world import World
from mpi_jobs.ridge.cholesky import BLOCK
from mpi_jobs.ridge.grid import EIGENDECOMPOSITION, Grid, solve_grid, team_of
from tests.support.moments import moments_by_fold


@cache
def moments_of(n_folds: int, d: int) -> FoldMoments:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (300, d, 1, 1), np.uint8)
    pixels[:, 0] = 9  # never varies
    labels = rng.integers(0, 3, 300)
    folds = k_folds(labels, n_folds, 0) if n_folds > 1 else np.where(np.arange(300) % 5, -1, 0).astype(np.int16)
    return training_moments(moments_by_fold(pixels, labels, folds, 3))


@pytest.mark.parametrize("n_folds", [1, 2, 5])
@pytest.mark.parametrize("n_lambdas", [1, 2, 7, EIGENDECOMPOSITION, 3 * EIGENDECOMPOSITION + 1])
@pytest.mark.parametrize("penalty", ["sum", "scaled"])
@pytest.mark.parametrize("d", [12, 2 * BLOCK + 5])  # systems for one rank, and for a team
def test_it_is_the_path_of_every_fold(world: World, n_folds: int, n_lambdas: int, penalty: str, d: int) -> None:
    training = moments_of(n_folds, d)
    lambdas = [0.0, *np.logspace(-4, 4, n_lambdas - 1)]
    grid = solve_grid(world, training, lambdas, penalty)
    grid.share()
    paths = grid.paths()
    assert list(paths) == list(training)
    expected = world.at_root(lambda: {fold: ridge_path(own, lambdas, penalty) for fold, own in training.items()})
    for fold, path in expected.items():
        scale = np.abs(path.weights).max()
        assert np.abs(paths[fold].weights - path.weights).max() <= 1e-9 * scale
        assert np.abs(paths[fold].intercepts - path.intercepts).max() <= 1e-9 * scale


@pytest.mark.parametrize("systems", [1, 2, 3, 10, 50])
def test_every_system_is_solved_by_one_rank_or_by_one_team(world: World, systems: int) -> None:
    grid = Grid(world, range(systems), 1, 2, 2)
    owned = [own for each in world.all_gather(list(grid.own)) for own in each]
    assert sorted([*owned, *grid.left]) == list(range(systems))
    assert len(grid.left) < world.size
    teams = [
        team for system in grid.left for team in team_of(world.size, len(grid.left), system - grid.left[0], 99)
    ]
    assert teams == list(range(world.size if grid.left else 0))
    assert [stretch.fold for stretch in grid.stretches(grid.own)] == list(grid.own)


def test_no_team_is_larger_than_what_there_is_to_share() -> None:
    assert list(team_of(64, 10, 3, 4)) == [19, 20, 21, 22]
    assert list(team_of(3, 2, 1, 9)) == [1, 2]
    assert list(team_of(5, 1, 0, 1)) == [0]


def test_stretches_are_cut_where_folds_end(world: World) -> None:
    grid = Grid(world, [4, 6, 8], 10, 2, 2)
    found = [(s.fold, s.lambdas.start, s.lambdas.stop) for s in grid.stretches(range(7, 25))]
    assert found == [(4, 7, 10), (6, 0, 10), (8, 0, 5)]
