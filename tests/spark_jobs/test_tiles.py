"""Moments in tiles on the executors, against the same moments in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark import SparkContext

from common.console import Console
from common.errors import InputError
from common.features.feature_map import FeatureMap
from common.features.pixels import PIXELS
from common.ridge.fit import Problem
from common.ridge.tiled_moments import TileGrid
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, serial
from spark_jobs.engine.tiles import OWNER_BYTES, SPARK_SIDE, SparkTiles, TileLayout
from tests.support.block_means import BlockMeans
from tests.support.jobs import run_main


def problem_of(features: FeatureMap, *flags: str) -> Problem:
    opened = RidgeRun.open("test", ridge_parser("").parse_arguments(["--quiet", *flags])).problem
    return replace(opened, features=features)


@pytest.mark.parametrize(
    ("features", "flags", "partitions"),
    [
        (PIXELS, ["--lambdas", "1:3:3"], 3),
        (PIXELS, ["--folds", "3", "--lambdas", "1,10", "--penalty", "mean"], 1),
        (BlockMeans(), ["--augment", "flip", "--lambdas", "1,100", "--limit", "300"], 2),
        (PIXELS, ["--penalty", "scaled", "--lambdas", "0.01,1"], 2),
    ],
)
def test_tiles_find_what_one_process_finds(
    spark: SparkContext, features: FeatureMap, flags: Sequence[str], partitions: int
) -> None:
    problem = problem_of(features, *flags)
    expected = serial.fit(problem)
    fit = gram.fit(spark, problem, partitions, whole=0)
    assert fit.fingerprint() is None
    assert fit.correct.tolist() == expected.correct.tolist()
    assert (fit.n_fitted, fit.n_validation) == (expected.n_fitted, expected.n_validation)
    assert fit.details["spread"]["residual"] < 1e-8
    np.testing.assert_allclose(fit.model.weights, expected.model.weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fit.model.intercept, expected.model.intercept, rtol=1e-5)


@pytest.mark.parametrize(("d", "cores"), [(1, 1), (64, 8), (8192, 2), (32000, 2), (100_000, 64)])
def test_every_tile_of_every_fold_has_a_partition_that_a_task_can_hold(d: int, cores: int) -> None:
    layout = TileLayout.of(d, (-1, 0), 10, cores)
    partitions = [layout.partition(owner, fold) for owner in range(layout.n_owners) for fold in layout.folds]
    assert sorted(partitions) == list(range(layout.n_partitions))
    assert sorted(layout.partitions_of([0]) + layout.partitions_of([-1])) == partitions
    assert all(layout.owner(layout.partition(owner, 0)) == owner for owner in range(layout.n_owners))
    assert d < 8 * cores or 4 * d * d / layout.n_owners <= OWNER_BYTES
    own = [layout.own(owner) for owner in range(layout.n_owners)]
    assert all(own)
    assert sorted(place for places in own for place in places) == sorted(layout.tiling.lower())
    for owner in {0, layout.n_owners - 1}:
        columns = layout.columns(owner)
        assert (np.diff(columns) > 0).all()
        assert len(columns) <= 1.2 * d * sum(1 / side for side in TileGrid.of(layout.n_owners)) + SPARK_SIDE


def test_tiles_that_are_gone_are_added_up_again(spark: SparkContext) -> None:
    problem = problem_of(PIXELS, "--lambdas", "1", "--limit", "300")
    blocks = spark.parallelize([problem.load(Console(quiet=True))], 1)
    layout = TileLayout.of(problem.n_features, problem.folds, problem.n_classes, 2)
    tiles = SparkTiles.of(blocks, layout, problem.features, problem.augmentation)
    x = np.eye(64)
    whole = tiles.multiply(problem.folds, x)
    first, *others = (Path(file.path) for file in tiles.files.collect())
    first.unlink()
    assert np.array_equal(tiles.multiply(problem.folds, x), whole)
    again = [Path(file.path) for file in tiles.files.collect()]
    assert all(path.exists() for path in again)
    tiles.forget()
    assert not any(path.exists() for path in [*others, *again])


def test_a_job_says_what_lay_in_tiles_and_refuses_moments_files(spark: SparkContext, tmp_path: Path) -> None:
    flags = ["--features", "random:400", "--lambdas", "1e3,1e4"]
    found = run_main(gram.main, tmp_path / "run", *flags, "--whole", "1")
    expected = run_main(serial.main, tmp_path / "alone", *flags)
    for key in ("validation_correct", "best_lambda", "test_accuracy", "images"):
        assert found[key] == expected[key]
    assert "moments_sha256" not in found
    assert "in tiles of" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(InputError, match="the moments of 400 features are in tiles on the executors"):
        gram.main([*flags, "--whole", "1", "--quiet", "--save-moments", str(tmp_path / "moments.npz")])
