"""gram's --add-moments, --subtract-moments and --save-moments: images that need not be read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.splits import FoldRule
from common.errors import InputError
from common.ridge.moments import FoldMoments
from common.ridge.moments_file import Basis, SavedMoments, combined
from common.run.flags import Parser, place
from common.run.ridge import Experiment


def moments_flags(parser: Parser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("moments")
    group.add_argument(
        "--add-moments", metavar="FILE", type=place, action="append", default=[],
        help="images summed before: their moments count, and those of them that --data holds are not read for it",
    )  # fmt: skip
    group.add_argument(
        "--subtract-moments", metavar="FILE", type=place, action="append", default=[],
        help="images to forget: their moments count no more",
    )  # fmt: skip
    group.add_argument(
        "--save-moments", metavar="FILE", type=place, help="write the moments of all images that count; or s3://…"
    )


@dataclass(frozen=True)
class Known:
    """Moments from files.

    Attributes:
        basis: what they and the run's own must agree in.
        added: those that count.
        subtracted: those that count no more, by file.
        target: where to save the outcome, or None.
    """

    basis: Basis
    added: list[SavedMoments]
    subtracted: list[tuple[Path | str, SavedMoments]]
    target: Path | str | None

    @classmethod
    def open(cls, experiment: Experiment) -> Known:
        """Read the files that the flags name.

        Raises:
            InputError: they do not fit the data or each other, or cannot be read.
        """
        arguments = experiment.arguments
        files: Sequence[Path | str] = [*arguments.add_moments, *arguments.subtract_moments]
        target: Path | str | None = arguments.save_moments
        if arguments.limit is not None and (files or target):
            raise InputError(
                "--limit and moments files do not go together: which images were summed would be lost"
            )
        if isinstance(target, Path) and not target.absolute().parent.is_dir():
            raise InputError(f"--save-moments {target}: no such folder as {target.absolute().parent}; make it")
        basis = Basis(
            experiment.train.shape,
            experiment.form,
            experiment.train.class_names,
            FoldRule(arguments.folds, 0 if arguments.folds else arguments.validation),
            experiment.split,
        )
        loaded = [(file, SavedMoments.load(file)) for file in files]
        n = len(arguments.add_moments)
        for own in (loaded[:n], loaded[n:]):
            seen: set[str] = set()
            for file, saved in own:
                saved.check_basis(file, basis)
                if seen & saved.identities:
                    raise InputError(f"{file}: some of its images are in the files before it")
                seen |= saved.identities
        return cls(basis, [saved for _, saved in loaded[:n]], loaded[n:], target)

    @property
    def identities(self) -> frozenset[str]:
        """What tells the images that were summed before."""
        return frozenset().union(*(saved.identities for saved in self.added))

    def joined(self, read: FoldMoments, experiment: Experiment) -> FoldMoments:
        """All moments that count; saved, if asked for.

        Raises:
            InputError: more is subtracted than there is, or the outcome cannot be written.
        """
        moments = combined(read, self.added, self.subtracted)
        if self.target is not None:
            gone = frozenset().union(*(saved.identities for _, saved in self.subtracted))
            identities = (self.identities | experiment.train.identities) - gone
            SavedMoments(self.basis, moments, identities).save(self.target)
        return moments
