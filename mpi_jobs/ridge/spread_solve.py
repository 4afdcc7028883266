"""Symmetric positive definite systems in tiles, solved by all ranks together.

A = LLᵀ is factorised by block columns, right-looking (Golub and Van Loan, Matrix Computations, 4th ed., section
4.2.8), on a grid of ranks (tiled_moments.TileGrid). For block column k,

    the owner of tile (k, k) factorises it and sends it to all ranks;
    the ranks of its column of the grid finish their tiles L_ik = A_ik L_kk⁻ᵀ;
    each rank receives the L_ik of its own rows i and the L_jk of its own columns j, and no others;
    A_ij ← A_ij − L_ik L_jkᵀ for all of its tiles with i ≥ j > k.

So a rank receives about d²/2p + d²/2q numbers, which falls as the ranks become more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from common.arrays import Floats
from common.ridge.path import RidgePath, with_intercepts
from common.ridge.penalty import feature_scale, penalty_weight
from common.ridge.tiled_moments import TiledMoments, TileGrid, Tiles
from common.ridge.tiles import Place, Tiling
from mpi_jobs.engine.world import World

REFINED = 1e-10
"""The relative residual above which a solution is refined once more."""

MOST_REFINEMENTS = 3


class SpreadSystem:
    """The centred systems of one set of images at any λ, in tiles on the ranks. Every rank calls every method.

    Args:
        ranks: the ranks as a grid.
        tiling: the tiles.
        everything: the moments of all images.
        held_out: the moments of the images to leave out; None to leave out none.
    """

    def __init__(
        self, ranks: GridRanks, tiling: Tiling, everything: TiledMoments, held_out: TiledMoments | None = None
    ) -> None:
        self._ranks, self._tiling = ranks, tiling
        self._everything, self._held_out = everything, held_out
        self.n = everything.n - (held_out.n if held_out else 0)
        self.sum_x = everything.sum_x - (held_out.sum_x if held_out else 0)
        self.sum_y = everything.sum_y - (held_out.sum_y if held_out else 0)
        cross = everything.cross - (held_out.cross if held_out else 0)
        self.cross: Floats = (self.n * cross - np.outer(self.sum_x, self.sum_y)) / self.n
        self._diagonal = np.zeros(tiling.d)
        for i in range(tiling.n):
            if (i, i) in everything.tiles:
                self._diagonal[tiling.stripe(i)] = self._centred((i, i)).diagonal()
        ranks.world.sum(self._diagonal)

    def solve(self, lambda_: float, penalty: str) -> tuple[Floats, float]:
        """Return the weights at one λ, float64 (d, n_classes), and the relative residual of their system.

        The system is scaled to a unit diagonal, as in path.ridge_fits. The residual is that of the scaled system,
        ‖B − AX‖ / ‖B‖ in the Frobenius norm.

        Args:
            lambda_: finite and not negative.
            penalty: "sum", "mean" or "scaled".

        Raises:
            numpy.linalg.LinAlgError: the system is not positive definite to working precision; on every rank.
        """
        weight = penalty_weight(lambda_, penalty, self.n)
        of_features = feature_scale(self._diagonal, penalty, self.n)
        diagonal = self._diagonal if of_features is None else self._diagonal * of_features**2
        if weight <= len(diagonal) * np.finfo(np.float64).eps * diagonal.sum():
            raise np.linalg.LinAlgError("λ is lost in rounding errors")
        scale = 1 / np.sqrt(diagonal + weight)
        if of_features is not None:
            scale *= of_features

        def tile(place: Place) -> Floats:
            rows, columns = (scale[self._tiling.stripe(i)] for i in place)
            scaled = self._centred(place)
            scaled *= rows[:, None]
            scaled *= columns
            if place[0] == place[1]:
                scaled.flat[:: len(scaled) + 1] = 1
            return scaled

        own = list(self._everything.tiles)
        right = self.cross * scale[:, None]
        factor = Factor.of(self._ranks, self._tiling, {place: tile(place) for place in own})
        solution, left, residual = np.zeros_like(right), right, 1.0
        for _ in range(MOST_REFINEMENTS):
            solution += factor.solve(left)
            left = right - self._times(own, tile, solution)
            residual = float(np.linalg.norm(left) / max(np.linalg.norm(right), np.finfo(np.float64).tiny))
            if residual <= REFINED:
                break
        return solution * scale[:, None], residual

    def _centred(self, place: Place) -> Floats:
        """Return a tile of the centred Gram matrix, computed as Moments.centred does."""
        rows, columns = (self.sum_x[self._tiling.stripe(i)] for i in place)
        gram = self._everything.tiles[place]
        gram = gram.copy() if self._held_out is None else gram - self._held_out.tiles[place]
        gram *= self.n
        gram -= np.outer(rows, columns)
        gram /= self.n
        return gram

    def _times(self, own: Sequence[Place], tile: Callable[[Place], Floats], x: Floats) -> Floats:
        """Return A x for the matrix of which `tile` makes the lower half."""
        product = np.zeros_like(x)
        for i, j in own:
            rows, columns, a = self._tiling.stripe(i), self._tiling.stripe(j), tile((i, j))
            product[rows] += a @ x[columns]
            if i != j:
                product[columns] += a.T @ x[rows]
        self._ranks.world.sum(product)
        return product


class GridRanks:
    """The ranks, and the teams of each row and each column of their grid. All ranks make one.

    Args:
        world: the ranks.

    Attributes:
        world: as above.
        grid: the grid.
        row: this rank's row in it.
        column: this rank's column in it.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.grid = TileGrid.of(world.size)
        self.row, self.column = divmod(world.rank, self.grid.columns)
        self._in_row = cast(World, world.split(self.row))
        self._in_column = cast(World, world.split(self.column))

    def spread_column(self, panel: Tiles, tiling: Tiling, k: int) -> tuple[Tiles, Tiles]:
        """Send the finished tiles of block column k to the ranks that need them.

        Args:
            panel: this rank's tiles (i, k) with i > k, by place; empty outside their column of the grid.
            tiling: the tiles.
            k: the block column.

        Returns:
            the tiles (i, k) of this rank's rows i, and those of its columns j, by place.
        """
        below = range(k + 1, tiling.n)
        of_rows = [(i, k) for i in below if i % self.grid.rows == self.row]
        rows = _broadcast(self._in_row, k % self.grid.columns, of_rows, panel, tiling)
        columns: Tiles = {}
        for sender in range(self.grid.rows):
            wanted = [
                (j, k) for j in below if j % self.grid.columns == self.column and j % self.grid.rows == sender
            ]
            columns |= _broadcast(self._in_column, sender, wanted, rows, tiling)
        return rows, columns


