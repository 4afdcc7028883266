"""A ridge experiment: from flags to images, folds and λ, and from what was found to a run folder.

Everything that the engines share is here, so that a job shows its parallel algorithm and little else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.arrays import Labels
from common.atomic import write_json
from common.console import Console
from common.data.catalogue import Skipped, write_skipped
from common.data.decode import PixelFormat
from common.data.images import Block, Images
from common.data.labelled import check_unusable, open_splits, warn_of_splits
from common.data.sources import open_table
from common.data.splits import ALWAYS_TRAINING, FoldRule
from common.errors import InputError
from common.evaluate.evaluation import Evaluation
from common.provenance import Engine, command, versions
from common.report.ridge import write_report
from common.ridge.model import RidgeModel
from common.ridge.moments import packed_bytes
from common.ridge.path import RidgePath, best_lambda
from common.run.flags import pixel_format
from common.run.folder import RunFolder

if TYPE_CHECKING:
    from common.data.table.table import Table

MAX_MOMENTS_BYTES = 2 << 30
"""What all folds' moments may take: they travel between processes as one record, which engines cap at 2 GiB."""


class RidgeFlags:
    """What the flags say of the fit.

    Attributes:
        arguments: the flags.
    """

    arguments: argparse.Namespace

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The grid, for intensities in [0, 1]."""
        return tuple(self.arguments.lambdas)

    @property
    def penalty(self) -> str:
        """Which way λ is meant: "sum" or "mean"."""
        return str(self.arguments.penalty)


@dataclass
class Experiment(RidgeFlags):
    """One run of a ridge job.

    Attributes:
        job: the job's name.
        arguments: its flags.
        console: progress and clock.
        folder: where the run folder will be.
        train: training and validation images, and which of them validate.
        test: test images.
        form: what images are turned into.
        split: what decides in which split and fold an image is.
        quarantined: images that were unusable when their table was made.
        skipped: images that turned out unusable so far.
    """

    job: str
    arguments: argparse.Namespace
    console: Console
    folder: RunFolder
    train: Images
    test: Images
    form: PixelFormat
    split: str
    quarantined: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @classmethod
    def open(cls, job: str, arguments: argparse.Namespace) -> Experiment:
        """Open the data, split it, and check that there is anything to learn.

        Raises:
            InputError: flags or data are wrong.
        """
        console = Console(arguments.quiet)
        folder = RunFolder(arguments.out, f"{job}-{arguments.data.partition(':')[0]}")
        train: Images
        test: Images
        with console.phase("open"):
            form, quarantined = pixel_format(arguments), 0
            split = f"--seed {arguments.seed} --test {arguments.test:g}"
            table = open_table(arguments.data)
            if table is not None:
                train, test = _split_table(table, arguments, form)
                form, quarantined, split = table.pixel_format, table.quarantined, "the hash of each name"
            else:
                rule = FoldRule(arguments.folds, arguments.validation)
                train, test = open_splits(arguments, form, rule)
            warn_of_splits(console, arguments.limit, train)
        _check_memory(train, arguments.folds or 1, len(arguments.lambdas))
        return cls(job, arguments, console, folder, train, test, form, split, quarantined)

    @property
    def n_classes(self) -> int:
        """How many classes the source has."""
        return len(self.train.class_names)

    @property
    def moments_bytes(self) -> int:
        """What the moments of all folds take on their way between processes."""
        return max(2, self.arguments.folds or 1) * packed_bytes(self.train.n_features, self.n_classes)

    def load(self, images: Images, names: bool = False) -> Block:
        """Bring one of the splits into this process, with a progress bar, and note what had to be skipped.

        Raises:
            InputError: too many images are unusable.
        """
        with self.console.bar(len(images), "img") as advance:
            loaded = images.load(advance, names)
        self.note_skipped(loaded.skipped, images)
        return loaded

    def note_skipped(self, skipped: Sequence[Skipped], images: Images) -> None:
        """Count the unusable images of one of the splits.

        Raises:
            InputError: they are more than --max-corrupt allows; the message lists them.
        """
        what = "test" if images is self.test else "training"
        check_unusable(skipped, len(images), what, self.arguments.max_corrupt)
        self.skipped += sorted(skipped)

    def check_folds(self, usable: Iterable[int]) -> None:
        """Make sure that every fold kept images to train on or to validate with.

        Args:
            usable: the fold numbers of images that could be read.

        Raises:
            InputError: a fold lost all of its images.
        """
        k = self.arguments.folds
        if set(usable) != (set(range(k)) if k else {0, ALWAYS_TRAINING}):
            raise InputError(
                "no usable image is left in one of the folds; use fewer --folds or more images, or mend them"
            )

    def model(self, fitted: RidgePath, lambda_: float) -> RidgeModel:
        """The classifier that a path of length one is."""
        return RidgeModel(
            weights=fitted.weights[0],
            intercept=fitted.intercepts[0],
            class_names=self.train.class_names,
            shape=self.train.shape,
            pixel_format=self.form,
            lambda_=lambda_,
            penalty=self.penalty,
        )

    def best(self, correct: Labels) -> float:
        """The λ to choose from the validation images that each classifies correctly, int (n_lambdas,)."""
        return self.lambdas[best_lambda(correct, self.lambdas)]

    def finish(
        self,
        engine: Engine,
        n_fitted: int,
        n_validation: int,
        correct: Labels,
        model: RidgeModel,
        tested: Evaluation,
        **more: Any,
    ) -> str:
        """Write the run folder and say where its report is.

        Args:
            engine: what it ran on.
            n_fitted: how many images the model was fitted to.
            n_validation: how many of them were scored to choose λ.
            correct: int (n_lambdas,), how many of them each λ classified correctly.
            model: refitted at the best λ on training and validation images.
            tested: the model's scores on the test images.
            more: what else metrics.json should hold.
        """
        confusion = tested.confusion
        if not confusion.n:
            raise InputError("no usable test image is left; mend the images or use a larger --test")
        by_class = confusion.by_class()
        record: dict[str, Any] = {
            "job": self.job,
            "engine": engine.name,
            "command": command(),
            "data": self.arguments.data,
            "images": {
                "train": n_fitted - n_validation if self.arguments.folds is None else n_fitted,
                "validation": n_validation,
                "test": confusion.n,
                "skipped": len(self.skipped),
                "quarantined": self.quarantined,
            },
            "shape": list(self.train.shape),
            "pixel_format": str(self.form),
            "classes": list(self.train.class_names),
            "penalty": self.penalty,
            "folds": self.arguments.folds,
            "lambdas": list(self.lambdas),
            "validation_correct": [int(count) for count in correct],
            "validation_accuracy": [int(count) / max(n_validation, 1) for count in correct],
            "best_lambda": model.lambda_,
            "test_accuracy": confusion.accuracy(),
            "macro_f1": by_class.macro_f1(),
            "per_class": {
                "precision": by_class.precision.tolist(),
                "recall": by_class.recall.tolist(),
                "sign_precision": tested.signs.precision.tolist(),
                "sign_recall": tested.signs.recall.tolist(),
                "test_images": by_class.true.tolist(),
            },
            "workers": engine.workers,
            "threads": engine.threads,
            "seed": self.arguments.seed,
            "versions": versions(),
            **more,
        }
        with self.folder.written() as folder:
            with self.console.phase("report"):
                model.save(folder)
                if self.skipped:
                    write_skipped(folder / "skipped.csv", self.skipped)
                record["seconds"] = self.console.seconds | {"total": self.console.total_seconds()}
                write_report(folder, record, model, tested, self.skipped)
            record["seconds"] = self.console.seconds | {"total": self.console.total_seconds()}
            write_json(folder / "metrics.json", record)
        report = self.folder.file("report.html")
        if self.skipped:
            self.console.warn(
                f"{len(self.skipped)} images were skipped; {self.folder.file('skipped.csv')} lists them"
            )
        say = self.console.say
        say(f"{self.job} on {engine.name}: {n_fitted:,} training and {confusion.n:,} test images from "
            f"{self.arguments.data}")  # fmt: skip
        say(f"best λ {model.lambda_:.3g}: {max(record['validation_accuracy']):.4f} of validation, "
            f"{record['test_accuracy']:.4f} of test images correct")  # fmt: skip
        print(f"report: {report}")
        return report


def _split_table(table: Table, arguments: argparse.Namespace, form: PixelFormat) -> tuple[Images, Images]:
    """The splits that a table's names have for ever.

    Raises:
        InputError: it has other pixels than the flags ask for, or a split is empty.
    """
    # imported here, because workers that read other sources need no pyarrow
    from common.data.table.reading import TableImages

    if form not in (PixelFormat(), table.pixel_format):
        raise InputError(
            f"--data {arguments.data}: its images are {table.pixel_format}, not {form}; "
            "--size, --grey and --binarize are for ingest.py"
        )
    rule = FoldRule(arguments.folds, arguments.validation)
    train, test = TableImages(table, rule, "train", arguments.limit), TableImages(table, rule, "test")
    for name, images in (("training", train), ("test", test)):
        if not len(images):
            raise InputError(
                f"--data {arguments.data}: it has no {name} images; ingest more, or with another --test"
            )
    return train, test


def _check_memory(train: Images, n_paths: int, n_lambdas: int) -> None:
    """Refuse what could not end well: matrices that no driver holds.

    Raises:
        InputError: says how large they would be.
    """
    d, n_classes = train.n_features, len(train.class_names)
    moments = 8 * d * (d + n_classes) * max(2, n_paths)
    path = 8 * d * n_classes * n_lambdas * n_paths
    if max(moments, path) > MAX_MOMENTS_BYTES:
        height, width, channels = train.shape
        raise InputError(
            f"images of {height}x{width}x{channels} have {d:,} features: their moments would "
            f"take {moments / 2**30:.1f} GiB and the weights of {n_lambdas} λ for {n_classes:,} classes "
            f"{path / 2**30:.1f} GiB, of {MAX_MOMENTS_BYTES / 2**30:g} GiB allowed; use --size, --grey, "
            "fewer --folds or --lambdas"
        )
