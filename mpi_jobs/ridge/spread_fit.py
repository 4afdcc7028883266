"""The fit of a problem with so many features that the moments lie in tiles on the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.errors import InputError
from common.ridge.fit import MAX_PACKED_BYTES, Fit
from common.ridge.kept import batches_of_features
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


def is_spread(moments_bytes: int, d: int, settings: RankSettings, combine: str) -> bool:
    """Return whether moments are to lie in tiles. Every rank calls this with the same arguments.

    Args:
        moments_bytes: the size of the moments as a whole.
        d: the number of features.
        settings: how each rank works.
        combine: as for ridge_data_parallel.fit.

    Raises:
        AgreedError: no rank could hold them as a whole, which the settings need.
    """
    needs_whole = f"--combine {combine}" if combine != "exact" else ""
    if settings.images != "read":  # ranks that exchange features cannot wait for images at the same time
        needs_whole = f"--images {settings.images}"
    if moments_bytes <= settings.whole or not needs_whole:
        return moments_bytes > settings.whole
    if moments_bytes > MAX_PACKED_BYTES:
        raise AgreedError(
            f"{needs_whole}: the moments of {d:,} features would have to be in every rank as a whole, and take "
            f"{moments_bytes / 2**30:.1f} GiB of {MAX_PACKED_BYTES / 2**30:g} GiB allowed; leave it out",
            InputError.exit_code,
        )
    return False


def fit_spread(world: World, dealt: DealtProblem, settings: RankSettings) -> Fit:
    """Fit a problem whose moments lie in tiles on the ranks. Every rank calls this.

    Args:
        world: the ranks.
        dealt: the problem.
        settings: how each rank works.

    Raises:
        AgreedError: see ridge_data_parallel.fit; also if the system of a λ is singular.
    """
    size = dealt.size
    tiling = spread_tiling(size.n_features, world.size)
    product = best_tile_product(tiling, settings.threads)
    sums = SpreadSums(world, tiling, size.n_classes, size.folds, product)

    def add(block: Block) -> None:
        for x, rows in batches_of_features(block, size.features, size.augmentation):
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
        "combine": "exact",
        "spread": {"grid": list(ranks.grid), "tile": tiling.side, "residual": max(residuals + of_all)},
    }
    return replace(fit, moments_sha256=sha256, products=frozenset({product.name}), details=details)


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
            "out the smallest, or raise --whole",
            InputError.exit_code,
        ) from error
