"""Moments in tiles on the ranks, against the same moments in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.features.feature_map import FeatureMap
from common.features.pixels import PIXELS
from common.ridge.fit import Problem
from common.ridge.tiled_moments import TiledMoments, TileGrid
from common.ridge.tiles import Tiling
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from mpi_jobs import ridge_data_parallel
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.ridge import spread_fit
from mpi_jobs.ridge.dealt_problem import RankSettings
from mpi_jobs.ridge.spread_solve import Factor, GridRanks, SpreadSystem, spread_path
from spark_jobs import serial
from tests.support.block_means import BlockMeans

SPREAD = RankSettings(whole=0)


def problem_of(features: FeatureMap, *flags: str) -> Problem:
    opened = RidgeRun.open("test", ridge_parser("").parse_arguments(["--quiet", *flags])).problem
    return replace(opened, features=features)


def spread_by(world: World, tiling: Tiling, matrix: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """This rank's tiles of the lower half of a matrix."""
    own = TileGrid.of(world.size).own(tiling, world.rank)
    return {(i, j): matrix[tiling.stripe(i), tiling.stripe(j)].copy() for i, j in own}


@pytest.mark.parametrize(
    ("features", "flags"),
    [
        (PIXELS, ["--lambdas", "-3:3:3"]),
        (PIXELS, ["--folds", "3", "--lambdas", "1,10", "--penalty", "mean"]),
        (BlockMeans(), ["--limit", "5", "--lambdas", "1"]),  # some ranks have no image
        (PIXELS, ["--augment", "flip", "--lambdas", "1,100", "--limit", "300"]),
        (PIXELS, ["--penalty", "scaled", "--lambdas", "0.001,1"]),
    ],
)
def test_tiles_find_what_one_process_finds(world: World, features: FeatureMap, flags: Sequence[str]) -> None:
    problem = world.make_at_root(lambda: problem_of(features, *flags))
    fit = ridge_data_parallel.fit(world, problem, settings=SPREAD)
    assert fit.details["spread"]["residual"] < 1e-10
    assert fit.details["spread"]["grid"] == list(TileGrid.of(world.size))
    if world.is_root:
        expected = serial.fit(problem.value)
        assert fit.moments is None
        assert fit.fingerprint() == expected.fingerprint()
        assert fit.correct.tolist() == expected.correct.tolist()
        assert (fit.n_fitted, fit.n_validation) == (expected.n_fitted, expected.n_validation)
        np.testing.assert_allclose(fit.model.weights, expected.model.weights, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fit.model.intercept, expected.model.intercept, rtol=1e-6)
    world.meet()


@pytest.mark.parametrize(("d", "side"), [(1, 1), (7, 3), (60, 60), (97, 8)])
def test_a_factor_in_tiles_is_that_of_the_whole_matrix(world: World, d: int, side: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=(2 * d + 1, d))
    matrix, right = x.T @ x + np.eye(d), rng.normal(size=(d, 3))
    tiling = Tiling(d, side)
    factor = Factor.of(GridRanks(world), tiling, spread_by(world, tiling, matrix))
    whole = np.linalg.cholesky(matrix)
    for place, tile in factor.tiles.items():
        rows, columns = (tiling.stripe(i) for i in place)
        np.testing.assert_allclose(tile if place[0] > place[1] else np.tril(tile), whole[rows, columns], atol=1e-9)
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(matrix, right), rtol=1e-8)


def test_a_matrix_that_is_not_definite_fails_on_every_rank(world: World) -> None:
    tiling = Tiling(30, 4)
    matrix = np.eye(30)
    matrix[17, 17] = -1
    with pytest.raises(np.linalg.LinAlgError):
        Factor.of(GridRanks(world), tiling, spread_by(world, tiling, matrix))


def test_ill_conditioned_systems_are_refined(world: World) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (400, 1)) + rng.integers(0, 2, (400, 40))  # columns that hardly differ
    y = rng.choice([-1.0, 1.0], (400, 2))
    tiling = Tiling(40, 7)
    tiles = spread_by(world, tiling, (x.T @ x).astype(np.float64))
    moments = TiledMoments(400, x.sum(axis=0) * 1.0, y.sum(axis=0), x.T @ y, tiles)
    path, (residual,) = spread_path(SpreadSystem(GridRanks(world), tiling, moments), [1e-4], "sum")
    centred, targets = x - x.mean(axis=0), y - y.mean(axis=0)
    stacked = np.concatenate([centred / 255, np.sqrt(1e-4) * np.eye(40)])
    expected = np.linalg.lstsq(stacked, np.concatenate([targets, np.zeros((40, 2))]), rcond=None)[0]
    assert residual <= 1e-10
    np.testing.assert_allclose(path.weights[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12, 13])
def test_every_tile_has_one_owner_and_ranks_have_about_as_many(size: int) -> None:
    grid, tiling = TileGrid.of(size), Tiling(1000, 10)
    assert grid.rows * grid.columns == size
    dealt = [grid.own(tiling, rank) for rank in range(size)]
    assert sorted(place for own in dealt for place in own) == sorted(tiling.lower())
    assert max(map(len, dealt)) <= 1.3 * min(map(len, dealt))


@pytest.mark.parametrize(("images", "combine"), [("read", "average"), ("scatter", "exact")])
def test_what_needs_whole_moments_has_them_unless_no_rank_could_hold_them(
    world: World, images: str, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = world.make_at_root(lambda: problem_of(PIXELS, "--lambdas", "1"))
    settings = SPREAD._replace(images=images)
    fit = ridge_data_parallel.fit(world, problem, combine, settings)
    assert "spread" not in fit.details
    monkeypatch.setattr(spread_fit, "MAX_PACKED_BYTES", 1000)
    reason = "(--combine average|--images scatter): the moments of 64 features would have to be in every rank"
    with pytest.raises(AgreedError, match=reason) as caught:
        ridge_data_parallel.fit(world, problem, combine, settings)
    assert caught.value.exit_code == 2


def test_lambda_zero_of_constant_features_is_refused_in_one_line(world: World) -> None:
    problem = world.make_at_root(lambda: problem_of(PIXELS, "--lambdas", "0,1"))
    with pytest.raises(AgreedError, match="--lambdas: a system of 64 features is singular"):
        ridge_data_parallel.fit(world, problem, settings=SPREAD)


def test_a_damaged_image_of_a_spread_fit_is_skipped(world: World, folder_of_images: Path) -> None:
    images = world.at_root(lambda: folder_of_images)
    if world.is_root:
        (images / "cedar" / "11.png").write_bytes(b"damaged")
    world.meet()
    flags = ["--data", f"folder:{images}", "--max-corrupt", "0.1", "--lambdas", "1"]
    problem = world.make_at_root(lambda: problem_of(PIXELS, *flags))
    fit = ridge_data_parallel.fit(world, problem, settings=SPREAD)
    if world.is_root:
        expected = serial.fit(problem.value)
        assert fit.fingerprint() == expected.fingerprint()
        assert [skipped.name for skipped in fit.skipped] == [skipped.name for skipped in expected.skipped]
    world.meet()
