"""Images of any source into a table that executors read without decoding: see common/table.

What the table holds already is left alone, so that the same line starts a table, completes one whose ingest was
killed, and adds the images that came since.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pyspark import SparkContext

from common.console import Console
from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources import AT_PATH, NAMED, open_dataset
from common.data.storage import Storage
from common.data.table.table import Table
from common.data.table.writing import Settings
from common.errors import InputError
from common.report.table import write_report
from common.ridge.model import RidgeModel
from common.run.flags import Parser, data_root_flag, fraction, pixel_flags, pixel_format, quiet_flag
from spark_jobs.engine.session import engine, run_spark_job, spark_context
from spark_jobs.ingestion.globs import Glob, is_glob
from spark_jobs.ingestion.ingestion import Ingest, Ingested

TEST_FRACTION = 0.2
SOURCES = ", ".join([*NAMED, *(f"{kind}:PATH" for kind in AT_PATH), "a glob such as 's3://bucket/photos/*/*.jpg'"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = Parser(description="Decode images on Spark's executors into a table of Parquet files, once.")
    parser.add_argument(
        "source", metavar="SOURCE", help=f"{SOURCES}; of a glob, the folder of a file is its class"
    )
    parser.add_argument("destination", metavar="DEST", help="the table: a path that all workers see, or s3://…")
    data_root_flag(parser)
    pixel_flags(parser)
    parser.add_argument(
        "--test", metavar="F", type=fraction,
        help=f"test fraction, by hashes of names, where the source brings no test set (default: {TEST_FRACTION})",
    )  # fmt: skip
    parser.add_argument(
        "--classes", metavar="FROM", help="take the classes of this table, run folder or text file, and no others"
    )
    quiet_flag(parser)
    return parser.parse_arguments(argv)


def class_names_of(place: str) -> tuple[str, ...]:
    """The class names of a table, of a run folder, or of a text file with one a line.

    Raises:
        InputError: it is none of these.
    """
    path = Path(place).expanduser()
    if path.is_file():
        try:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, ValueError) as error:
            raise InputError(f"--classes {place}: cannot be read as text of UTF-8 ({error})") from error
        if len(set(names)) != len(names) or len(names) < 2:
            raise InputError(f"--classes {place}: needs two class names or more, one a line, each of them once")
        return names
    if (path / "model.json").is_file():
        return RidgeModel.load(path).class_names
    return Table.open(Storage.at(place.removeprefix("parquet:"))).class_names


def joined_classes(found: Sequence[str], before: Table | None, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """The table's classes: those chosen, or those it has and behind them those found in the source.

    Raises:
        InputError: they contradict each other, or are fewer than two.
    """
    if chosen is not None:
        if before is not None and before.class_names != chosen:
            raise InputError("--classes: the table has other classes; leave --classes out, or name another DEST")
        unknown = [name for name in found if name not in set(chosen)]
        if unknown:
            raise InputError(f"class {unknown[0]!r} of the source is not among --classes ({len(unknown)} are not)")
        return chosen
    known = before.class_names if before else ()
    classes = (*known, *(name for name in found if name not in set(known)))
    if len(classes) < 2:
        only = f"only one class, {classes[0]!r}" if classes else "no class"
        raise InputError(f"{only}; a classifier needs two (--classes names those to come)")
    return classes


def relabelled(catalogue: Catalogue, class_names: tuple[str, ...]) -> Catalogue:
    """The same images, their labels as positions in a table's class names."""
    position = {name: label for label, name in enumerate(class_names)}
    table = np.array([position[name] for name in catalogue.class_names], np.int64)
    return replace(catalogue, labels=table[catalogue.labels], class_names=class_names)


