"""One symmetric positive definite system, solved by all ranks together.

A = LLᵀ is factorised by block columns, right-looking (Golub and Van Loan, Matrix Computations, 4th ed., section
4.2.8). Once block column k of L is known,

    A_ij ← A_ij − L_ik L_jkᵀ    for all later block columns j and rows i ≥ j.

Block columns are dealt out to the ranks in turn, so that the remaining work stays even to the end. The owner of
column k finishes it and broadcasts it; then each rank updates its own columns. In the end every rank holds L, and
solves for its own share of the right-hand sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.arrays import Floats
from common.data.splits import shard
from mpi_jobs.engine.world import World

BLOCK = 96
"""Columns per block: wide enough for BLAS, narrow enough that ranks do not wait long for the owner of a column."""


def most_ranks(d: int) -> int:
    """Return the largest number of ranks that can share a system of size d."""
    return math.ceil(d / BLOCK)


def solve_together(world: World, system: Floats, right: Floats) -> Floats:
    """Solve A X = B; every rank calls this with the same A and B.

    Args:
        world: the ranks.
        system: A, float64 (d, d), symmetric positive definite; overwritten.
        right: B, float64 (d, k).

    Raises:
        numpy.linalg.LinAlgError: A is not positive definite to working precision; on every rank.
    """
    d = len(system)
    blocks = [slice(start, min(start + BLOCK, d)) for start in range(0, d, BLOCK)]
    factor = _factorise(world, system, blocks)
    share = shard(right.shape[1], world.rank, world.size)
    solution = np.zeros(right.shape)
    solution[:, share] = _substitute(factor, blocks, right[:, share].copy())
    world.sum(solution)
    return solution


class Column(NamedTuple):
    """A block column of L.

    Attributes:
        corner: lower triangular, float64 (b, b).
        below: the rows below the corner.
    """

    corner: Floats
    below: Floats


def _factorise(world: World, system: Floats, blocks: Sequence[slice]) -> list[Column]:
    """Return L of A = LLᵀ on every rank."""
    factor = []
    for k, own in enumerate(blocks):
        width = own.stop - own.start
        column = np.empty((len(system) - own.start, width))
        if k % world.size == world.rank:
            _finish_column(system[own.start :, own], column)
        world.broadcast(column, k % world.size)
        if np.isnan(column[0, 0]):
            raise np.linalg.LinAlgError("not positive definite")
        for j in range(k + 1, len(blocks)):
            if j % world.size == world.rank:
                below = column[blocks[j].start - own.start :]
                system[blocks[j].start :, blocks[j]] -= below @ below[: blocks[j].stop - blocks[j].start].T
        factor.append(Column(column[:width], column[width:]))
    return factor


def _substitute(factor: Sequence[Column], blocks: Sequence[slice], x: Floats) -> Floats:
    """Solve LLᵀ X = B in place."""
    for own, column in zip(blocks, factor, strict=True):
        x[own] = np.linalg.solve(column.corner, x[own])
        x[own.stop :] -= column.below @ x[own]
    for own, column in reversed(list(zip(blocks, factor, strict=True))):
        x[own] = np.linalg.solve(column.corner.T, x[own] - column.below.T @ x[own.stop :])
    return x


def _finish_column(updated: Floats, column: Floats) -> None:
    """Turn an updated block column of A into a block column of L, or into NaN if the corner is not definite.

    NumPy has no triangular solve. Its general solve costs as much as inverting the corner. Unlike products with
    the inverse, it stays stable if the corner is nearly singular.
    """
    width = column.shape[1]
    try:
        column[:width] = np.linalg.cholesky(updated[:width])
    except np.linalg.LinAlgError:
        column[...] = np.nan
        return
    column[width:] = np.linalg.solve(column[:width], updated[width:].T).T
