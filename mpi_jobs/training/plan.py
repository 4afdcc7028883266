"""The preparation of training on rank 0: flags (completed if a run is resumed), images and the network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.arrays import Indices
from common.console import Console
from common.data.catalogue import Classes, PixelReader
from common.data.decode import PixelFormat
from common.data.imagenet import PHOTOGRAPH_SIDE
from common.data.images import CatalogueImages
from common.data.labelled import warn_of_splits
from common.data.sources import check_classes, open_table
from common.data.splits import ALWAYS_TRAINING, FoldRule
from common.errors import InputError
from common.nets.checkpoints import BEST, Checkpoint, find_last, remove_partials
from common.nets.networks import OWN, NetworkSpec
from common.nets.preprocessing import Preprocessing
from common.run.flags import named_splits
from common.run.folder import RunFolder
from mpi_jobs.engine.world import counted_ranks
from mpi_jobs.training.flags import RANDOM, RIDGE, differences, keep, training_parser
from mpi_jobs.training.optimisers import LEARNING_RATES

if TYPE_CHECKING:
    from common.data.table.table import Table

BATCH = 32
"""Default number of images per step on each rank."""


class TrainingRequest(NamedTuple):
    """The request of the command line.

    Attributes:
        arguments: the flags, complete.
        checkpoint: the checkpoint to resume; None for a new run.
        notes: lines that tell a person what resuming changes.
    """

    arguments: argparse.Namespace
    checkpoint: Checkpoint | None
    notes: list[str]


@dataclass
class OpenedTraining:
    """Images, run folder and checkpoint, which only rank 0 has.

    Attributes:
        train: training and validation images.
        test: test images.
        pixel_format: what files are decoded into.
        folder: the run folder that is to be made; None once it is there.
        path: the path of the run folder.
        checkpoint: the checkpoint to resume; None for a new run, and once it has been restored.
        table: the table that the images are in; None for other sources.
    """

    train: CatalogueImages
    test: CatalogueImages
    pixel_format: PixelFormat
    folder: RunFolder | None
    path: Path
    checkpoint: Checkpoint | None
    table: Table | None = None

    def numbers(self, validation: bool) -> Indices:
        """Return the numbers of the validation images in `train`, or of the training images."""
        return np.flatnonzero((self.train.folds != ALWAYS_TRAINING) == validation)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of each split: equal if and only if the names and classes of the images are."""
        catalogue = self.train.catalogue
        return {
            "training": catalogue.take(self.numbers(False)).digest(),
            "validation": catalogue.take(self.numbers(True)).digest(),
            "test": self.test.catalogue.digest(),
        }

    def make_folder(self) -> Path:
        """Make the run folder if it is not there, and return its path.

        Raises:
            RunError: it cannot be made.
        """
        if self.folder is not None:
            self.path, self.folder = self.folder.begin(), None
        return self.path


class TrainingPlan(NamedTuple):
    """The facts that every rank needs.

    Attributes:
        spec: what the network is built from.
        preprocessing: what happens to images.
        classes: the classes.
        reader: the reader of training and validation images.
        test_reader: the reader of test images.
        n_train: the number of training images.
        n_validation: the number of validation images.
        n_test: the number of test images.
        n_ignored: the number of files beside the images that are none.
        n_quarantined: the number of images that were skipped when their table was made; None without a table.
    """

    spec: NetworkSpec
    preprocessing: Preprocessing
    classes: Classes
    reader: PixelReader
    test_reader: PixelReader
    n_train: int
    n_validation: int
    n_test: int
    n_ignored: int
    n_quarantined: int | None

    @property
    def in_table(self) -> bool:
        """True if the images are in a table."""
        return self.n_quarantined is not None


def read_request(argv: Sequence[str] | None, n_ranks: int) -> TrainingRequest:
    """Read the flags, and the checkpoint of a run that is resumed.

    Raises:
        InputError: there is nothing to resume, or no sense in doing so.
        SystemExit: --help, or flags that do not parse.
    """
    parser = training_parser()
    arguments = parser.parse_arguments(argv)
    checkpoint, notes = None, []
    if arguments.resume is not None:
        begins = arguments.weights is not None or arguments.pretrained or arguments.head != RANDOM
        if arguments.out is not None or begins:
            raise InputError(
                "--resume goes on in its own folder with its own weights: no --out, no --weights, "
                "no --pretrained, no --head"
            )
        path = find_last(arguments.resume)
        checkpoint = Checkpoint.load(path)
        keep(parser, checkpoint.arguments)
        arguments = parser.parse_arguments(argv)
        if arguments.batch is not None:
            arguments.global_batch = arguments.batch * n_ranks
        if checkpoint.progress.epoch >= arguments.epochs and (path.parent / "metrics.json").exists():
            done = f"all of its {checkpoint.progress.epoch} epochs are done"
            raise InputError(f"--resume {arguments.resume}: {done}; --epochs N for more")
        notes = _resume_notes(checkpoint, arguments, n_ranks)
    elif (arguments.freeze or arguments.head == RIDGE) and arguments.weights is None and not arguments.pretrained:
        raise InputError(
            "--freeze and --head ridge build on what a network has learnt, and this one begins at random; "
            "add --pretrained or --weights FILE, or leave them out"
        )
    if arguments.global_batch is None:
        arguments.global_batch = (arguments.batch or BATCH) * n_ranks
    if arguments.lr is None:
        arguments.lr = LEARNING_RATES[arguments.optimiser]
    return TrainingRequest(arguments, checkpoint, notes)


