"""Flags of gram for moments files: images that were summed before and need not be read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark import SparkContext

from common.data.catalogue import Classes
from common.data.splits import FoldRule
from common.errors import InputError
from common.ridge.fit import Problem
from common.ridge.moments import FoldMoments
from common.ridge.moments_file import Basis, SavedMoments, combined
from common.run.flag_types import input_location, output_location
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.dropping import DroppedClasses
from spark_jobs.engine.forgetting import Forgotten

REPEATED: dict[str, Any] = {"metavar": "FILE", "action": "append", "default": []}
"""Settings of flags that may be given several times."""


def moments_flags(parser: Parser) -> None:
    """Add --add-moments, --subtract-moments and --save-moments."""
    group = parser.add_argument_group("moments")
    added = "count images that were summed before; those of them that --data holds are not summed again"
    group.add_argument("--add-moments", type=input_location, help=added, **REPEATED)
    forgotten = "forget images that were summed before"
    group.add_argument("--subtract-moments", type=input_location, help=forgotten, **REPEATED)
    saved = "write the moments of all images that count; or s3://…"
    group.add_argument("--save-moments", metavar="FILE", type=output_location, help=saved)


@dataclass(frozen=True)
class MomentsFiles:
    """Saved moments that a run adds and subtracts, and the file to save the outcome in.

    Attributes:
        basis: what all of them must agree in.
        added: moments that count.
        subtracted: moments that count no more, with the files they are from.
        target: where to save the outcome, or None.
        dropped: classes that count no more, which are in the basis behind those of the run; or None.
    """

    basis: Basis
    added: Sequence[SavedMoments]
    subtracted: Sequence[tuple[Path | str, SavedMoments]]
    target: Path | str | None
    dropped: DroppedClasses | None = None

    @classmethod
    def open(cls, run: RidgeRun, dropped: DroppedClasses | None = None) -> MomentsFiles:
        """Read the files that the flags name.

        Args:
            run: its flags.
            dropped: classes that its images are without.

        Raises:
            InputError: they do not fit the data or each other, or cannot be read.
        """
        arguments = run.arguments
        target: Path | str | None = arguments.save_moments
        if arguments.add_moments or arguments.subtract_moments or target:
            if arguments.limit is not None:
                raise InputError(
                    "--limit and moments files do not go together: which images were summed would be lost"
                )
            if not run.problem.features.exact:
                kind = run.problem.features.describe()["kind"]
                raise InputError(
                    f"features {kind} are not exact: their moments cannot be added and subtracted exactly; "
                    "leave out the moments files"
                )
        if isinstance(target, Path) and not target.absolute().parent.is_dir():
            raise InputError(f"--save-moments {target}: no such folder as {target.absolute().parent}; make it")
        basis = basis_of(run.problem, run.split)
        added, subtracted = (_load(files) for files in (arguments.add_moments, arguments.subtract_moments))
        if dropped is not None:
            basis = dropped.behind(basis, [saved.basis for _, saved in added])
        counted = [saved for _, saved in _over(basis, added)]
        found = cls(basis, counted, _over(basis, subtracted), target, dropped)
        found._check_dropped(run.problem)
        found._check_subtracted()
        return found

    def _check_subtracted(self) -> None:
        """Refuse to subtract files that lack images which the files to add may count.

        Raises:
            InputError: names the file.
        """
        forgotten = frozenset().union(*(saved.forgotten for saved in self.added))
        before = self.dropped_before
        for file, saved in self.subtracted:
            lacks = any(of - before.get(name, frozenset()) for name, of in saved.dropped.items())
            if lacks or saved.forgotten - forgotten:
                raise InputError(
                    f"--subtract-moments {file}: classes were dropped from it, or images forgotten, that "
                    "--add-moments counts; subtract the file from before that"
                )

    def _check_dropped(self, problem: Problem) -> None:
        """Refuse files without images of a class that count in this run.

        Raises:
            InputError: names the class.
        """
        images, before = problem.images, self.dropped_before
        for name in Classes(images.class_names, images.class_ids).written:
            if before.get(name, frozenset()) & images.identities:
                raise InputError(
                    f"--add-moments: the images of {name} in this table were dropped from them; drop that class "
                    f"with --drop-class here too"
                )

    @property
    def used(self) -> bool:
        """True if any file is to be read or written."""
        return bool(self.added or self.subtracted or self.target)

    def forgotten_before(self, identities: frozenset[str], names: frozenset[str]) -> frozenset[str]:
        """Return the names of a table's images that the added files have forgotten already.

        Args:
            identities: of the table.
            names: of the images that are to be forgotten now.

        Raises:
            InputError: a file has forgotten others, or one with images of the table is to be subtracted.
        """
        found = frozenset().union(*(saved.forgotten for saved in self.added if saved.identities & identities))
        if found - names:
            raise InputError(
                f"--add-moments: {len(found - names)} images of this table were forgotten in them, such as "
                f"{min(found - names)}; name these with --forget too"
            )
        if names and any(saved.identities & identities for _, saved in self.subtracted):
            raise InputError("--forget and --subtract-moments of the same table do not go together; leave one out")
        return found

    @property
    def identities(self) -> frozenset[str]:
        """Fingerprints of the images that were summed before."""
        return frozenset().union(*(saved.identities for saved in self.added))

    @property
    def left_out(self) -> frozenset[str]:
        """Fingerprints of the images that are subtracted."""
        return frozenset().union(*(saved.identities for _, saved in self.subtracted))

    @property
    def dropped_before(self) -> dict[str, frozenset[str]]:
        """By class, the fingerprints of images that were summed before without those of this class."""
        found: dict[str, frozenset[str]] = {}
        for saved in self.added:
            for name, of in saved.dropped.items():
                found[name] = found.get(name, frozenset()) | of
        return found

    def sum_dropped(
        self, context: SparkContext, problem: Problem, partitions: int | None, forgotten: frozenset[str]
    ) -> FoldMoments:
        """Sum the images of the dropped classes that the files count and --data holds.

        Args:
            context: the Spark context.
            problem: the problem without them.
            partitions: see gram.fit.
            forgotten: names of images that the files do not count.
        """
        if self.dropped is None:
            return {}
        known = self.identities - self.left_out
        return self.dropped.sum(context, problem, partitions, known, self.dropped_before, forgotten)

    def details(self) -> dict[str, Any]:
        """Return the numbers of images in the files, as an entry of metrics.json; empty without files."""
        n_variants = self.basis.augmentation.n_variants
        counts = [
            sum(own.n // n_variants for saved in files for own in saved.moments.values())
            for files in (self.added, [saved for _, saved in self.subtracted])
        ]
        return {"moments_files": dict(zip(("added", "subtracted"), counts, strict=True))} if any(counts) else {}

    def join(
        self,
        summed: FoldMoments,
        problem: Problem,
        forgotten: Forgotten | None,
        gone: FoldMoments,
        of_dropped: FoldMoments,
    ) -> FoldMoments:
        """Add and subtract the moments of the files, and save the outcome if asked to.

        Args:
            summed: the moments that this run summed.
            problem: whose images they are of.
            forgotten: images that count no more, or None.
            gone: moments of those of them that `summed` or a file has.
            of_dropped: what `sum_dropped` returned.

        Raises:
            InputError: more is subtracted than there is.
            RunError: the outcome cannot be written.
        """
        basis, subtracted = self.basis, list(self.subtracted)
        dropped_from = self.dropped_before
        if self.dropped is not None:
            summed, gone = (self.dropped.widened(moments, self.basis) for moments in (summed, gone))
            subtracted.append(("--drop-class", SavedMoments(self.basis, of_dropped, frozenset())))
        if forgotten is not None and gone:
            subtracted.append((forgotten.file, SavedMoments(self.basis, gone, frozenset())))
        moments = combined(summed, self.added, subtracted)
        if self.dropped is not None:
            moments = self.dropped.narrowed(moments, problem)
            basis = replace(basis, class_names=problem.images.class_names, class_ids=problem.images.class_ids)
            dropped_from = self.dropped.noted(dropped_from)
        if self.target is not None:
            identities = (self.identities | problem.images.identities) - self.left_out
            names = frozenset().union(*(saved.forgotten for saved in self.added))
            if forgotten is not None:
                names |= forgotten.names
            dropped_from = {name: of & identities for name, of in dropped_from.items() if of & identities}
            SavedMoments(basis, moments, identities, names, dropped_from).save(self.target)
        return moments


def basis_of(problem: Problem, split: str) -> Basis:
    """Return what moments must agree in with a problem whose splits are decided by `split`."""
    rule = problem.rule
    return Basis(
        problem.image_shape,
        problem.images.pixel_format,
        problem.images.class_names,
        FoldRule(rule.k, 0 if rule.k else rule.validation),
        split,
        problem.features,
        problem.augmentation,
        problem.images.class_ids,
    )


Loaded = list[tuple[Path | str, SavedMoments]]


def _load(files: Sequence[Path | str]) -> Loaded:
    """Read files that have no image in common.

    Raises:
        InputError: they have, or cannot be read.
    """
    loaded: Loaded = []
    seen: set[str] = set()
    for file in files:
        saved = SavedMoments.load(file)
        if seen & saved.identities:
            raise InputError(f"{file}: some of its images are in the files before it")
        seen |= saved.identities
        loaded.append((file, saved))
    return loaded


def _over(basis: Basis, loaded: Loaded) -> Loaded:
    """Take moments of files over the classes of a basis.

    Raises:
        InputError: they are of another basis.
    """
    for file, saved in loaded:
        saved.basis.check_equal(file, basis)
    return [(file, saved.over(basis)) for file, saved in loaded]
