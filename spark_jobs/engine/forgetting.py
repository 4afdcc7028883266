"""--forget: images of a table that count no more, by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark import SparkContext

from common.atomic import read_text
from common.errors import InputError
from common.ridge.fit import Problem
from common.ridge.moments import FoldMoments
from common.run.flag_types import input_location
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.blocks import image_blocks, reduce_moments

if TYPE_CHECKING:  # pyarrow, which other sources do not need
    from common.data.table.reading import TableImages

MOST_LISTED = 3
"""Names that an error lists, at most."""


def forget_flag(parser: Parser) -> None:
    """Add --forget."""
    parser.add_argument(
        "--forget",
        metavar="FILE",
        type=input_location,
        help="names of images of the table that count no more, one on each line",
    )


@dataclass(frozen=True)
class Forgotten:
    """Images of a table that count no more.

    Attributes:
        file: names them.
        names: the names.
        every: all images of the table, these included.
    """

    file: Path
    names: frozenset[str]
    every: TableImages

    @classmethod
    def open(cls, run: RidgeRun) -> tuple[RidgeRun, Forgotten | None]:
        """Read the file that --forget names; return the run without these images, and these.

        Raises:
            InputError: the file cannot be read, or --data is no table.
        """
        if run.arguments.forget is None:
            return run, None
        if isinstance(run.arguments.forget, str):
            raise InputError(f"--forget {run.arguments.forget}: copy the file to this machine, and name it here")
        if run.arguments.limit is not None:
            raise InputError("--forget and --limit do not go together: names may be outside it; leave one out")
        file: Path = run.arguments.forget
        names = frozenset(line for line in read_text(file, f"--forget {file}").splitlines() if line)
        if not names:
            raise InputError(f"--forget {file}: names no image")
        every = run.problem.images
        from common.data.table.reading import TableImages

        if not isinstance(every, TableImages):
            raise InputError(f"--forget {file}: images of a table are forgotten by name, and --data is none")
        remaining = replace(run.problem, images=every.named(names, wanted=False))
        return replace(run, problem=remaining), cls(file, names, every)

    def check_names(self, before: frozenset[str]) -> None:
        """Make sure that the table has these images, but for those that were forgotten before.

        Raises:
            InputError: a name is not in the table's training set.
        """
        names = self.names - before
        parts = self.every.named(names, wanted=True).parts(1) if names else []
        found = {str(name) for part in parts for listed in part.listed() for name in listed.names}
        missing = sorted(names - found)
        if missing:
            listed = ", ".join(missing[:MOST_LISTED]) + (", …" if len(missing) > MOST_LISTED else "")
            raise InputError(
                f"--forget {self.file}: {len(missing)} of {len(self.names)} names are not among the table's "
                f"training images: {listed}; mend or remove them"
            )

    def sum(
        self, context: SparkContext, problem: Problem, partitions: int | None, before: frozenset[str]
    ) -> FoldMoments:
        """Sum the moments of these images, but for those that were forgotten before."""
        names = self.names - before
        if not names:
            return {}
        images = self.every.named(names, wanted=True)
        record, named = problem.moments_bytes, problem.names_wanted
        return reduce_moments(image_blocks(context, images, partitions, named, record), problem).moments