def _resume_notes(checkpoint: Checkpoint, arguments: argparse.Namespace, n_ranks: int) -> list[str]:
    """Return lines that say where a run continues and what has changed."""
    progress = checkpoint.progress
    if progress.epoch >= arguments.epochs:
        return ["going on with the test: all epochs are done"]
    changes = differences(checkpoint.arguments, arguments)
    if checkpoint.n_replicas != n_ranks:
        ranks = (
            f"{counted_ranks(n_ranks)} instead of {checkpoint.n_replicas}, which share the "
            f"{arguments.global_batch} images of a step: sums are rounded in another order, and batch norm sees "
            "other images together"
        )
        changes.insert(0, ranks)
    step = f"step {progress.step + 1} of " if progress.step else ""
    return [
        f"going on with {step}epoch {progress.epoch + 1} of {arguments.epochs}",
        *(f"what differs from before: {change}" for change in changes),
    ]


def open_training(request: TrainingRequest, console: Console) -> OpenedTraining:
    """Open the images, and find the run folder.

    Raises:
        InputError: flags or data are wrong, or the images are not those of the run to resume.
    """
    arguments, checkpoint, _ = request
    kind, _, location = arguments.data.partition(":")
    rule = FoldRule(None, arguments.validation)
    with console.phase("open"):
        table = open_table(arguments.data)
        if table is not None:
            from mpi_jobs.training.table import open_rows  # other sources need no pyarrow

            check_classes(arguments.data, table.class_names)
            train, test = open_rows(table, arguments)
            pixel_format = replace(table.pixel_format, max_pixels=arguments.max_pixels)
        else:
            side = arguments.image_size or (PHOTOGRAPH_SIDE if location else None)
            size = (side, side) if side else None
            pixel_format = PixelFormat(
                size, arguments.grey, crop=side is not None, max_pixels=arguments.max_pixels
            )
            train, test = named_splits(arguments, rule, pixel_format, console)
        warn_of_splits(console, arguments.limit, train)
    if checkpoint is None:
        folder = RunFolder(arguments.out, f"train_cnn-{kind}")
        return OpenedTraining(train, test, pixel_format, folder, folder.path, None, table)
    path = find_last(arguments.resume).resolve().parent
    opened = OpenedTraining(train, test, pixel_format, None, path, checkpoint, table)
    _check_images(arguments, opened, checkpoint)
    remove_partials(opened.path)
    return opened


def _check_images(arguments: argparse.Namespace, opened: OpenedTraining, checkpoint: Checkpoint) -> None:
    """Make sure that the checkpoint was trained on these images.

    Raises:
        InputError: they have other classes, names or labels.
    """
    if opened.train.class_names != checkpoint.classes.names:
        raise InputError(
            f"--resume {arguments.resume}: it knows {_shown_classes(checkpoint.classes.names)}, and "
            f"--data {arguments.data} has {_shown_classes(opened.train.class_names)}"
        )
    for split, digest in opened.digests.items():
        if checkpoint.images.get(split) != digest:
            raise InputError(
                f"--resume {arguments.resume}: its {split} images were others (by their names and classes, or by "
                f"--seed, --limit, --validation, --test); begin a new run with --weights {opened.path / BEST}"
            )


def make_plan(arguments: argparse.Namespace, opened: OpenedTraining) -> TrainingPlan:
    """Return what the other ranks have to know.

    Raises:
        InputError: the resumed run trained another network.
    """
    height, width, channels = opened.train.shape
    if arguments.network not in OWN:
        channels = 3  # torchvision's networks take colour
    n_classes = len(opened.train.class_names)
    spec = NetworkSpec(arguments.network, channels, height, width, n_classes, arguments.batch_norm)
    if opened.checkpoint is not None and spec != opened.checkpoint.spec:
        raise InputError(
            f"--resume {arguments.resume}: its network is {opened.checkpoint.spec}, and the flags ask for {spec}"
        )
    reader = opened.train.catalogue.reader
    # a file to be predicted is decoded into the shape of the training images, also of digits and MNIST
    pixel_format = replace(opened.pixel_format, size=(height, width), grey=reader.shape[2] == 1)
    n_validation = len(opened.numbers(True))
    return TrainingPlan(
        spec,
        Preprocessing.for_channels(pixel_format, channels),
        opened.train.catalogue.classes,
        reader,
        opened.test.catalogue.reader,
        len(opened.train) - n_validation,
        n_validation,
        len(opened.test),
        sum(opened.train.catalogue.ignored.values()),
        None if opened.table is None else opened.table.quarantined,
    )


def _shown_classes(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:4]) + (", …" if len(class_names) > 4 else "")
    return f"{len(class_names):,} classes ({shown})"
