"""Predict any number of images with a fitted ridge model: one row per image, written where the image is read.

An image that cannot be used has a row too, with the reason.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyspark import RDD, SparkContext

from common.arrays import Labels
from common.console import Console
from common.data.catalogue import Classes
from common.data.decode import DECODING_STEPS
from common.data.images import Block, CatalogueImages, Images
from common.data.sources import TABLE_SPEC, find_source, open_labelled, open_table, open_unlabelled, specs
from common.data.sources.finding import ignored_files
from common.data.sources.glob import Glob, is_glob
from common.data.sources.source import Requirements, Unlabelled
from common.data.splits import FoldRule
from common.data.storage import PARTIAL, Storage
from common.data.table.reading import TableImages
from common.data.table.table import SPLITS, Table
from common.errors import InputError
from common.features.stored import StoredFeatures
from common.features.table import map_of_table
from common.predict.inputs import LIST, listed_files
from common.predict.predictions import (
    MOST_UNSURE,
    PREDICTIONS,
    RowFormat,
    Summary,
    predictions_csv,
    write_predictions,
)
from common.provenance import Engine
from common.ridge.model import RidgeModel
from common.run.announcement import announce
from common.run.flag_types import model_folder, positive_integer, source_spec
from common.run.flags import compare_flag, data_root_flag, max_pixels_flag, out_flag, quiet_flag
from common.run.folder import RunFolder
from common.run.parser import Parser
from spark_jobs.engine.blocks import gather, image_parts, read_parts, unlabelled_parts
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context


class Selection(NamedTuple):
    """The images to predict.

    Attributes:
        data: a glob, or what --data takes.
        data_root: folder of the named sets.
        split: "all", "train" or "test".
        partitions: number of parts to deal the images out in, or None to choose by cores and size.
    """

    data: str
    data_root: Path = Path("data")
    split: str = "all"
    partitions: int | None = None


def predict(
    context: SparkContext,
    model: RidgeModel,
    selection: Selection,
    destination: Storage,
    row_format: RowFormat,
    console: Console,
) -> Summary:
    """Score images where they are read: each partition writes one file of rows and returns a small summary.

    The summaries are added up; nothing else reaches the driver, however many images there are.

    Args:
        context: Spark.
        model: scores the images.
        selection: the images.
        destination: where the files of rows are written, below PREDICTIONS.
        row_format: columns of a row.
        console: shows the phases.

    Raises:
        InputError: there are no images, they do not fit the model, or the driver cannot see what workers write.
    """
    with console.phase("list"):
        blocks, class_map, ignored, stored = find_images(context, selection, model)
        if stored is not None:
            model = model.of_stored(stored)
        if ignored:
            console.say(ignored_files(ignored))
    with console.phase("predict"):
        summaries = blocks.mapPartitionsWithIndex(
            lambda part, own: [write_predictions(destination, part, model, row_format, own, class_map)]
        )
        summary = gather(summaries, add, MOST_UNSURE * math.prod(model.shape))
        n_files = summaries.getNumPartitions()
        remove_partial(destination)
    if len(destination.names(PREDICTIONS)) < n_files:
        raise InputError(
            f"{destination}: rows that workers wrote are not visible here; name an --out that all machines share"
        )
    return replace(summary, ignored=ignored)


class ImagesToPredict(NamedTuple):
    """Images that fit a model.

    Attributes:
        blocks: the images, with names.
        class_map: int64 (n_labels,), the model's class for each label of the images, -1 where it has none.
        ignored: the number of files beside the images that are none, by kind.
        stored: the map of features that are stored in the place of the images; None for images.
    """

    blocks: RDD[Block]
    class_map: Labels
    ignored: Mapping[str, int]
    stored: StoredFeatures | None = None


def find_images(context: SparkContext, selection: Selection, model: RidgeModel) -> ImagesToPredict:
    """Find the images of a selection, and check that they fit a model.

    Raises:
        InputError: there are none, or their shape or pixel format is not the model's.
    """
    data, data_root, wanted, partitions = selection
    table = open_table(data)
    stored = None if table is None else map_of_table(table)
    source = find_source(data)
    if table is not None:
        images: list[Images] = [_images_of_table(table, stored, selection, model)]
    elif source is not None and source.takes_split:
        splits = zip(SPLITS, open_labelled(data, data_root, model.pixel_format)[:2], strict=True)
        images = [
            CatalogueImages(catalogue) for name, catalogue in splits if catalogue and wanted in ("all", name)
        ]
    else:
        requirements = Requirements(model.pixel_format, model.shape, model.classes, DECODING_STEPS)
        unlabelled = _open_unlabelled(selection, requirements)
        files = unlabelled_parts(context, unlabelled, partitions)
        blocks = read_parts(context, files, names=True)
        return ImagesToPredict(blocks, np.arange(len(model.class_names)), unlabelled.ignored)
    if not images or not sum(map(len, images)):
        raise InputError(f"--data {data}: has no {wanted} images; use --split all")
    if images[0].shape != model.shape and stored is None:
        shapes = f"images of {_shape(images[0].shape)}, and the model is for {_shape(model.shape)}"
        raise InputError(f"--data {data}: {shapes}")
    class_map = model.classes.positions(Classes(images[0].class_names, images[0].class_ids))
    parts = [part for split in images for part in image_parts(context, split, partitions)]
    return ImagesToPredict(read_parts(context, parts, names=True), class_map, {}, stored)


def _open_unlabelled(selection: Selection, requirements: Requirements) -> Unlabelled:
    """Open files to predict.

    Raises:
        InputError: there are none, or the source is missing or invalid.
    """
    if is_glob(selection.data):
        return Glob.of(selection.data).open_unlabelled(requirements)
    if selection.split != "all":
        raise InputError(f"--split {selection.split}: --data {selection.data} has no splits; leave it out")
    if selection.data.startswith(f"{LIST}:"):
        return listed_files(selection.data, requirements)
    found = open_unlabelled(selection.data, selection.data_root, None, requirements)
    if not len(found.images):
        raise InputError(f"--data {selection.data}: no images in it")
    return found


def _images_of_table(
    table: Table, stored: StoredFeatures | None, selection: Selection, model: RidgeModel
) -> TableImages:
    if stored is not None and stored.digest != model.features.digest:
        spec = (table.features or {}).get("spec")
        raise InputError(
            f"--data {selection.data}: it holds the features {spec}, and the model is fitted to others; "
            "predict from the images"
        )
    if table.shape == model.shape and table.pixel_format != model.pixel_format:
        formats = f"its images are {table.pixel_format}, and the model's were {model.pixel_format}"
        raise InputError(f"--data {selection.data}: {formats}")
    nothing_held_out = FoldRule(None, 0)
    return TableImages(table, nothing_held_out, None if selection.split == "all" else selection.split)


def _shape(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))


def remove_partial(storage: Storage) -> None:
    """Remove the half-written files of tasks that died."""
    for name in storage.names(PREDICTIONS):
        if name.endswith(PARTIAL):
            storage.delete(name)


def parser() -> Parser:
    """Return a parser of the job's flags."""
    flags = Parser(description="Predict the classes of images with a model that a ridge job has fitted.")
    flags.add_argument(
        "--model", metavar="RUN", type=model_folder, required=True, help="the run folder of a ridge job"
    )
    flags.add_argument(
        "--data",
        metavar="SPEC",
        type=source_spec,
        required=True,
        help=specs(TABLE_SPEC, f"{LIST}:FILE", "or a glob such as 's3://bucket/new/*.jpg'"),
    )
    data_root_flag(flags)
    max_pixels_flag(flags)
    flags.add_argument("--split", choices=("all", *SPLITS), default="all", help="if the source has splits")
    out = flags.add_argument_group("output")
    out_flag(out)
    compare_flag(out)
    out.add_argument(
        "--format", choices=("parquet", "csv"), default="parquet", help="file format of the predictions"
    )
    out.add_argument(
        "--top", metavar="K", type=positive_integer, default=1, help="number of classes per image, best first"
    )
    out.add_argument("--scores", action="store_true", help="write the score of each predicted class")
    partitions_flag(flags)
    quiet_flag(out)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, load the model, predict, and write the run folder."""
    from common.report.prediction import write_report  # matplotlib: workers, which import this module, need none

    arguments = parser().parse_arguments(argv)
    console = Console(arguments.quiet)
    model = RidgeModel.load(arguments.model)
    row_format = RowFormat(min(arguments.top, len(model.class_names)), arguments.scores)
    pixel_format = replace(model.pixel_format, max_pixels=arguments.max_pixels)
    model = replace(model, pixel_format=pixel_format)
    selection = Selection(arguments.data, arguments.data_root, arguments.split, arguments.partitions)
    folder = RunFolder(arguments.out, "predict")
    with spark_context("predict", console) as context, folder.written() as staging:
        destination = folder.shared(staging)
        summary = predict(context, model, selection, destination, row_format, console)
        if arguments.format == "csv":
            with console.phase("csv"):
                predictions_csv(destination, summary.n_skipped)
        described = _described(arguments, model, summary, engine(context), console)
        write_report(staging, summary, model.class_names, described, ignored=summary.ignored)
    rows = f"{PREDICTIONS}.csv" if arguments.format == "csv" else f"{PREDICTIONS}/"
    console.say(f"{folder.file(rows)}: {summary.n:,} rows, {summary.n_skipped:,} of them errors")
    if summary.confusion.n:
        accuracy = f"{summary.confusion.accuracy():.4f} of {summary.confusion.n:,} images"
        console.say(f"{accuracy} whose class is known are predicted correctly{summary.others()}")
    announce(folder.file("report.html"), arguments, console)
    return 0


def _described(
    arguments: argparse.Namespace, model: RidgeModel, summary: Summary, engine: Engine, console: Console
) -> dict[str, Any]:
    """Return what metrics.json says in addition to the summary."""
    return {
        "job": "predict",
        "engine": engine.name,
        "model": str(arguments.model),
        "data": arguments.data,
        "shape": list(model.shape),
        "images_per_second": summary.n / max(console.seconds["predict"], 1e-9),
        "seconds": console.seconds | {"total": console.total_seconds()},
        "workers": engine.workers,
        "threads": engine.threads,
    }


if __name__ == "__main__":
    run_spark_job(main)
