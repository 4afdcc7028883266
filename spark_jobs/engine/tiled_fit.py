"""The fit of a problem with so many features that the moments lie in tiles on the executors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce

import numpy as np
from pyspark import RDD

from common.arrays import Floats
from common.console import Console
from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.ridge.conjugate import TOLERANCE, Solved, solve_by_gradients
from common.ridge.fit import Fit, Problem
from common.ridge.path import RidgePath, with_intercepts
from common.ridge.penalty import feature_scale, penalty_weight, times_scale
from common.ridge.tiled_moments import TiledMoments, TileGrid
from common.ridge.tiles import best_tile_product
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.tiles import SparkTiles, TileLayout

MOST_IN_TILES = 256 << 30
"""The largest size, in bytes, of all moments that are laid out in tiles: more take longer than anybody waits."""


def fit_in_tiles(blocks: RDD[Block], problem: Problem, console: Console) -> Fit:
    """Fit a problem whose moments lie in tiles on the executors.

    Args:
        blocks: training and validation images.
        problem: what to fit.
        console: shows progress and measures phases.

    Raises:
        InputError: too many images cannot be used, or a fold has none left.
    """
    context = blocks.context
    layout = TileLayout.of(problem.n_features, problem.folds, problem.n_classes, context.defaultParallelism)
    with console.phase("moments"):
        tiles = SparkTiles.of(blocks, layout, problem.features, problem.augmentation)
        skipped = blocks.flatMap(lambda block: block.skipped).collect()
    try:
        problem.check_skipped(skipped)
        problem.check_folds(tiles.moments)
        return replace(_fit(blocks, problem, tiles, console), skipped=skipped)
    finally:
        with suppress(Exception):  # which would hide why the fit has ended
            tiles.forget()


def _fit(blocks: RDD[Block], problem: Problem, tiles: SparkTiles, console: Console) -> Fit:
    """Fit a problem, given its tiles."""
    layout = tiles.layout
    systems, paths = [], {}
    with console.phase("path"):
        for fold in problem.folds:
            if fold != ALWAYS_TRAINING:
                others = [other for other in problem.folds if other != fold]
                paths[fold], solved = _path(tiles, others, problem.lambdas, problem.penalty, console)
                systems.append(solved)
    with console.phase("validation"):
        n_scored, correct = count_correct(blocks, paths, problem.features)
    lambda_ = problem.best_lambda(correct)
    with console.phase("refit"):
        path, solved = _path(tiles, problem.folds, [lambda_], problem.penalty, console)
        systems.append(solved)
    residual = max(float(solved.residuals.max()) for solved in systems)
    if residual > 10 * TOLERANCE:
        console.warn(
            f"systems of the smallest λ have not converged: a relative residual of {residual:.1e} is left"
        )
    n = sum(moments.n for moments in tiles.moments.values())
    details = {
        "spread": {
            "grid": list(TileGrid.of(layout.n_owners)),
            "tile": layout.tiling.side,
            "residual": residual,
            "passes": sum(solved.passes for solved in systems),
        }
    }
    products = frozenset({best_tile_product(layout.tiling, 1).name})
    return Fit(
        problem.model(path, lambda_),
        n // problem.augmentation.n_variants,
        n_scored,
        correct,
        products=products,
        details=details,
    )


def _path(
    tiles: SparkTiles, folds: Sequence[int], lambdas: Sequence[float], penalty: str, console: Console
) -> tuple[RidgePath, Solved]:
    """Fit each λ to the images of some folds."""
    sums = reduce(TiledMoments.add, [tiles.moments[fold] for fold in folds])
    n, sum_x = sums.n, sums.sum_x
    scale = None
    if penalty == "scaled":
        scale = feature_scale((n * tiles.diagonal(folds) - sum_x * sum_x) / n, penalty, n)

    def multiply(x: Floats) -> Floats:
        """Multiply with the centred Gram matrix of scaled features, S (XᵀX − Σx Σxᵀ / n) S."""
        advance(1)
        x = times_scale(x, scale)
        return times_scale(tiles.multiply(folds, x) - np.outer(sum_x, sum_x @ x / n), scale)

    right = times_scale((n * sums.cross - np.outer(sum_x, sums.sum_y)) / n, scale)
    weights = [penalty_weight(lambda_, penalty, n) for lambda_ in lambdas]
    with console.bar(None, "pass") as advance:
        solved = solve_by_gradients(multiply, right, weights)
    return with_intercepts(sums, times_scale(solved.weights, scale)), solved
