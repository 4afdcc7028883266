"""A ridge problem whose images are dealt out to ranks: the steps that both ridge jobs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from common.arrays import Labels
from common.blas import limit_blas
from common.console import Console
from common.data.catalogue import Skipped
from common.data.images import Block
from common.data.splits import ALWAYS_TRAINING
from common.features.augmentation import Augmentation
from common.features.feature_map import FeatureMap
from common.ridge.fit import MAX_PACKED_BYTES, Fit, Problem
from common.ridge.gram import BlasProduct, GramProduct, Tile, TiledProduct, best_product, even_tile
from common.ridge.kept import with_features
from common.ridge.moments import (
    FoldMoments,
    FoldSums,
    Moments,
    flatten,
    total,
    training_moments,
    unflatten,
)
from common.ridge.path import RidgePath
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.world import AtRoot, World
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.shares import HeldOut, dealt_blocks


class RankSettings(NamedTuple):
    """Settings of the work of each rank.

    Attributes:
        threads: the number of threads of each rank.
        tile: multiply in tiles of this size, dealt out to the threads; "blas" to leave the product to the threads
            of BLAS; None for tiles that give all threads the same amount of work.
        images: "read" if each rank reads its own images; "scatter" if rank 0 reads all of them and sends them.
        whole: the largest size, in bytes, of moments that each rank holds as a whole.
    """

    threads: int = 1
    tile: Tile | Literal["blas"] | None = None
    images: str = "read"
    whole: int = MAX_PACKED_BYTES

    def blas_threads(self, world: World) -> int:
        """Return the number of threads that BLAS may use in each rank.

        They wait for each other in a busy loop. Without a core for each thread that is ruinous, so there are no
        more of them than cores, unless tile is "blas".
        """
        if self.tile == "blas":
            return self.threads
        return min(self.threads, max(1, world.cores // world.neighbours))

    def product_for(self, d: int) -> GramProduct:
        """Return the product for d features: what `tile` says, or the fastest."""
        if isinstance(self.tile, Tile):
            return TiledProduct(d, self.tile, self.threads)
        if self.tile is None:
            fastest = best_product(d, self.threads)
            # in float32, tiles share out the additions too
            if self.threads > 1 and isinstance(fastest, BlasProduct):
                return TiledProduct(d, even_tile(d, self.threads), self.threads)
            return fastest
        return BlasProduct(d)


class ProblemSize(NamedTuple):
    """The facts about a problem that every rank needs.

    Attributes:
        n_images: the number of training and validation images.
        shape: (height, width, channels) of each.
        n_features: the number of features of each, d.
        n_classes: the number of classes.
        moments_bytes: the size of the moments of all folds, as a whole.
        folds: the numbers of all folds.
        lambdas: the grid.
        penalty: "sum", "mean" or "scaled".
        features: computes the features of images.
        augmentation: the variants of each image that are fitted with it.
        keeps: True if ranks keep the features of images that validate.
        names_wanted: see Problem.names_wanted.
    """

    n_images: int
    shape: tuple[int, int, int]
    n_features: int
    n_classes: int
    moments_bytes: int
    folds: tuple[int, ...]
    lambdas: tuple[float, ...]
    penalty: str
    features: FeatureMap
    augmentation: Augmentation
    keeps: bool
    names_wanted: bool

    @classmethod
    def of(cls, problem: Problem, ranks: int) -> ProblemSize:
        """Return the facts about a problem that so many ranks share."""
        return cls(
            len(problem.images),
            problem.images.shape,
            problem.n_features,
            problem.n_classes,
            problem.moments_bytes,
            problem.folds,
            problem.lambdas,
            problem.penalty,
            problem.features,
            problem.augmentation,
            problem.keeps(ranks),
            problem.names_wanted,
        )


class DealtProblem:
    """A ridge problem on all ranks. Every rank calls every method, in the same order.

    Args:
        world: the ranks.
        problem: the problem, on rank 0.
        settings: how each rank works.
        clock: shows progress and measures phases; silent if None.

    Attributes:
        size: the facts about the problem.
        console: the console of the clock.
    """

    def __init__(
        self,
        world: World,
        problem: AtRoot[Problem],
        settings: RankSettings = RankSettings(),
        clock: RankClock | None = None,
    ) -> None:
        self._world = world
        self._problem = problem
        self._settings = settings
        self._clock = clock or RankClock(world, Console(quiet=True))
        self._skipped: list[Skipped] = []
        self._moments: FoldMoments = {}
        self._products: frozenset[str] = frozenset()
        self.console = self._clock.console
        self.size = problem.share(partial(ProblemSize.of, ranks=world.size))

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a phase on this rank."""
        return self._clock.phase(name)

    def read(self) -> tuple[FoldMoments, list[Block]]:
        """Read this rank's share of the training and validation images, a block at a time, and sum it.

        Returns:
            the moments of the share, by fold; and its held-out images, which alone stay in memory.

        Raises:
            AgreedError: images cannot be read, or too many were skipped.
        """
        settings, size = self._settings, self.size
        product, blas = settings.product_for(size.n_features), settings.blas_threads(self._world)
        # Threads that share out tiles need a BLAS of one thread each.
        limit_blas(1 if isinstance(product, TiledProduct) else blas)
        sums = FoldSums(size.n_classes, size.features, size.augmentation, lambda _d: product)
        held_out = self.each_block(sums.add_block)
        with self.phase("moments"):
            moments = sums.result()
        limit_blas(blas)
        self._products = sums.products
        return moments, held_out

    def each_block(self, use: Callable[[Block], None], finish: Callable[[], None] = lambda: None) -> list[Block]:
        """Read this rank's share of the training and validation images, a block at a time.

        Args:
            use: called with each block.
            finish: called on every rank after its last block.

        Returns:
            the held-out images, which alone stay in memory.

        Raises:
            AgreedError: images cannot be read, or too many were skipped.
        """
        held_out = HeldOut()
        images = self._world.make_at_root(lambda: self._problem.value.images)
        with self.console.bar(self.size.n_images // self._world.size, "img") as advance:
            delivery, names = self._settings.images, self.size.names_wanted
            blocks = dealt_blocks(images, delivery, self._clock, "read", self._note_skipped, names, finish)
            for block in blocks:
                with self.phase("moments"):
                    if self.size.keeps:
                        block = with_features(block, self.size.features)
                    use(block)
                held_out.add(block)
                self._clock.images += len(block.labels)
                advance(len(block.labels) + len(block.skipped))
        return held_out.result()

    def _note_skipped(self, skipped: Sequence[Skipped]) -> None:
        self._problem.value.check_skipped(skipped)
        self._skipped = list(skipped)

    def sum(self, own: FoldMoments) -> tuple[Moments, FoldMoments]:
        """Add up the moments of all ranks.

        Args:
            own: the moments of this rank's images.

        Returns:
            the moments of all images; and for each fold that validates, the moments of all other images.

        Raises:
            AgreedError: a fold has no image left.
        """
        d, n_classes, folds = self.size.n_features, self.size.n_classes, self.size.folds
        with self.phase("reduce"):
            flat = flatten(own, folds, d, n_classes)
            self._world.sum(flat)
            moments = unflatten(flat, folds, d, n_classes)
            del flat
        self.check_folds(moments)
        if self._world.is_root:
            self._moments = moments  # for their fingerprint
        with self.phase("reduce"):
            everything = total(moments)
            return everything, training_moments(moments, everything)

    def check_folds(self, readable: Iterable[int]) -> None:
        """Make sure that every fold kept images.

        Raises:
            AgreedError: a fold has no image left.
        """
        self._problem.run(lambda problem: problem.check_folds(readable))

    def count(self, scored: int, correct: Labels) -> tuple[int, Labels]:
        """Add up the ranks' numbers of images scored and of images that each λ classifies correctly."""
        counts = np.array([scored, *correct])
        self._world.sum(counts)
        return int(counts[0]), counts[1:]

    def best_lambda(self, correct: Labels) -> float:
        """Return the λ to choose, given the number of held-out images that each λ gets right, (n_lambdas,)."""
        return self._problem.share(lambda problem: problem.best_lambda(correct))

    def refit(self, everything: Moments, lambda_: float) -> RidgePath:
        """Fit one λ to all images, all ranks together."""
        one = ALWAYS_TRAINING
        return solve_grid(self._world, {one: everything}, [lambda_], self.size.penalty).paths()[one]

    def result(self, path: RidgePath, lambda_: float, n: int, n_validation: int, correct: Labels) -> Fit:
        """Make a Fit of a path of length one to n images, their variants counted.

        Rank 0 alone has its moments and the skipped images.
        """
        n_fitted = n // self.size.augmentation.n_variants
        model = self._problem.share(lambda problem: problem.model(path, lambda_))
        products = frozenset().union(*self._world.gather(self._products))
        return Fit(
            model,
            n_fitted,
            n_validation,
            correct,
            self._moments or None,
            products=products,
            skipped=self._skipped,
        )
