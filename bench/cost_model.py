"""What a fit on P ranks × T threads costs: arithmetic, bytes and latencies, counted; what each costs, fitted.

docs/scaling.md derives the terms and says what they assume. Threads shorten all but a share of a rank's work
(Amdahl); a sum over the ranks costs α for each of its 2⌈log₂ P⌉ messages and β for each of its 2(P − 1)/P · n
bytes.
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


class Problem(NamedTuple):
    """What is fitted.

    Attributes:
        images: to train and to validate with.
        d: features of each.
        n_classes: how many classes there are.
        n_lambdas: λ of the grid.
        validation: the share of the images that validates.
    """

    images: int
    d: int
    n_classes: int
    n_lambdas: int
    validation: float = 0.2


class Cell(NamedTuple):
    """A measurement: how long each phase took.

    Attributes:
        problem: what was fitted.
        ranks: on how many ranks.
        threads: of each.
        seconds: by phase.
    """

    problem: Problem
    ranks: int
    threads: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Work:
    """One kind of work on one core.

    Attributes:
        unit_s: seconds a unit, with one thread.
        serial: the share of them that more threads do not shorten.
    """

    unit_s: float
    serial: float

    def seconds(self, units: float, threads: int) -> float:
        """Amdahl's law."""
        return self.unit_s * units * (self.serial + (1 - self.serial) / threads)

    @classmethod
    def fitted(cls, units: Sequence[float], threads: Sequence[int], seconds: Sequence[float]) -> Work:
        """Least squares of the relative errors, with 0 <= serial <= 1."""
        u, t, s = np.array(units), np.array(threads, float), np.array(seconds)
        best: tuple[float, Work] | None = None
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
    """The constants of a machine.

    Attributes:
        product: of moments; a unit is one product of two features, of the half of the matrix that is computed.
        system: of a factorisation; a unit is one of d³/3 multiplications.
        score: of validation; a unit is one product of a feature and a weight.
        pack: seconds a byte of moments that is packed and unpacked.
        alpha: seconds a message.
        beta: seconds a byte.
    """

    product: Work
    system: Work
    score: Work
    pack: float
    alpha: float
    beta: float

    def phases(self, problem: Problem, ranks: int, threads: int) -> dict[str, float]:
        """Predicted seconds of each phase of a fit."""
        n, d, n_classes, n_lambdas, _ = problem
        size = moments_bytes(problem)
        each, left = divmod(n_lambdas, ranks)
        weights = 8 * d * n_classes * n_lambdas
        path = self.system.seconds(min(each, EIGENDECOMPOSITION) * d**3 / 3, threads)
        if left:
            path += self._team(problem, ranks // left, threads) + self._sum(weights * left / n_lambdas, ranks)
        if each:
            path += self._sum(weights, ranks) / 2  # a gather is half of a sum
        return {
            "moments": self.product.seconds(n / ranks * d**2 / 2, threads),
            "reduce": self.pack * size + self._sum(size, ranks),
            "path": path,
            "validation": self.score.seconds(scores(problem) / ranks, threads) + self._sum(8 * n_lambdas, ranks),
            "refit": self._team(problem, ranks, threads) + self._sum(8 * d * n_classes, ranks),
        }

    def seconds(self, problem: Problem, ranks: int, threads: int) -> float:
        """Predicted seconds of a fit."""
        return sum(self.phases(problem, ranks, threads).values())

    def _sum(self, size: float, ranks: int) -> float:
        """A sum over the ranks, of so many bytes."""
        if ranks == 1:
            return 0.0
        return 2 * ceil(log2(ranks)) * self.alpha + 2 * (ranks - 1) / ranks * size * self.beta

    def _team(self, problem: Problem, ranks: int, threads: int) -> float:
        """A system that a team factorises: the updates are shared, finishing a block column is not."""
        d = problem.d
        ranks = min(ranks, most_ranks(d))
        share = 1 / ranks + (1.5 * BLOCK / d if ranks > 1 else 0)
        messages = ceil(log2(ranks)) * (most_ranks(d) * self.alpha + 8 * d**2 / 2 * self.beta)
        return (
            self.system.seconds(share * d**3 / 3, threads) + messages + self._sum(8 * d * problem.n_classes, ranks)
        )

    def on(self, alpha: float, beta: float) -> CostModel:
        """The same cores with another network between them."""
        return replace(self, alpha=alpha, beta=beta)

    @classmethod
    def fitted(cls, cells: Sequence[Cell], sums: Sequence[tuple[int, float]]) -> CostModel:
        """The constants that explain measured cells, and sums (bytes, seconds) over two ranks."""
        alpha = sums[0][1] / 2  # two messages, and next to no bytes
        beta = sums[-1][1] / sums[-1][0]  # 2(P − 1)/P is 1
        alone = [cell for cell in cells if cell.ranks == 1]
        systems = [min(cell.problem.n_lambdas, EIGENDECOMPOSITION) for cell in alone]
        threads = [cell.threads for cell in alone]
        every = [cell.threads for cell in cells]
        return cls(
            product=Work.fitted(
                [cell.problem.images / cell.ranks * cell.problem.d**2 / 2 for cell in cells], every,
                [cell.seconds["moments"] for cell in cells],
            ),
            system=Work.fitted(
                [n * cell.problem.d**3 / 3 for n, cell in zip(systems, alone, strict=True)], threads,
                [cell.seconds["path"] for cell in alone],
            ),
            score=Work.fitted(
                [scores(cell.problem) / cell.ranks for cell in cells], every,
                [cell.seconds["validation"] for cell in cells],
            ),
            pack=float(np.median([cell.seconds["reduce"] / moments_bytes(cell.problem) for cell in alone])),
            alpha=alpha, beta=beta,
        )  # fmt: skip


def moments_bytes(problem: Problem) -> int:
    """Of two folds: training and validation."""
    return 2 * 8 * flat_length(problem.d, problem.n_classes)


def scores(problem: Problem) -> float:
    """Products of a feature and a weight in validation."""
    return problem.images * problem.validation * problem.d * problem.n_classes * problem.n_lambdas
