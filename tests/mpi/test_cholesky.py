from __future__ import annotations

import numpy as np
import pytest

from common.arrays import Floats
from mpi_jobs.engine.world import World
from mpi_jobs.ridge.cholesky import BLOCK, solve_together


def problem(d: int, k: int, smallest: float = 1e-3) -> tuple[Floats, Floats]:
    """The same on every rank: eigenvalues from `smallest` to 1."""
    rng = np.random.default_rng([d, k])
    vectors = np.linalg.qr(rng.standard_normal((d, d)))[0]
    system = (vectors * np.logspace(np.log10(smallest), 0, d)) @ vectors.T
    return (system + system.T) / 2, rng.standard_normal((d, k))


@pytest.mark.parametrize("d", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 7])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_solves_what_numpy_solves(world: World, d: int, k: int) -> None:
    system, right = problem(d, k)
    solution = solve_together(world, system.copy(), right)
    expected = np.linalg.solve(system, right)
    assert np.abs(solution - expected).max() <= 1e-10 * np.abs(expected).max()


def test_the_residual_is_small_however_ill_the_condition(world: World) -> None:
    system, right = problem(3 * BLOCK, 4, smallest=1e-11)
    solution = solve_together(world, system.copy(), right)
    # what a backward stable method leaves behind
    assert np.abs(system @ solution - right).max() <= 1e-13 * np.abs(solution).max()


def test_features_that_are_almost_the_same_cost_no_digits(world: World) -> None:
    """What neighbouring pixels are: the corners of the factor themselves are nearly singular."""
    rng = np.random.default_rng(8)
    half = rng.standard_normal((500, BLOCK))
    x = np.hstack([half, half + 1e-5 * rng.standard_normal(half.shape)])
    x = x[:, np.arange(2 * BLOCK).reshape(2, -1).T.reshape(-1)]  # each beside its like
    system = x.T @ x + 1e-9 * np.eye(2 * BLOCK)
    right = system @ rng.standard_normal((2 * BLOCK, 3))
    solution = solve_together(world, system.copy(), right)
    backward = np.abs(system @ solution - right).max() / (
        np.abs(system).sum(axis=1).max() * np.abs(solution).max()
    )
    assert backward < 1e-15


def test_all_ranks_have_the_same_bits(world: World) -> None:
    system, right = problem(2 * BLOCK + 5, 7)
    solution = solve_together(world, system, right)
    assert len(set(world.all_gather(solution.tobytes()))) == 1


@pytest.mark.parametrize("where", [0, BLOCK + 3, 2 * BLOCK + 1])
def test_a_system_that_is_not_positive_definite_is_refused_on_all_ranks(world: World, where: int) -> None:
    system, right = problem(2 * BLOCK + 2, 1)
    system[where, where] = -1.0
    with pytest.raises(np.linalg.LinAlgError):
        solve_together(world, system, right)
