"""The fit of a problem with so many features that the moments lie in tiles on the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.errors import InputError
from common.ridge.fit import Fit
from common.ridge.moments import batches_of_features
from common.ridge.path import RidgePath
from common.ridge.scoring import validate
from common.ridge.tiled_moments import FoldTiles, TiledMoments, TileGrid
from common.ridge.tiles import INT8_SIDE, Tiling, best_tile_product
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.ridge.dealt_problem import DealtProblem, RankSettings
from mpi_jobs.ridge.spread import SpreadSums, spread_fingerprint
from mpi_jobs.ridge.spread_solve import GridRanks, SpreadSystem, spread_path

STRIPES_PER_ROW = 16
"""The least number of stripes for each row of the grid of ranks, so that they end with about as much work."""

SMALLEST_SIDE = 16
"""The least number of columns of a stripe."""


def spread_tiling(d: int, size: int) -> Tiling:
    """Return the tiles of d features on `size` ranks."""
    stripes = max(-(-d // INT8_SIDE), STRIPES_PER_ROW * TileGrid.of(size).rows)
    return Tiling(d, max(SMALLEST_SIDE, -(-d // stripes)))


def fit_spread(world: World, dealt: DealtProblem, settings: RankSettings, combine: str) -> Fit:
    """Fit a problem whose moments lie in tiles on the ranks. Every rank calls this.

    Args:
        world: the ranks.
        dealt: the problem.
        settings: how each rank works.
        combine: as for ridge_data_parallel.fit.

    Raises:
        AgreedError: see ridge_data_parallel.fit; also if models are to be averaged, if rank 0 is to send all
            images, or if the system of a λ is singular.
    """
    size = dealt.size
    _check(settings, combine, size.n_features)
    tiling = spread_tiling(size.n_features, world.size)
    product = best_tile_product(tiling, settings.threads)
    sums = SpreadSums(world, tiling, size.n_classes, size.folds, product)

    def add(block: Block) -> None:
        for x, rows in batches_of_features(block.pixels, size.features, size.augmentation):
            sums.add(x, block.labels[rows], block.folds[rows])

    def finish() -> None:
        with dealt.phase("moments"):
            sums.finish()

    held_out = dealt.each_block(add, finish)
    with dealt.phase("moments"):
        moments = sums.result()
    dealt.check_folds(moments)
    with dealt.phase("fingerprint"):
        sha256 = spread_fingerprint(world, tiling, moments)
    everything, own = _total(moments)
    ranks = GridRanks(world)
    with dealt.phase("path"):
        paths, residuals = {}, []
        for fold, left_out in own.items():
            system = SpreadSystem(ranks, tiling, everything, left_out)
            paths[fold], of_fold = _solved(system, size.lambdas, size.penalty)
            residuals += of_fold
    with dealt.phase("validation"):
        n_scored, correct = dealt.count(*validate(paths, size.features, held_out))
    lambda_ = dealt.best_lambda(correct)
    with dealt.phase("refit"):
        path, of_all = _solved(SpreadSystem(ranks, tiling, everything), [lambda_], size.penalty)
    fit = dealt.result(path, lambda_, everything.n, n_scored, correct)
    details = {
        "combine": combine,
        "spread": {"grid": list(ranks.grid), "tile": tiling.side, "residual": max(residuals + of_all)},
    }
    return replace(fit, moments_sha256=sha256, products=frozenset({product.name}), details=details)


def _check(settings: RankSettings, combine: str, d: int) -> None:
    """Refuse what needs moments that each rank holds as a whole.

    Raises:
        AgreedError: says what to use instead; every rank calls this with the same arguments.
    """
    spread = f"the moments of {d:,} features are spread over the ranks, which"
    if combine != "exact":
        raise AgreedError(
            f"--combine {combine}: {spread} cannot fit their own images alone; leave it out, or raise --whole",
            InputError.exit_code,
        )
    if settings.images != "read":
        raise AgreedError(
            f"--images {settings.images}: {spread} read their own images; leave it out, or raise --whole",
            InputError.exit_code,
        )


def _total(moments: FoldTiles) -> tuple[TiledMoments, FoldTiles]:
    """Return the moments of all images, and those of the folds that validate; `moments` must not be used again."""
    own = {fold: held_out for fold, held_out in moments.items() if fold != ALWAYS_TRAINING}
    everything = moments.get(ALWAYS_TRAINING)
    if everything is None:
        first = next(iter(own.values()))
        sum_x, sum_y, cross = (np.zeros_like(part) for part in (first.sum_x, first.sum_y, first.cross))
        tiles = {place: np.zeros_like(tile) for place, tile in first.tiles.items()}
        everything = TiledMoments(0, sum_x, sum_y, cross, tiles)
    for held_out in own.values():
        everything = everything.add(held_out)
    return everything, own


def _solved(system: SpreadSystem, lambdas: Sequence[float], penalty: str) -> tuple[RidgePath, list[float]]:
    """Fit each λ; return the path and the relative residual of each λ.

    Raises:
        AgreedError: a system is singular to working precision.
    """
    try:
        return spread_path(system, lambdas, penalty)
    except np.linalg.LinAlgError as error:
        raise AgreedError(
            f"--lambdas: a system of {len(system.cross):,} features is singular at one of them ({error}); leave "
            "out the smallest",
            InputError.exit_code,
        ) from error