def settings_for(
    arguments: argparse.Namespace,
    form: PixelFormat,
    shape: tuple[int, int, int],
    found: Sequence[str],
    before: Table | None,
) -> Settings:
    """How files are made: as the table's are, if there is one.

    Raises:
        InputError: the source does not fit the table, or its classes do not fit each other.
    """
    chosen = class_names_of(arguments.classes) if arguments.classes else None
    classes = joined_classes(found, before, chosen)
    if before is None:
        return Settings(shape, form, classes, arguments.test or TEST_FRACTION, arguments.source)
    if before.shape != shape:
        raise InputError(
            f"{before.storage}: holds images of {before.shape}, and the source has {shape}; use --size"
        )
    return Settings(shape, form, classes, before.test_fraction, arguments.source)


def pixel_format_for(arguments: argparse.Namespace, before: Table | None) -> PixelFormat:
    """What images are turned into: what the flags say, or what the table has.

    Raises:
        InputError: the flags contradict the table.
    """
    form = pixel_format(arguments)
    if before is None:
        return form
    if form not in (PixelFormat(), before.pixel_format):
        raise InputError(f"{before.storage}: its images are {before.pixel_format}, not {form}; name another DEST")
    if arguments.test not in (None, before.test_fraction):
        raise InputError(f"{before.storage}: was made with --test {before.test_fraction:g}; name another DEST")
    return before.pixel_format


def opened(storage: Storage, settings: Settings, before: Table | None, console: Console) -> Ingest:
    """The table in the making; images that it has lost meanwhile are told."""
    ingest = Ingest.open(storage, settings, before)
    if ingest.lost:
        console.warn(f"{ingest.lost:,} images of the table were in files that are gone; it goes on without them")
    return ingest


def from_glob(
    context: SparkContext, arguments: argparse.Namespace, storage: Storage, before: Table | None, console: Console
) -> Ingested:
    """Ingest what a glob names."""
    form = pixel_format_for(arguments, before)
    with console.phase("list"):
        glob = Glob.open(context, arguments.source)
        shape = before.shape if before else glob.shape(form)
        settings = settings_for(arguments, form, shape, glob.classes(), before)
        ingest = opened(storage, settings, before, console)
    with console.phase("decode and write"):
        blocks = glob.blocks(form, shape, settings.class_names, ingest.done)
        written = ingest.write(blocks, None)
    return ingest.commit(written, glob.unread(), glob.count())


def from_catalogues(
    context: SparkContext, arguments: argparse.Namespace, storage: Storage, before: Table | None, console: Console
) -> Ingested:
    """Ingest a source whose names and labels are known beforehand."""
    form = pixel_format_for(arguments, before)
    with console.phase("list"):
        train, test = open_dataset(arguments.source, arguments.data_root, form)
        settings = settings_for(arguments, form, train.shape, train.class_names, before)
        ingest = opened(storage, settings, before, console)
    splits = [(train, None)] if test is None else [(train, "train"), (test, "test")]
    with console.phase("decode and write"):
        written = [
            part
            for catalogue, split in splits
            for part in ingest.write_catalogue(context, relabelled(catalogue, settings.class_names), split)
        ]
    return ingest.commit(written, [], sum(len(catalogue) for catalogue, _ in splits))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, find what is new, decode and write it on the executors, commit."""
    arguments = parse(argv)
    console = Console(arguments.quiet)
    storage = Storage.at(arguments.destination)
    before = Table.open(storage) if Table.exists(storage) else None
    Ingest.check_destination(storage)
    with spark_context("ingest", console) as context:
        ingest = from_glob if is_glob(arguments.source) else from_catalogues
        ingested = ingest(context, arguments, storage, before, console)
        report = write_report(*ingested, engine(context), console)
    table = ingested.table
    train, test = (int(table.class_counts[split].sum()) for split in ("train", "test"))
    console.say(
        f"{storage}: {ingested.added:,} images added"
        + (f", {ingested.already:,} names were there before" if ingested.already else "")
        + f", {len(ingested.quarantined):,} in quarantine; "
        f"now {train:,} training and {test:,} test images of {len(table.class_names):,} classes"
    )
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    run_spark_job(main)