def _broadcast(team: World, sender: int, places: Sequence[Place], held: Tiles, tiling: Tiling) -> Tiles:
    """Send tiles from one rank of a team to the others, in one array."""
    if team.size == 1:
        return {place: held[place] for place in places}
    if not places:
        return {}
    shapes = [tiling.shape(place) for place in places]
    stack = np.empty((sum(rows for rows, _ in shapes), shapes[0][1]))
    parts = np.split(stack, np.cumsum([rows for rows, _ in shapes])[:-1])
    if team.rank == sender:
        for part, place in zip(parts, places, strict=True):
            part[...] = held[place]
    team.broadcast(stack, sender)
    return dict(zip(places, parts, strict=True))


class Factor(NamedTuple):
    """L of A = LLᵀ, in tiles on the ranks.

    Attributes:
        ranks: the ranks as a grid.
        tiling: the tiles.
        tiles: this rank's tiles of L.
        corners: the tiles (k, k) of L, on every rank.
    """

    ranks: GridRanks
    tiling: Tiling
    tiles: Tiles
    corners: list[Floats]

    @classmethod
    def of(cls, ranks: GridRanks, tiling: Tiling, tiles: Tiles) -> Factor:
        """Factorise a matrix; its tiles are overwritten.

        Raises:
            numpy.linalg.LinAlgError: it is not positive definite to working precision; on every rank.
        """
        corners = []
        for k in range(tiling.n):
            corner = np.empty(tiling.shape((k, k)))
            if (k, k) in tiles:
                tiles[k, k][...] = corner[...] = _corner(tiles[k, k])
            ranks.world.broadcast(corner, ranks.grid.owner((k, k)))
            if np.isnan(corner[0, 0]):
                raise np.linalg.LinAlgError("not positive definite")
            corners.append(corner)
            below = [place for place in tiles if place[1] == k and place[0] > k]
            _finish(corner, [tiles[place] for place in below])
            rows, columns = ranks.spread_column({place: tiles[place] for place in below}, tiling, k)
            for (i, j), tile in tiles.items():
                if j > k:
                    tile -= rows[i, k] @ columns[j, k].T
        return cls(ranks, tiling, tiles, corners)

    def solve(self, right: Floats) -> Floats:
        """Solve A X = B by two substitutions; every rank calls this with the same B, float64 (d, k)."""
        return self._substitute(self._substitute(right, lower=True), lower=False)

    def _substitute(self, right: Floats, lower: bool) -> Floats:
        """Solve L X = B, or LᵀX = B.

        Each rank multiplies its own tiles with the parts of X that are known, and the products are added up over
        the ranks when the next part is due.
        """
        x = right.copy()
        known = np.zeros_like(right)  # this rank's part of the products with the parts that are known
        for k in range(self.tiling.n) if lower else reversed(range(self.tiling.n)):
            own, corner = self.tiling.stripe(k), self.corners[k]
            part = known[own].copy()
            self.ranks.world.sum(part)
            x[own] = np.linalg.solve(corner if lower else corner.T, x[own] - part)
            for (i, j), tile in self.tiles.items():
                if lower and j == k < i:
                    known[self.tiling.stripe(i)] += tile @ x[own]
                elif not lower and i == k > j:
                    known[self.tiling.stripe(j)] += tile.T @ x[own]
        return x


def _corner(tile: Floats) -> Floats:
    """Return the Cholesky factor of a tile, or NaN if it is not definite."""
    try:
        return np.asarray(np.linalg.cholesky(tile), np.float64)
    except np.linalg.LinAlgError:
        return np.full_like(tile, np.nan)


def _finish(corner: Floats, below: Sequence[Floats]) -> None:
    """Turn updated tiles A_ik into L_ik = A_ik L_kk⁻ᵀ, in place.

    NumPy has no triangular solve. Its general solve stays stable where a product with the inverse would not, and
    costs little beside the updates.
    """
    if below:
        solved = np.linalg.solve(corner, np.concatenate(below).T).T
        start = 0
        for tile in below:
            tile[...] = solved[start : start + len(tile)]
            start += len(tile)


def spread_path(system: SpreadSystem, lambdas: Sequence[float], penalty: str) -> tuple[RidgePath, list[float]]:
    """Fit each λ by a factorisation of its own; return the path and the relative residual of each λ.

    Raises:
        numpy.linalg.LinAlgError: a system is not positive definite to working precision; on every rank.
    """
    solved = [system.solve(lambda_, penalty) for lambda_ in lambdas]
    weights = np.stack([weights for weights, _ in solved])
    return with_intercepts(system, weights), [residual for _, residual in solved]
