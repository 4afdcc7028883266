"""What rank 0 does before training: flags, those of a run that goes on filled in, and images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.arrays import Indices
from common.console import Console
from common.data.catalogue import Classes, PixelReader
from common.data.decode import PixelFormat
from common.data.images import CatalogueImages
from common.data.labelled import open_splits, warn_of_splits
from common.data.sources import TABLE, specs
from common.data.splits import ALWAYS_TRAINING, FoldRule
from common.errors import InputError
from common.nets.checkpoints import BEST, Checkpoint, find, remove_partials
from common.nets.networks import SMALL, NetworkSpec
from common.nets.preprocessing import PHOTOGRAPH_SIDE, Preprocessing
from common.run.folder import RunFolder
from mpi_jobs.engine.world import counted_ranks
from mpi_jobs.training.flags import differences, keep, training_parser
from mpi_jobs.training.optimisers import LEARNING_RATES

BATCH = 32
"""Images of a step on each rank, where nobody asks for another number."""


class Asked(NamedTuple):
    """What a person wants.

    Attributes:
        arguments: the flags, complete.
        checkpoint: to go on from.
        notes: what the person should know of that.
    """

    arguments: argparse.Namespace
    checkpoint: Checkpoint | None
    notes: list[str]


@dataclass
class Opened:
    """What rank 0 alone has.

    Attributes:
        train: training and validation images.
        test: images.
        pixel_format: what files would be decoded into.
        folder: where the run folder will be; None once it is there.
        path: of the run folder.
        checkpoint: that the run goes on from.
    """

    train: CatalogueImages
    test: CatalogueImages
    pixel_format: PixelFormat
    folder: RunFolder | None
    path: Path
    checkpoint: Checkpoint | None

    def numbers(self, validation: bool) -> Indices:
        """Which of `train` are validation images, or which are not."""
        return np.flatnonzero((self.train.folds != ALWAYS_TRAINING) == validation)

    @cached_property
    def digests(self) -> dict[str, str]:
        """What tells the images of each split from others."""
        catalogue = self.train.catalogue
        return {
            "training": catalogue.take(self.numbers(False)).digest(),
            "validation": catalogue.take(self.numbers(True)).digest(),
            "test": self.test.catalogue.digest(),
        }


class Facts(NamedTuple):
    """What every rank has to know.

    Attributes:
        spec: of the network.
        preprocessing: of all images.
        classes: their names, and what the source calls them.
        reader: of training and validation images.
        test_reader: of test images.
        n_train: images.
        n_validation: images.
        n_test: images.
    """

    spec: NetworkSpec
    preprocessing: Preprocessing
    classes: Classes
    reader: PixelReader
    test_reader: PixelReader
    n_train: int
    n_validation: int
    n_test: int


def ask(argv: Sequence[str] | None, ranks: int) -> Asked:
    """Read the flags.

    Raises:
        InputError: there is nothing to go on with, or no sense in doing so.
        SystemExit: --help, or flags that do not parse.
    """
    parser = training_parser()
    arguments = parser.parse_arguments(argv)
    checkpoint, notes = None, []
    if arguments.resume is not None:
        if arguments.out is not None or arguments.weights is not None:
            raise InputError("--resume goes on in its own folder with its own weights: no --out, no --weights")
        path = find(arguments.resume)
        checkpoint = Checkpoint.load(path)
        keep(parser, checkpoint.arguments)
        arguments = parser.parse_arguments(argv)
        if arguments.batch is not None:
            arguments.global_batch = arguments.batch * ranks
        if checkpoint.progress.epoch >= arguments.epochs and (path.parent / "metrics.json").exists():
            raise InputError(
                f"--resume {arguments.resume}: all of its {arguments.epochs} epochs are done; --epochs N for more"
            )
        notes = _told_of_resuming(checkpoint, arguments, ranks)
    if arguments.global_batch is None:
        arguments.global_batch = (arguments.batch or BATCH) * ranks
    if arguments.lr is None:
        arguments.lr = LEARNING_RATES[arguments.optimiser]
    return Asked(arguments, checkpoint, notes)


def _told_of_resuming(checkpoint: Checkpoint, arguments: argparse.Namespace, ranks: int) -> list[str]:
    """Where a run goes on, and what is not as it was."""
    progress = checkpoint.progress
    step = f"step {progress.step + 1} of " if progress.step else ""
    changed = differences(checkpoint.arguments, arguments)
    if checkpoint.ranks != ranks:
        changed.insert(
            0,
            f"{counted_ranks(ranks)} instead of {checkpoint.ranks}, which share the {arguments.global_batch} "
            "images of a step: sums are rounded in another order, and batch norm sees other images together",
        )
    if progress.epoch >= arguments.epochs:
        return ["going on with the test: all epochs are done"]
    return [
        f"going on with {step}epoch {progress.epoch + 1} of {arguments.epochs}",
        *(f"what differs from before: {each}" for each in changed),
    ]


def open_images(asked: Asked, console: Console) -> Opened:
    """Open the images, and find out where the run folder is to be.

    Raises:
        InputError: flags or data are wrong, or not those of the run to go on with.
    """
    arguments, checkpoint, _ = asked
    kind, _, place = arguments.data.partition(":")
    with console.phase("open"):
        if kind == TABLE:
            raise InputError(f"--data {arguments.data}: train_cnn.py reads {specs()}")
        side = arguments.image_size or (PHOTOGRAPH_SIDE if place else None)
        pixel_format = PixelFormat((side, side) if side else None, arguments.grey, crop=side is not None)
        train, test = open_splits(arguments, pixel_format, FoldRule(None, arguments.validation))
        warn_of_splits(console, arguments.limit, train)
    if checkpoint is None:
        folder = RunFolder(arguments.out, f"train_cnn-{kind}")
        return Opened(train, test, pixel_format, folder, folder.path, None)
    if train.class_names != checkpoint.classes.names:
        raise InputError(
            f"--resume {arguments.resume}: it knows {_told(checkpoint.classes.names)}, and "
            f"--data {arguments.data} has {_told(train.class_names)}"
        )
    opened = Opened(train, test, pixel_format, None, find(arguments.resume).resolve().parent, checkpoint)
    for split, digest in opened.digests.items():
        if checkpoint.images.get(split) != digest:
            raise InputError(
                f"--resume {arguments.resume}: its {split} images were others (by their names and classes, or by "
                f"--seed, --limit, --validation, --test); begin a new run with --weights {opened.path / BEST}"
            )
    remove_partials(opened.path)
    return opened


def find_facts(arguments: argparse.Namespace, opened: Opened) -> Facts:
    """What the other ranks have to know.

    Raises:
        InputError: the network is not that of the run to go on with.
    """
    height, width, channels = opened.train.shape
    if arguments.network != SMALL:
        channels = 3  # what torchvision's networks take
    spec = NetworkSpec(
        arguments.network, channels, height, width, len(opened.train.class_names), arguments.batch_norm
    )
    if opened.checkpoint is not None and spec != opened.checkpoint.spec:
        raise InputError(
            f"--resume {arguments.resume}: its network is {opened.checkpoint.spec}, and the flags ask for {spec}"
        )
    reader = opened.train.catalogue.reader
    # what an image from a file would have to become, to be like those of digits and MNIST
    pixel_format = replace(opened.pixel_format, size=(height, width), grey=reader.shape[2] == 1)
    preprocessing = Preprocessing.for_channels(pixel_format, channels)
    n_validation = len(opened.numbers(True))
    return Facts(
        spec,
        preprocessing,
        opened.train.catalogue.classes,
        reader,
        opened.test.catalogue.reader,
        len(opened.train) - n_validation,
        n_validation,
        len(opened.test),
    )


def _told(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:4]) + (", …" if len(class_names) > 4 else "")
    return f"{len(class_names):,} classes ({shown})"
