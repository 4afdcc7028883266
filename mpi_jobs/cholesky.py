"""One symmetric positive definite system, solved by all ranks together.

A = LLᵀ by block columns, right-looking (Golub and Van Loan, Matrix Computations, 4th ed., section 4.2.8): when
block column k of L is known,

    A_ij ← A_ij − L_ik L_jkᵀ    for all later block columns j and rows i ≥ j.

Block columns are dealt out to the ranks in turn, so that what is left to do stays even to the end. The owner of
column k finishes it and broadcasts it, then each rank updates its own. In the end every rank holds L, and solves
for its own share of the right-hand sides.
"""

from __future__ import annotations

import math

import numpy as np

from common.arrays import Floats
from common.splits import shard
from mpi_jobs.world import World

BLOCK = 96
"""Columns of a block: wide enough for BLAS, narrow enough that nobody waits long for a column's owner."""


def most_ranks(d: int) -> int:
    """How many ranks can have a part in a system of d."""
    return math.ceil(d / BLOCK)


def solve_together(world: World, system: Floats, right: Floats) -> Floats:
    """Solve A X = B; every rank calls this with the same A and B.

    Args:
        world: the ranks.
        system: A, float64 (d, d), symmetric positive definite; it is overwritten.
        right: B, float64 (d, k).

    Raises:
        numpy.linalg.LinAlgError: A is not positive definite to working precision; on every rank.
    """
    d = len(system)
    blocks = [slice(start, min(start + BLOCK, d)) for start in range(0, d, BLOCK)]
    factor = []  # of each block column: the inverse of its corner's factor, and L below the corner
    for k, own in enumerate(blocks):
        width = own.stop - own.start
        column = np.empty((d - own.start, width))
        if k % world.size == world.rank:
            _finish_column(system[own.start :, own], column)
        world.broadcast(column, k % world.size)
        if np.isnan(column[0, 0]):
            raise np.linalg.LinAlgError("not positive definite")
        for j in range(k + 1, len(blocks)):
            if j % world.size == world.rank:
                below = column[blocks[j].start - own.start :]
                system[blocks[j].start :, blocks[j]] -= below @ below[: blocks[j].stop - blocks[j].start].T
        factor.append((column[:width], column[width:]))
    solution = np.zeros(right.shape)
    share = shard(right.shape[1], world.rank, world.size)
    x = right[:, share].copy()
    for own, (inverse, below) in zip(blocks, factor, strict=True):
        x[own] = inverse @ x[own]
        x[own.stop :] -= below @ x[own]
    for own, (inverse, below) in reversed(list(zip(blocks, factor, strict=True))):
        x[own] = inverse.T @ (x[own] - below.T @ x[own.stop :])
    solution[:, share] = x
    world.sum(solution)
    return solution


def _finish_column(updated: Floats, column: Floats) -> None:
    """Of an updated block column of A: the inverse of its corner's factor, and L below; NaN if there is none."""
    width = column.shape[1]
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(updated[:width]))
    except np.linalg.LinAlgError:
        column[...] = np.nan
        return
    column[:width] = inverse
    np.matmul(updated[width:], inverse.T, out=column[width:])
