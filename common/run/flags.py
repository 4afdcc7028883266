"""The flags that jobs share, in groups."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from common.console import Console
from common.data.decode import PixelFormat
from common.data.images import CatalogueImages
from common.data.labelled import open_splits
from common.data.pillow import MAX_PIXELS
from common.data.shipped import expanded
from common.data.sources import TABLE_SPEC, specs
from common.data.sources.label_file import LabelFile
from common.data.splits import FoldRule
from common.errors import InputError
from common.features.augmentation import NONE
from common.features.spec import CHAINS, FORMS, FeatureSpec
from common.report.runs import PAGE
from common.ridge.fit import MAX_KEPT_BYTES
from common.ridge.penalty import PENALTIES
from common.run.flag_types import (
    augmentation,
    data_root,
    feature_spec,
    folder_of_runs,
    fraction,
    input_location,
    lambda_grid,
    n_folds,
    number,
    positive_integer,
    run_folder,
    seed,
    share,
    size,
    source_spec,
)
from common.run.parser import Help, Parser


def features_flag(group: argparse._ActionsContainer, what: str) -> None:
    """Add --features."""
    group.add_argument(
        "--features", metavar="SPEC", type=feature_spec, help=f"{FORMS}, or {CHAINS}: {what} (default: pixels)"
    )


def ridge_parser(description: str) -> Parser:
    """Return a parser with the flags of every ridge job."""
    parser = Parser(description=description, formatter_class=Help)
    data = parser.add_argument_group("data")
    data_flags(data, specs(TABLE_SPEC))
    pixel_flags(data)
    fit = parser.add_argument_group("fit")
    features_flag(fit, "what is learnt from a sample of the training images, and fitted to")
    fit.add_argument(
        "--augment",
        metavar="LIST",
        type=augmentation,
        default=NONE,
        help="fit to variants of images too: shift (moved by one pixel), flip (mirrored) or shift,flip",
    )
    fit.add_argument(
        "--lambdas",
        metavar="SPEC",
        type=lambda_grid,
        default="-5:5:10",
        help="A:B:N for N points from 10^A to 10^B, or a comma list; for features in [0, 1]",
    )
    fit.add_argument(
        "--penalty",
        choices=PENALTIES,
        default="sum",
        help="add λ‖w‖² to the sum of squared errors, or to their mean, or to their mean for features that are "
        "divided by their standard deviations",
    )
    fit.add_argument(
        "--keep",
        metavar="MIB",
        type=number,
        default=MAX_KEPT_BYTES >> 20,
        help="keep the features of images that validate if a process needs no more memory for its share, and "
        "compute them again otherwise; 0 for never",
    )
    held_out = fit.add_mutually_exclusive_group()
    validation_flag(held_out, "λ")
    held_out.add_argument("--folds", metavar="K", type=n_folds, help="choose λ by K-fold cross-validation instead")
    seed_flags(fit)
    output = parser.add_argument_group("output")
    output_flags(output)
    compare_flag(output)
    return parser


def data_flags(group: argparse._ActionsContainer, sources: str) -> None:
    """Add the flags that say which images to use; `sources` names the sources in --help."""
    group.add_argument("--data", metavar="SPEC", type=source_spec, default="digits", help=sources)
    labels_flags(group, "--data")
    for split, use in (("validation", "for validation"), ("test", "the test set")):
        group.add_argument(
            f"--{split}-data",
            metavar="SPEC",
            type=source_spec,
            help=f"another source, whose images are {use}",
        )
        group.add_argument(
            f"--{split}-labels",
            metavar="FILE",
            type=input_location,
            help=f"as --labels, for the folder of --{split}-data",
        )
    data_root_flag(group)
    group.add_argument(
        "--limit", metavar="N", type=positive_integer, help="use N training images, stratified by class"
    )
    group.add_argument(
        "--max-corrupt",
        metavar="F",
        type=share,
        default=0.01,
        help="stop if a larger share of the images than this cannot be used",
    )


def labels_flags(group: argparse._ActionsContainer, source: str) -> None:
    """Add --labels and its columns, which label_file() reads; `source` is the flag of the images."""
    group.add_argument(
        "--labels",
        metavar="FILE",
        type=input_location,
        help=f"the classes of the images in folder:PATH of {source}: a CSV file with one row per image",
    )
    group.add_argument(
        "--file-column", metavar="NAME", help="the column of the names of images: its header, or its number from 1"
    )
    group.add_argument("--label-column", metavar="NAME", help="the column of the classes, likewise")
    group.add_argument(
        "--group-column",
        metavar="NAME",
        help="a column of groups, such as patients: images of one group are never split",
    )


def label_file(arguments: argparse.Namespace, name: str = "labels") -> LabelFile | None:
    """Return the label file of the images of a source, or None if there is none.

    Args:
        arguments: the flags.
        name: labels, test_labels or validation_labels; the latter two may lack these columns.

    Raises:
        InputError: it is at an address, or there are columns or images for it, and no file or source.
    """
    path, flag = getattr(arguments, name), f"--{name.replace('_', '-')}"
    columns = (arguments.file_column, arguments.label_column, arguments.group_column)
    if path is None:
        others = (getattr(arguments, other, None) for other in ("test_labels", "validation_labels"))
        if any(other is not None for other in others):
            return None
        for column, value in zip(("file", "label", "group"), columns, strict=True):
            if name == "labels" and value is not None:
                raise InputError(f"--{column}-column {value}: a column of a label file; name that by --labels")
        return None
    if isinstance(path, str):
        raise InputError(f"{flag} {path}: copy the file to this machine, and name it here")
    source = name.replace("labels", "data")
    if name != "labels" and getattr(arguments, source) is None:
        raise InputError(f"{flag} {path}: labels of the images of --{source.replace('_', '-')}; name these too")
    return LabelFile(expanded(path), *columns, all_needed=name == "labels")


def validation_flag(group: argparse._ActionsContainer, what: str) -> None:
    """Add --validation, which holds out images to choose `what`."""
    group.add_argument(
        "--validation",
        metavar="F",
        type=fraction,
        default=0.2,
        help=f"fraction held out to choose {what}",
    )


def seed_flags(group: argparse._ActionsContainer) -> None:
    """Add --test and --seed."""
    group.add_argument(
        "--test",
        metavar="F",
        type=fraction,
        default=0.2,
        help="fraction of images held out for testing, if the source has no test set",
    )
    group.add_argument("--seed", metavar="S", type=seed, default=0, help="seed of shuffles and splits")


def output_flags(group: argparse._ActionsContainer) -> None:
    """Add --out and --quiet."""
    out_flag(group)
    quiet_flag(group)


def out_flag(group: argparse._ActionsContainer) -> None:
    """Add --out: a Path, or the text of an address such as s3://bucket/folder."""
    group.add_argument(
        "--out", metavar="DIR", type=run_folder, help="the run folder, or s3://… (default: a new one below runs/)"
    )


