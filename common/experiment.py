"""A ridge experiment: from flags to images, folds and λ, and from what was found to a run folder.

Everything that the engines share is here, so that a job shows its parallel algorithm and little else.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.catalogue import Catalogue, Loaded, Skipped
from common.console import Console
from common.datasets import open_dataset
from common.decode import PixelFormat
from common.errors import InputError
from common.evaluation import Evaluation
from common.imageset import Labels
from common.metrics import ClassCounts, accuracy
from common.report import write_report
from common.ridge.model import RidgeModel
from common.ridge.path import RidgePath, best_lambda
from common.runs import RunFolder, write_json, write_skipped
from common.splits import ALWAYS_TRAINING, Folds, hold_out, k_folds, limit, validation_fold

MAX_MOMENTS_BYTES = 2 << 30
"""What all folds' moments may take: they travel between processes as one record, which engines cap at 2 GiB."""


class Engine(NamedTuple):
    """What a job ran on.

    Attributes:
        name: for example "Spark 4.0.1 local[2]".
        workers: processes that worked at the same time.
        threads: BLAS threads in each.
    """

    name: str
    workers: int
    threads: int


@dataclass
class Experiment:
    """One run of a ridge job.

    Attributes:
        job: the job's name.
        arguments: its flags.
        console: progress and clock.
        folder: where the run folder will be.
        train: training and validation images.
        folds: int16 (len(train),), the fold each validates.
        test: test images.
        skipped: images that turned out unusable so far.
    """

    job: str
    arguments: argparse.Namespace
    console: Console
    folder: RunFolder
    train: Catalogue
    folds: Folds
    test: Catalogue
    skipped: list[Skipped] = field(default_factory=list)

    @classmethod
    def open(cls, job: str, arguments: argparse.Namespace) -> Experiment:
        """Open the data, split it, and check that there is anything to learn.

        Raises:
            InputError: flags or data are wrong.
        """
        console = Console(arguments.quiet)
        folder = RunFolder(arguments.out, f"{job}-{arguments.data.partition(':')[0]}")
        with console.phase("open"):
            train, test = open_dataset(arguments.data, arguments.data_root, pixel_format(arguments))
            if test is None:
                parts = hold_out(train.labels, arguments.test, arguments.seed, "test")
                train, test = train.take(parts.rest), train.take(parts.held_out)
            if arguments.limit is not None:
                if arguments.limit > len(train):
                    console.warn(
                        f"--limit {arguments.limit} is more than the {len(train):,} training images; "
                        "all of them are used"
                    )
                train = train.take(limit(train.labels, arguments.limit, arguments.seed))
            if len(train) < max(2, arguments.folds or 0):
                raise InputError(f"{len(train)} training images are too few to hold any out for validation")
            if arguments.folds:
                folds = k_folds(train.labels, arguments.folds, arguments.seed)
            else:
                folds = validation_fold(train.labels, arguments.validation, arguments.seed)
            unseen = len(train.class_names) - len(np.unique(train.labels))
            if unseen:
                console.warn(f"{unseen} of {len(train.class_names)} classes have no training image")
        _check_memory(train, folds, len(arguments.lambdas))
        return cls(job, arguments, console, folder, train, folds, test)

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The grid, for intensities in [0, 1]."""
        return tuple(self.arguments.lambdas)

    @property
    def penalty(self) -> str:
        """Which way λ is meant: "sum" or "mean"."""
        return str(self.arguments.penalty)

    @property
    def n_classes(self) -> int:
        """How many classes the source has."""
        return len(self.train.class_names)

    def load(self, catalogue: Catalogue) -> Loaded:
        """Bring one of the catalogues into this process, with a progress bar, and note what had to be skipped.

        Raises:
            InputError: too many images are unusable.
        """
        with self.console.bar(len(catalogue), "img") as advance:
            loaded = catalogue.load(advance)
        self.note_skipped(loaded.skipped, catalogue)
        return loaded

    def note_skipped(self, skipped: Sequence[Skipped], catalogue: Catalogue) -> None:
        """Count the unusable images of one of the catalogues.

        Raises:
            InputError: they are more than --max-corrupt allows; the message lists them.
        """
        skipped = sorted(skipped)
        if len(skipped) > self.arguments.max_corrupt * len(catalogue):
            listed = "".join(f"\n  {name}: {reason}" for name, reason in skipped[:20])
            more = f"\n  and {len(skipped) - 20} more" if len(skipped) > 20 else ""
            raise InputError(
                f"{len(skipped)} of {len(catalogue)} {'test' if catalogue is self.test else 'training'} images "
                "cannot be used, more than --max-corrupt "
                f"{self.arguments.max_corrupt:g} allows; mend or remove them:{listed}{more}"
            )
        self.skipped += skipped

    def check_folds(self, usable: Iterable[int]) -> None:
        """Make sure that every fold kept images to train on or to validate with.

        Args:
            usable: the fold numbers of images that could be read.

        Raises:
            InputError: a fold lost all of its images.
        """
        if set(usable) != set(self.folds.tolist()):
            raise InputError("no usable image is left in one of the folds; mend the images or use fewer --folds")

    def model(self, fitted: RidgePath, lambda_: float) -> RidgeModel:
        """The classifier that a path of length one is."""
        return RidgeModel(
            weights=fitted.weights[0],
            intercept=fitted.intercepts[0],
            class_names=self.train.class_names,
            shape=self.train.shape,
            pixel_format=pixel_format(self.arguments),
            lambda_=lambda_,
            penalty=self.penalty,
        )

    def best(self, correct: Labels) -> float:
        """The λ to choose from the validation images that each classifies correctly, int (n_lambdas,)."""
        return self.lambdas[best_lambda(correct, self.lambdas)]

    def finish(
        self,
        engine: Engine,
        n_validation: int,
        correct: Labels,
        model: RidgeModel,
        tested: Evaluation,
        **more: Any,
    ) -> Path:
        """Write the run folder and say where its report is.

        Args:
            engine: what it ran on.
            n_validation: how many validation images were scored.
            correct: int (n_lambdas,), how many of them each λ classified correctly.
            model: refitted at the best λ on training and validation images.
            tested: the model's scores on the test images.
            more: what else metrics.json should hold.
        """
        if not len(tested.truth):
            raise InputError("no usable test image is left; mend the images or use a larger --test")
        n_skipped_test = len(self.test) - len(tested.truth)
        n_train = len(self.train) - (len(self.skipped) - n_skipped_test)
        by_class = ClassCounts.of(tested.predicted, tested.truth, self.n_classes)
        record: dict[str, Any] = {
            "job": self.job,
            "engine": engine.name,
            "command": _command(),
            "data": self.arguments.data,
            "images": {
                "train": n_train - n_validation if self.arguments.folds is None else n_train,
                "validation": n_validation,
                "test": len(tested.truth),
                "skipped": len(self.skipped),
            },
            "shape": list(self.train.shape),
            "pixel_format": str(model.pixel_format),
            "classes": list(self.train.class_names),
            "penalty": self.penalty,
            "folds": self.arguments.folds,
            "lambdas": list(self.lambdas),
            "validation_correct": [int(count) for count in correct],
            "validation_accuracy": [int(count) / max(n_validation, 1) for count in correct],
            "best_lambda": model.lambda_,
            "test_accuracy": accuracy(tested.predicted, tested.truth),
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
                write_report(folder, record, model, self.test, tested, self.skipped)
            record["seconds"] = self.console.seconds | {"total": self.console.total_seconds()}
            write_json(folder / "metrics.json", record)
        report = self.folder.path / "report.html"
        if self.skipped:
            self.console.warn(
                f"{len(self.skipped)} images were skipped; {self.folder.path / 'skipped.csv'} lists them"
            )
        say = self.console.say
        say(f"{self.job} on {engine.name}: {n_train:,} training and {len(tested.truth):,} test images from "
            f"{self.arguments.data}")  # fmt: skip
        say(f"best λ {model.lambda_:.3g}: {max(record['validation_accuracy']):.4f} of validation, "
            f"{record['test_accuracy']:.4f} of test images correct")  # fmt: skip
        print(f"report: {report}")
        return report


def pixel_format(arguments: argparse.Namespace) -> PixelFormat:
    """What the flags ask every image to be turned into."""
    return PixelFormat(arguments.size, arguments.grey, arguments.binarize)


def _check_memory(train: Catalogue, folds: Folds, n_lambdas: int) -> None:
    """Refuse what could not end well: matrices that no driver holds.

    Raises:
        InputError: says how large they would be.
    """
    d, n_classes = train.n_features, len(train.class_names)
    present = np.unique(folds)
    n_groups, n_paths = len(present), int((present != ALWAYS_TRAINING).sum())
    moments = 8 * d * (d + n_classes) * n_groups
    path = 8 * d * n_classes * n_lambdas * n_paths
    if max(moments, path) > MAX_MOMENTS_BYTES:
        height, width, channels = train.shape
        raise InputError(
            f"images of {height}x{width}x{channels} have {d:,} features: their moments would "
            f"take {moments / 2**30:.1f} GiB and the weights of {n_lambdas} λ for {n_classes:,} classes "
            f"{path / 2**30:.1f} GiB, of {MAX_MOMENTS_BYTES / 2**30:g} GiB allowed; use --size, --grey, "
            "fewer --folds or --lambdas"
        )


def _command() -> str:
    """The command line that made this run."""
    # spark-submit's launcher talks to the script through this gateway
    program = "spark-submit" if "PYSPARK_GATEWAY_PORT" in os.environ else "python"
    return shlex.join([program, *sys.argv])


def versions() -> dict[str, str]:
    """Versions of what the result could depend on, as far as it is installed."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("numpy", "pillow", "pyspark", "mpi4py"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
