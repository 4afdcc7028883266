"""A run of a ridge job on all ranks: rank 0 opens the data and writes the run folder, the others help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import reduce
from operator import add

from common.blas import limit_blas
from common.console import Console
from common.data.catalogue import Skipped
from common.evaluate.evaluation import Evaluation
from common.machine import memory_bytes
from common.provenance import Engine, command
from common.ridge.fit import MAX_MOMENTS_BYTES, MAX_PACKED_BYTES, Fit
from common.ridge.gram import Tile
from common.ridge.model import RidgeModel
from common.ridge.scoring import evaluate
from common.ridge.tiles import BLOCK_ROWS
from common.run.flag_types import positive_integer
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun, Tested
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.world import World, counted_ranks, library
from mpi_jobs.ridge.dealt_problem import RankSettings
from mpi_jobs.ridge.shares import DELIVERIES, dealt_blocks

WHOLE_BYTES = 256 << 20
"""The size of moments from which tiles are faster than whole matrices, whatever the memory."""


def ranked_parser(description: str) -> Parser:
    """Return a parser with the flags of every ridge job on MPI."""
    parser = ridge_parser(description)
    group = parser.add_argument_group("ranks")
    group.add_argument(
        "--threads",
        metavar="T",
        type=positive_integer,
        help="threads of each rank (default: the cores of a machine divided by its ranks)",
    )
    group.add_argument(
        "--images",
        choices=DELIVERIES,
        default="read",
        help="let each rank read its own images, or let rank 0 read all of them and scatter them",
    )
    group.add_argument(
        "--tile",
        metavar="ROWSxCOLUMNS",
        type=_tile,
        help="multiply in tiles of this size, dealt out to the threads, or by BLAS's own threads: blas "
        "(default: tiles that give all threads the same amount of work)",
    )
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


class RankedRun:
    """One run of a ridge job on all ranks. Every rank makes one and calls its methods.

    Args:
        world: the ranks.
        job: the name of the job.
        parser: the parser of its flags.
        argv: the flags; None for those of this process.
        spreads: True if the job can spread moments over ranks, and has the flag --whole.

    Attributes:
        arguments: the flags.
        settings: how each rank works.
        clock: the phases of this rank.
        problem: what to fit, on rank 0.

    Raises:
        AgreedError: flags or data are wrong; on every rank.
        SystemExit: --help, or flags that cannot be parsed; on every rank.
    """

    def __init__(
        self, world: World, job: str, parser: Parser, argv: Sequence[str] | None, spreads: bool = False
    ) -> None:
        self._world = world
        self.arguments = world.at_root(lambda: parser.parse_arguments(argv))
        threads: int = self.arguments.threads or max(1, world.cores // world.neighbours)
        memory = world.all_gather(memory_bytes() // world.neighbours)
        whole = min(WHOLE_BYTES, min(memory) // 8)
        if spreads and self.arguments.whole is not None:
            whole = self.arguments.whole << 20
        self.settings = RankSettings(
            threads, self.arguments.tile, self.arguments.images, whole if spreads else MAX_PACKED_BYTES
        )
        most_moments = sum(memory) if spreads else MAX_MOMENTS_BYTES
        self._warn_of_crowding()
        limit_blas(self.settings.blas_threads(world))
        self._run = world.make_at_root(lambda: RidgeRun.open(job, self.arguments, most_moments=most_moments))
        self.clock = RankClock(world, self._run.value.console if world.is_root else Console(quiet=True))
        self.problem = world.make_at_root(lambda: self._run.value.problem)

    def _warn_of_crowding(self) -> None:
        world, blas = self._world, self.settings.blas_threads(self._world)
        if world.is_root and blas > 1 and world.neighbours * blas > world.cores:
            Console().warn(
                f"{counted_ranks(world.neighbours)} × {blas} threads of BLAS on {world.cores} cores get in each "
                f"other's way; --threads {max(1, world.cores // world.neighbours)} would be faster"
            )

    def finish(self, fit: Fit) -> None:
        """Score the fitted model on the test images, write the run folder, and print where its report is.

        An approximation is scored beside the exact model, to report its loss of accuracy.

        Raises:
            AgreedError: test images cannot be read, too many were skipped, or the folder cannot be written.
        """
        models = [fit.model] if fit.exact is None else [fit.model, fit.exact.model]
        stored = self.problem.share(lambda problem: problem.stored)
        if stored is not None:
            models = [model.of_stored(stored) for model in models]
        evaluations, skipped = self._score(models)
        ranks = self._world.gather(self.clock.record())

        def write(run: RidgeRun) -> None:
            idle = sum(not rank["images"] for rank in ranks)
            if idle and len(run.problem.images) >= self._world.size:
                run.console.warn(
                    f"{counted_ranks(idle)} of {self._world.size} had no image: a table is dealt out by row groups"
                )
            if fit.exact is not None:
                exact = evaluations[1].confusion.accuracy()
                fit.details["exact"]["test_accuracy"] = exact
                run.console.say(
                    f"the average of {self._world.size} models is an approximation; the exact model classifies "
                    f"{exact:.4f} of the test images correctly"
                )
            run.finish(
                Engine(f"{library()}, {counted_ranks(self._world.size)}", self._world.size, self.settings.threads),
                fit,
                Tested(evaluations[0], skipped),
                command=f"mpiexec -n {self._world.size} {command()}",
                ranks=ranks,
                cores=self._world.cores,
                images_by=self.settings.images,
            )

        self._run.run(write)

    def _score(self, models: Sequence[RidgeModel]) -> tuple[list[Evaluation], list[Skipped]]:
        """Score models on all test images; on rank 0, return their evaluations and the skipped images."""
        skipped: list[Skipped] = []

        def note(found: Sequence[Skipped]) -> None:
            self._run.value.check_test(found)
            skipped.extend(found)

        images = self._world.make_at_root(lambda: self._run.value.test)
        n_test = images.share(len)
        own: list[Evaluation] = []
        with self.clock.console.bar(n_test // self._world.size, "img") as advance:
            for block in dealt_blocks(images, self.settings.images, self.clock, "test", note, names=True):
                with self.clock.phase("test"):
                    scored = [evaluate(model, block) for model in models]
                    own = _added([own, scored]) if own else scored
                advance(len(block.labels) + len(block.skipped))
        with self.clock.phase("test"):
            found = self._world.reduce(own, lambda a, b: _added([each for each in (a, b) if each]))
        return found or [], skipped


def _added(evaluations: Sequence[Sequence[Evaluation]]) -> list[Evaluation]:
    """Add up evaluations model by model."""
    return [reduce(add, of_model) for of_model in zip(*evaluations, strict=True)]