def compare_flag(group: argparse._ActionsContainer) -> None:
    """Add --compare, which common.run.announcement reads."""
    group.add_argument(
        "--compare",
        metavar="FOLDER",
        type=folder_of_runs,
        help=f"when the run is done, write {PAGE} there, which compares all runs at or below that folder",
    )


def pixel_flags(group: argparse._ActionsContainer) -> None:
    """Add --size, --grey and --binarize, which pixel_format() reads."""
    group.add_argument("--size", metavar="HxW", type=size, help="resize every image")
    group.add_argument("--grey", action="store_true", help="use one channel of luminance")
    group.add_argument(
        "--binarize",
        metavar="T",
        type=fraction,
        help="black and white, white from this share of full intensity",
    )
    max_pixels_flag(group)


def max_pixels_flag(group: argparse._ActionsContainer) -> None:
    """Add --max-pixels."""
    group.add_argument(
        "--max-pixels",
        metavar="N",
        type=positive_integer,
        default=MAX_PIXELS,
        help="refuse files of more pixels, which might be made to fill the memory",
    )


def pixel_format(arguments: argparse.Namespace, features: FeatureSpec | None = None) -> PixelFormat:
    """Return the pixel format that the flags ask for, or if they name no size, the one that the features need."""
    needed = features.pixel_format if features is not None else None
    if arguments.size is None and needed is not None:
        grey = arguments.grey or needed.grey
        return replace(needed, grey=grey, binarize=arguments.binarize, max_pixels=arguments.max_pixels)
    return PixelFormat(arguments.size, arguments.grey, arguments.binarize, max_pixels=arguments.max_pixels)


def named_splits(
    arguments: argparse.Namespace, rule: FoldRule, pixel_format: PixelFormat, console: Console
) -> tuple[CatalogueImages, CatalogueImages]:
    """Open the training and test images that the flags of `data_flags` and `seed_flags` ask for.

    The console shows how the source was read.

    Raises:
        InputError: flags or data are wrong.
    """
    return open_splits(
        arguments.data,
        rule,
        pixel_format,
        arguments.data_root,
        labels=label_file(arguments),
        test=arguments.test,
        test_data=arguments.test_data,
        test_labels=label_file(arguments, "test_labels"),
        validation_data=arguments.validation_data,
        validation_labels=label_file(arguments, "validation_labels"),
        seed=arguments.seed,
        limit=arguments.limit,
        say=console.say,
    )


def refuse_beside_table(arguments: argparse.Namespace, predictor: str) -> None:
    """Refuse flags of `data_flags` that a table has no use for.

    Args:
        arguments: the flags.
        predictor: the job that scores other images.

    Raises:
        InputError: images or labels of other places are named.
    """
    for split in ("test", "validation"):
        if getattr(arguments, f"{split}_data") is not None:
            raise InputError(f"--{split}-data: a table has {split} images of its own; {predictor} scores others")
    for name in ("labels", "test_labels", "validation_labels"):
        if label_file(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: a table has the classes of its images; ingest.py takes a label file")


def others_named(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the places beside --data that flags name, for metrics.json."""
    names = ("labels", "group_column", "validation_data", "validation_labels", "test_data", "test_labels")
    return {name: str(value) for name in names if (value := getattr(arguments, name)) is not None}


def quiet_flag(group: argparse._ActionsContainer) -> None:
    """Add --quiet."""
    group.add_argument("--quiet", action="store_true", help="print nothing but the report's path")


def data_root_flag(group: argparse._ActionsContainer) -> None:
    """Add --data-root."""
    group.add_argument(
        "--data-root",
        metavar="DIR",
        type=data_root,
        default=Path(os.environ.get("IMAGE_DATA_ROOT") or "data"),
        help="where named sets live (else $IMAGE_DATA_ROOT, else data/)",
    )
