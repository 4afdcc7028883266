"""--drop-class: classes of a table that count no more, with all their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark import SparkContext

from common.errors import InputError
from common.ridge.fit import Problem
from common.ridge.moments import FoldMoments, merge
from common.ridge.moments_file import Basis
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.blocks import image_blocks, reduce_moments

if TYPE_CHECKING:  # pyarrow, which other sources do not need
    from common.data.table.reading import TableImages

MOST_LISTED = 10
"""Classes that an error lists, at most."""


def drop_class_flag(parser: Parser) -> None:
    """Add --drop-class."""
    parser.add_argument(
        "--drop-class",
        metavar="NAME[,NAME...]",
        help="classes of the table, or of --add-moments, that count no more, with all their images",
    )


@dataclass(frozen=True)
class DroppedClasses:
    """Classes that count no more.

    Attributes:
        names: as they were given: first those that the table has, then those that it has not.
        every: the training images of all classes of the table.
        positions: of the classes that the table has, in its list.
    """

    names: tuple[str, ...]
    every: TableImages
    positions: tuple[int, ...]

    @classmethod
    def open(cls, run: RidgeRun) -> tuple[RidgeRun, DroppedClasses | None]:
        """Return the run without the images of the classes that --drop-class names, and these classes.

        Raises:
            InputError: --data is no table, or fewer than two classes are left.
        """
        text: str | None = run.arguments.drop_class
        if text is None:
            return run, None
        if run.arguments.limit is not None:
            raise InputError("--drop-class and --limit do not go together: it counts all classes; leave one out")
        every, test = run.problem.images, run.test
        from common.data.table.reading import TableImages

        if not isinstance(every, TableImages) or not isinstance(test, TableImages):
            raise InputError(
                f"--drop-class {text}: classes are dropped from tables, and --data is none; leave their images out"
            )
        classes = every.table.classes
        words = [text] if classes.position(text) >= 0 else text.split(",")  # a name may have commas of its own
        wanted = [word.strip() for word in words if word.strip()]
        if not wanted:
            raise InputError("--drop-class: names no class")
        here = {position: name for name in wanted if (position := classes.position(name)) >= 0}
        elsewhere = dict.fromkeys(name for name in wanted if classes.position(name) < 0)
        kept = sorted(set(range(len(classes.names))) - here.keys())
        if len(kept) < 2:
            raise InputError(
                f"--drop-class {text}: leaves {len(kept)} of {len(classes.names)} classes, and a classifier needs "
                "two; drop fewer"
            )
        remaining = replace(run.problem, images=every.of_classes(kept))
        run = replace(run, problem=remaining, test=test.of_classes(kept))
        return run, cls((*here.values(), *elsewhere), every, tuple(here))

    def details(self) -> dict[str, Any]:
        """Return the classes as an entry of metrics.json."""
        return {"dropped_classes": list(self.names)}

    def behind(self, basis: Basis, files: Sequence[Basis]) -> Basis:
        """Return the basis of a run with the dropped classes behind its own, as moments files may have them.

        Args:
            basis: of the run.
            files: of the files whose moments are added.

        Raises:
            InputError: a class is neither in the table nor in a file.
        """
        classes = [self.every.table.classes.at([position]) for position in self.positions]
        for name in self.names[len(self.positions) :]:
            places = [(other.classes, other.classes.position(name)) for other in files]
            found = next((own.at([place]) for own, place in places if place >= 0), None)
            if found is None:
                known = dict.fromkeys(each for own in (basis, *files) for each in own.class_names)
                listed = ", ".join([*known][:MOST_LISTED]) + (", …" if len(known) > MOST_LISTED else "")
                raise InputError(
                    f"--drop-class {name}: neither --data nor --add-moments has such a class; the others are "
                    f"{listed}"
                )
            classes.append(found)
        names = tuple(name for own in classes for name in own.names)
        ids = tuple(key for own in classes for key in own.written)
        return replace(
            basis,
            class_names=basis.class_names + names,
            class_ids=None if basis.class_ids is None else basis.class_ids + ids,
        )

    def sum(
        self,
        context: SparkContext,
        problem: Problem,
        partitions: int | None,
        known: frozenset[str],
        dropped_before: Mapping[str, frozenset[str]],
        forgotten: frozenset[str],
    ) -> FoldMoments:
        """Sum the images of these classes that moments files count, each of them once.

        Args:
            context: the Spark context.
            problem: the problem without these classes.
            partitions: the number of partitions; None for a good number.
            known: identities of images that were summed before.
            dropped_before: by class, those of them whose images of the class do not count.
            forgotten: names of images that do not count.

        Returns:
            moments over the classes of the problem, followed by these.
        """
        found: FoldMoments = {}
        groups: dict[frozenset[str], list[int]] = {}
        written = self.every.table.classes.written
        for place, position in enumerate(self.positions):
            counted = (known & self.every.identities) - dropped_before.get(written[position], frozenset())
            groups.setdefault(counted, []).append(place)
        for counted, places in groups.items():
            if not counted:
                continue
            images = self.every.of_classes([self.positions[place] for place in places])
            images = images.without(self.every.identities - counted)
            if forgotten:
                images = images.named(forgotten, wanted=False)
            blocks = image_blocks(context, images, partitions, record=problem.moments_bytes)
            summed = reduce_moments(blocks, replace(problem, images=images)).moments
            behind = problem.n_classes + np.array(places)
            n_classes = problem.n_classes + len(self.names)
            found = merge(found, {fold: own.over_classes(behind, n_classes) for fold, own in summed.items()})
        return found

    def widened(self, moments: FoldMoments, basis: Basis) -> FoldMoments:
        """Return moments over the classes of a run as ones over these and the dropped ones behind them."""
        n_classes = len(basis.class_names)
        own = np.arange(n_classes - len(self.names))
        return {fold: each.over_classes(own, n_classes) for fold, each in moments.items()}

    def narrowed(self, moments: FoldMoments, problem: Problem) -> FoldMoments:
        """Return moments over the classes of a run, given moments over these and the dropped ones behind them.

        Raises:
            InputError: images of a dropped class are left.
        """
        for place, name in enumerate(self.names, start=problem.n_classes):
            n = sum(int(own.class_counts[place]) for own in moments.values()) // problem.augmentation.n_variants
            if n:
                raise InputError(
                    f"--drop-class {name}: {n:,} of its images count in --add-moments, and neither --data nor "
                    "--subtract-moments holds them; name the table that does as --data, or their moments"
                )
            if any(own.has_class(place) for own in moments.values()):
                raise InputError(
                    f"--drop-class {name}: --subtract-moments holds images of other classes; subtract its own"
                )
        kept = np.arange(problem.n_classes)
        return {fold: own.of_classes(kept) for fold, own in moments.items()}

    def noted(self, before: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Return, by class, the identities whose images of it do not count any more.

        Args:
            before: those whose images did not count before.
        """
        found = dict(before)
        for position in self.positions:
            if self.every.class_counts[position]:
                name = self.every.table.classes.written[position]
                found[name] = found.get(name, frozenset()) | self.every.identities
        return found
