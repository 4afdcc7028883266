"""The cost of a fit on P ranks × T threads: operations, bytes and messages are counted, unit costs are fitted.

docs/explanation/scaling.md derives the terms and states their assumptions. Threads shorten all but a share of a
rank's work (Amdahl). A sum over the ranks costs α for each of its 2⌈log₂ P⌉ messages and β for each of its
2(P − 1)/P · n bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import NamedTuple

import numpy as np

from common.arrays import Floats
from common.ridge.moments import flat_length
from mpi_jobs.ridge.cholesky import BLOCK, most_ranks
from mpi_jobs.ridge.grid import EIGENDECOMPOSITION


class FitSize(NamedTuple):
    """The size of a fit.

    Attributes:
        images: the number of training and validation images together.
        d: the number of features.
        n_classes: the number of classes.
        n_lambdas: the number of λ.
        validation: the fraction of the images that is held out.
    """

    images: int
    d: int
    n_classes: int
    n_lambdas: int
    validation: float = 0.2


class Cell(NamedTuple):
    """A measured fit.

    Attributes:
        problem: the size of the fit.
        ranks: the number of ranks.
        threads: threads per rank.
        seconds: seconds by phase.
    """

    problem: FitSize
    ranks: int
    threads: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class UnitCost:
    """The cost of one kind of work on one rank.

    Attributes:
        unit_s: seconds per unit, with one thread.
        serial: the share of these seconds that more threads do not shorten.
    """

    unit_s: float
    serial: float

    def seconds(self, units: float, threads: int) -> float:
        """Return the seconds of some units of work, by Amdahl's law."""
        return self.unit_s * units * (self.serial + (1 - self.serial) / threads)

    @classmethod
    def fitted(cls, units: Sequence[float], threads: Sequence[int], seconds: Sequence[float]) -> UnitCost:
        """Fit the constants by least squares of the relative errors, with 0 <= serial <= 1."""
        u, t, s = np.array(units), np.array(threads, float), np.array(seconds)
        best: tuple[float, UnitCost] | None = None
        for serial in np.linspace(0, 1, 101):
            relative: Floats = u * (serial + (1 - serial) / t) / s
            unit_s = float(relative.sum() / np.square(relative).sum())
            error = float(np.square(unit_s * relative - 1).sum())
            if best is None or error < best[0]:
                best = error, cls(unit_s, float(serial))
        if best is None:
            raise ValueError("nothing to fit")
        return best[1]


@dataclass(frozen=True)
class CostModel:
    """The unit costs of a machine.

    Attributes:
        product: cost of moments, per product of two features in the half of the matrix that is computed.
        system: cost of a factorisation, per one of its d³/3 multiplications.
        score: cost of validation, per product of a feature and a weight.
        pack: seconds per byte to pack and unpack moments.
        alpha: seconds per message.
        beta: seconds per byte sent.
    """

    product: UnitCost
    system: UnitCost
    score: UnitCost
    pack: float
    alpha: float
    beta: float

    def phases(self, problem: FitSize, ranks: int, threads: int) -> dict[str, float]:
        """Predict the seconds of each phase of a fit."""
        n, d, n_classes, n_lambdas, _ = problem
        size = moments_bytes(problem)
        per_rank, left = divmod(n_lambdas, ranks)
        weights = 8 * d * n_classes * n_lambdas
        path = self.system.seconds(min(per_rank, EIGENDECOMPOSITION) * d**3 / 3, threads)
        if left:
            path += self._team(problem, ranks // left, threads) + self._sum(weights * left / n_lambdas, ranks)
        if per_rank:
            path += self._sum(weights, ranks) / 2  # a gather is half of a sum
        return {
            "moments": self.product.seconds(n / ranks * d**2 / 2, threads),
            "reduce": self.pack * size + self._sum(size, ranks),
            "path": path,
            "validation": self.score.seconds(scores(problem) / ranks, threads) + self._sum(8 * n_lambdas, ranks),
            "refit": self._team(problem, ranks, threads) + self._sum(8 * d * n_classes, ranks),
        }

    def seconds(self, problem: FitSize, ranks: int, threads: int) -> float:
        """Predict the seconds of a fit."""
        return sum(self.phases(problem, ranks, threads).values())

    def _sum(self, size: float, ranks: int) -> float:
        """Predict the seconds of a sum of `size` bytes over the ranks."""
        if ranks == 1:
            return 0.0
        return 2 * ceil(log2(ranks)) * self.alpha + 2 * (ranks - 1) / ranks * size * self.beta

    def _team(self, problem: FitSize, ranks: int, threads: int) -> float:
        """Predict the seconds in which a team factorises a system: it shares the updates of block columns only."""
        d = problem.d
        ranks = min(ranks, most_ranks(d))
        share = 1 / ranks + (1.5 * BLOCK / d if ranks > 1 else 0)
        messages = ceil(log2(ranks)) * (most_ranks(d) * self.alpha + 8 * d**2 / 2 * self.beta)
        return (
            self.system.seconds(share * d**3 / 3, threads) + messages + self._sum(8 * d * problem.n_classes, ranks)
        )

    def on(self, alpha: float, beta: float) -> CostModel:
        """Return the model of the same cores with another network between them."""
        return replace(self, alpha=alpha, beta=beta)

    @classmethod
    def fitted(cls, cells: Sequence[Cell], sums: Sequence[tuple[int, float]]) -> CostModel:
        """Fit the unit costs to measured fits, and to sums over two ranks of (bytes, seconds)."""
        alpha = sums[0][1] / 2  # two messages of next to no bytes
        beta = sums[-1][1] / sums[-1][0]  # 2(P − 1)/P is 1
        alone = [cell for cell in cells if cell.ranks == 1]
        systems = [min(cell.problem.n_lambdas, EIGENDECOMPOSITION) for cell in alone]
        alone_threads = [cell.threads for cell in alone]
        all_threads = [cell.threads for cell in cells]
        return cls(
            product=UnitCost.fitted(
                [cell.problem.images / cell.ranks * cell.problem.d**2 / 2 for cell in cells],
                all_threads,
                [cell.seconds["moments"] for cell in cells],
            ),
            system=UnitCost.fitted(
                [n * cell.problem.d**3 / 3 for n, cell in zip(systems, alone, strict=True)],
                alone_threads,
                [cell.seconds["path"] for cell in alone],
            ),
            score=UnitCost.fitted(
                [scores(cell.problem) / cell.ranks for cell in cells],
                all_threads,
                [cell.seconds["validation"] for cell in cells],
            ),
            pack=float(np.median([cell.seconds["reduce"] / moments_bytes(cell.problem) for cell in alone])),
            alpha=alpha,
            beta=beta,
        )


def moments_bytes(problem: FitSize) -> int:
    """Return the bytes of the moments of two folds, training and validation."""
    return 2 * 8 * flat_length(problem.d, problem.n_classes)


def scores(problem: FitSize) -> float:
    """Count the products of a feature and a weight in validation."""
    return problem.images * problem.validation * problem.d * problem.n_classes * problem.n_lambdas
