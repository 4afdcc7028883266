"""A ridge experiment on all ranks: rank 0 opens the data and writes the run folder, the others help."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Labels
from common.blas import limit_blas
from common.console import Console
from common.data.catalogue import Skipped
from common.data.images import Block, Images
from common.data.splits import ALWAYS_TRAINING
from common.errors import InputError
from common.evaluate.evaluation import Evaluation
from common.provenance import Engine, command
from common.ridge.gram import BLOCK_ROWS, BlasProduct, Tile, TiledProduct, even_tile
from common.ridge.model import RidgeModel
from common.ridge.moments import (
    FoldMoments,
    FoldSums,
    Moments,
    fingerprint,
    flatten,
    total,
    training_moments,
    unflatten,
)
from common.ridge.path import RidgePath
from common.ridge.scoring import evaluate
from common.run.flags import Parser, positive_integer, ridge_parser
from common.run.ridge import Experiment, RidgeFlags
from mpi_jobs.engine.clock import Clock
from mpi_jobs.engine.world import World, counted_ranks, library
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.shares import WAYS, HeldOut, own_blocks


def ranked_parser(description: str) -> Parser:
    """A parser with the flags of every ridge job on MPI."""
    parser = ridge_parser(description)
    group = parser.add_argument_group("ranks")
    group.add_argument(
        "--threads", metavar="T", type=positive_integer,
        help="threads of each rank (default: the cores of a machine, shared out among its ranks)",
    )  # fmt: skip
    group.add_argument(
        "--images", choices=WAYS, default="read",
        help="whether each rank reads its own images, or rank 0 reads all and scatters them",
    )  # fmt: skip
    group.add_argument(
        "--tile", metavar="ROWSxCOLUMNS", type=_tile,
        help="multiply in tiles of this size, dealt out to the threads, or by BLAS's own threads: blas "
        "(default: tiles that give all threads the same to do)",
    )  # fmt: skip
    return parser


def _tile(text: str) -> Tile | str:
    if text == "blas":
        return text
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal()) or not 1 <= int(rows) <= BLOCK_ROWS or not int(columns):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither blas nor ROWSxCOLUMNS of at most {BLOCK_ROWS:,} rows, such as 1024x256"
        )
    return Tile(int(rows), int(columns))


class Facts(NamedTuple):
    """What every rank has to know of the images.

    Attributes:
        d: features of each.
        n_classes: how many classes there are.
        n_train: training and validation images.
        n_test: test images.
    """

    d: int
    n_classes: int
    n_train: int
    n_test: int


class RankedExperiment(RidgeFlags):
    """One run of a ridge job on all ranks.

    Args:
        world: the ranks, all of which make this.
        job: the job's name.
        parser: of its flags.
        argv: the flags; None for this process's own.

    Attributes:
        world: as above.
        arguments: the flags.
        facts: about the images.
        threads: of each rank.
        root: rank 0's experiment; None elsewhere.

    Raises:
        AgreedError: flags or data are wrong; on every rank.
        SystemExit: --help, or flags that do not parse; on every rank.
    """

    def __init__(self, world: World, job: str, parser: Parser, argv: Sequence[str] | None) -> None:
        self.world = world
        self.arguments = world.at_root(lambda: parser.parse_arguments(argv))
        self.threads: int = self.arguments.threads or max(1, world.cores // world.neighbours)
        self._warn_of_crowding()
        limit_blas(self._blas_threads)
        self.root = world.at_root_only(lambda: Experiment.open(job, self.arguments))
        self._console = self.root.console if self.root else Console(quiet=True)
        self.facts = world.at_root(self._facts)
        self._clock = Clock(world, self._console)
        self._n_images = 0
        self._moments: FoldMoments = {}

    @property
    def _blas_threads(self) -> int:
        """Threads of BLAS, which wait for each other in a busy loop: without a core for each that is ruinous."""
        if self.arguments.tile == "blas":
            return self.threads
        return min(self.threads, max(1, self.world.cores // self.world.neighbours))

    def _warn_of_crowding(self) -> None:
        ranks, cores, blas = self.world.neighbours, self.world.cores, self._blas_threads
        if self.world.is_root and blas > 1 and ranks * blas > cores:
            Console().warn(
                f"{counted_ranks(ranks)} × {blas} threads of BLAS on {cores} cores get in each other's way; "
                f"--threads {max(1, cores // ranks)} would be faster"
            )

    def _facts(self) -> Facts:
        train, test = self._opened.train, self._opened.test
        return Facts(train.n_features, len(train.class_names), len(train), len(test))

    @property
    def _opened(self) -> Experiment:
        """The experiment, for what only rank 0 does."""
        if self.root is None:
            raise ValueError("only rank 0 has the experiment open")
        return self.root

    @property
    def folds(self) -> list[int]:
        """The numbers of all folds."""
        k = self.arguments.folds
        return list(range(k)) if k else [ALWAYS_TRAINING, 0]

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a phase on this rank."""
        return self._clock.phase(name)

    def read(self) -> tuple[FoldMoments, list[Block]]:
        """Read this rank's share of the training and validation images, a block at a time, and sum it up.

        Returns:
            the moments of all of them, fold by fold, and those that validate, which alone are kept.

        Raises:
            AgreedError: they cannot be read, or too many are unusable.
        """
        tile = self._tile()
        if tile is not None:
            limit_blas(1)  # each of the threads has its own
        product = partial(TiledProduct, tile=tile, threads=self.threads) if tile else BlasProduct
        sums = FoldSums(self.facts.n_classes, product)
        held_out = HeldOut(self.facts.d)
        with self._console.bar(self.facts.n_train // self.world.size, "img") as advance:
            for block in self._blocks(self.root.train if self.root else None, "read"):
                with self.phase("moments"):
                    sums.add(block.pixels, block.labels, block.folds)
                held_out.add(block)
                advance(len(block.labels) + len(block.skipped))
            with self.phase("moments"):
                moments = sums.result()
        limit_blas(self._blas_threads)
        return moments, held_out.result()

    def _tile(self) -> Tile | None:
        """The tiles to multiply by; None to leave it to BLAS, which one thread cannot better."""
        asked: Tile | str | None = self.arguments.tile
        if isinstance(asked, Tile):
            return asked
        if asked == "blas" or self.threads == 1:
            return None
        return even_tile(self.facts.d, self.threads)

    def _blocks(self, images: Images | None, phase: str, names: bool = False) -> Iterator[Block]:
        """The blocks of this rank's images; at their end, what was unusable on any rank has been noted."""
        skipped: list[Skipped] = []
        n, problem = 0, None
        with self.phase(phase):
            blocks = own_blocks(self.world, images, self.arguments.images, names)
        while True:
            try:
                with self.phase(phase):
                    block = next(blocks, None)
            except (InputError, OSError) as error:
                problem, block = error, None
            if block is None:
                break
            skipped += block.skipped
            n += len(block.labels)
            yield block
        if skipped and not n and problem is None:  # as on a machine where their folder is not mounted
            problem = InputError(
                f"none of its {len(skipped)} images can be used; {skipped[0].name}: {skipped[0].reason}"
            )

        def agree() -> None:
            if problem is not None:
                raise InputError(
                    f"rank {self.world.rank} on {platform.node()}: {problem}; where only rank 0 sees the images, "
                    "--images scatter lets it send them"
                )

        with self.phase(phase):
            self.world.everywhere(agree)
            everyone = self.world.gather(skipped)
            self.world.at_root(lambda: self._note([image for each in everyone for image in each], images))

    def _note(self, skipped: list[Skipped], images: Images | None) -> None:
        if images is not None:
            self._opened.note_skipped(skipped, images)

    def sum(self, own: FoldMoments) -> tuple[Moments, FoldMoments]:
        """Add up the moments of all ranks.

        Args:
            own: of this rank's images.

        Returns:
            the moments of all images, and for each fold that validates those of the other folds; on every rank.

        Raises:
            AgreedError: a fold has no image left.
        """
        d, n_classes = self.facts.d, self.facts.n_classes
        self._n_images = sum(moments.n for moments in own.values())
        with self.phase("reduce"):
            flat = flatten(own, self.folds, d, n_classes)
            self.world.sum(flat)
            moments = unflatten(flat, self.folds, d, n_classes)
            del flat
        self.world.at_root(lambda: self._opened.check_folds(moments))
        if self.world.is_root:
            self._moments = moments  # for their fingerprint
        with self.phase("reduce"):
            everything = total(moments)
            return everything, training_moments(moments, everything)

    def refit(self, everything: Moments, lambda_: float) -> RidgePath:
        """Fit one λ to all images, all ranks together."""
        everyone = ALWAYS_TRAINING
        return solve_grid(self.world, {everyone: everything}, [lambda_], self.penalty).paths()[everyone]

    def count(self, scored: int, correct: Labels) -> tuple[int, Labels]:
        """How many images all ranks together scored, and how many of them each λ classified correctly."""
        counts = np.array([scored, *correct])
        self.world.sum(counts)
        return int(counts[0]), counts[1:]

    def best(self, correct: Labels) -> float:
        """The λ to choose from the validation images that each classifies correctly, int (n_lambdas,)."""
        return self.world.at_root(lambda: self._opened.best(correct))

    def test(self, fits: Sequence[tuple[RidgePath, float]]) -> list[tuple[RidgeModel, Evaluation]]:
        """Make models of paths of length one and their λ, and score them on all test images.

        Returns:
            them, on rank 0; an empty list elsewhere.

        Raises:
            AgreedError: test images cannot be read, or too many are unusable.
        """
        models = self.world.at_root(lambda: [self._opened.model(path, lambda_) for path, lambda_ in fits])
        own: list[Evaluation] = []
        with self._console.bar(self.facts.n_test // self.world.size, "img") as advance:
            for block in self._blocks(self.root.test if self.root else None, "test", names=True):
                with self.phase("test"):
                    scored = [evaluate(model, block) for model in models]
                    own = _sums([own, scored]) if own else scored
                advance(len(block.labels) + len(block.skipped))
        with self.phase("test"):
            found = self.world.reduce(own, lambda a, b: _sums([each for each in (a, b) if each]))
        return list(zip(models, found, strict=True)) if found is not None else []

    def say(self, message: str) -> None:
        """One line of the result, on rank 0."""
        if self.world.is_root:
            self._console.say(message)

    def warn(self, messages: Sequence[str]) -> None:
        """Say what rank 0 has to say."""
        for message in messages:
            self._console.warn(message)

    def finish(
        self,
        n_validation: int,
        correct: Labels,
        tested: Sequence[tuple[RidgeModel, Evaluation]],
        **more: Any,
    ) -> None:
        """Write the run folder and say where its report is.

        Args:
            n_validation: how many images were scored to choose λ.
            correct: int (n_lambdas,), how many of those each λ classified correctly.
            tested: on rank 0, what test() returned; the first is the run's model.
            more: what else metrics.json should hold.

        Raises:
            AgreedError: no test image was usable, or the folder cannot be written.
        """
        ranks = self.world.gather(self._clock.record(self._n_images))

        def write() -> None:
            model, evaluation = tested[0]
            idle = sum(not rank["images"] for rank in ranks)
            if idle and self.facts.n_train >= self.world.size:
                self._console.warn(
                    f"{counted_ranks(idle)} of {self.world.size} had no image: a table is dealt out by row groups"
                )
            self._opened.finish(
                Engine(f"{library()}, {counted_ranks(self.world.size)}",
                       self.world.size, self.threads),
                sum(own.n for own in self._moments.values()), n_validation, correct, model, evaluation,
                command=f"mpiexec -n {self.world.size} {command()}", ranks=ranks, cores=self.world.cores,
                images_by=self.arguments.images, moments_sha256=fingerprint(self._moments), **more,
            )  # fmt: skip

        self.world.at_root_only(write)


def _sums(evaluations: Sequence[Sequence[Evaluation]]) -> list[Evaluation]:
    """Sum up, model by model."""
    return [reduce(add, each) for each in zip(*evaluations, strict=True)]
