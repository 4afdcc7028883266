"""Decode the images of any source, once, into a table that jobs read without decoding (see common/data/table).

Images that the table holds already are left alone. The same command therefore starts a table, completes one whose
ingest was killed, and adds the images that have arrived since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark import SparkContext

from common.console import Console
from common.data.sources import specs
from common.data.sources.finding import ignored_files
from common.data.storage import Storage
from common.features.table import write_map
from common.report.table import write_report
from common.run.features import with_network
from common.run.flag_types import fraction, input_location, output_location, seed, source_spec
from common.run.flags import (
    data_root_flag,
    features_flag,
    label_file,
    labels_flags,
    pixel_flags,
    pixel_format,
    quiet_flag,
)
from common.run.parser import Parser
from spark_jobs.engine.session import engine, run_spark_job, spark_context
from spark_jobs.ingestion.features import TableMap, check_spec, learn_map
from spark_jobs.ingestion.listing import Listing, open_listing
from spark_jobs.ingestion.options import TEST_FRACTION, IngestOptions, classes_of
from spark_jobs.ingestion.table_update import Destination, Ingested, TableUpdate


def ingest(
    context: SparkContext, source: str, destination: Destination, options: IngestOptions, console: Console
) -> Ingested:
    """Add the new images of a source to a table: executors decode and write them, the driver commits.

    The new images are dealt out by the hashes of their names. Each partition writes at most one file per split. A
    file belongs to the table once the driver has committed it, and a file that a killed ingest left is not written
    again. The driver handles names, labels and counts, but no pixels.

    Args:
        context: Spark.
        source: a glob, or what --data takes.
        destination: the table.
        options: what to decode images into, and which classes and test fraction a new table has.
        console: shows the phases and warns of lost images.

    Raises:
        InputError: the source cannot be read, holds no image, or does not fit the table.
    """
    before = destination.before
    check_spec(options.features, before)
    stored = TableMap.found(destination.storage, before, options.features)
    shape = stored.image_shape if stored else before.shape if before else None
    with console.phase("list"):
        decoded_into = options.pixel_format_for(before)
        listing = open_listing(source, options.data_root, decoded_into, shape, options.labels)
        for note in listing.notes:
            console.say(note)
        if listing.ignored:
            console.say(ignored_files(listing.ignored))
        settings = options.settings_for(source, listing, before, shape)
    if stored is None and options.features is not None:
        with console.phase("learn features"):
            stored = learn_map(context, listing, settings, options.features, options.seed)
            write_map(destination.storage, stored.features, stored.describe())
    elif stored is not None:
        console.say(f"features {stored.spec}, by the map that {destination.storage} has already")
    if stored is not None:
        settings = replace(settings, shape=stored.shape, features=stored.features.digest)
    with console.phase("list"):
        update = TableUpdate.open(destination, settings, stored)
        warn_of_kept(console, update, listing)
    with console.phase("decode and write"):
        written = [
            files
            for blocks, split in listing.blocks(context, update.settings, update.done)
            for files in update.write(blocks, split)
        ]
    ingested = update.commit(written, listing.count(), listing.ignored)
    if ingested.already and before is not None and source not in before.sources:
        console.warn(
            f"{ingested.already:,} images were left alone because the table has images of their names from other "
            "sources: if these are others, rename them, or name a folder or glob further up"
        )
    return ingested


def warn_of_kept(console: Console, update: TableUpdate, listing: Listing) -> None:
    """Warn of images of the table whose files are gone, and of those that have another class now."""
    if update.lost:
        console.warn(f"{update.lost:,} images of the table were in files that are gone; it goes on without them")
    changed = listing.n_relabelled(update.settings.classes, update.kept)
    if changed:
        console.warn(
            f"{changed:,} images have another class than in the table, which keeps the old one; "
            "name another DEST to have the new ones"
        )


def parser() -> Parser:
    """Return a parser of the job's flags."""
    flags = Parser(description="Decode images on Spark's executors, once, into a table of Parquet files.")
    flags.add_argument(
        "source",
        metavar="SOURCE",
        type=source_spec,
        help=specs("or a glob such as 's3://bucket/photos/*/*.jpg', where the folder of a file is its class"),
    )
    flags.add_argument(
        "destination",
        metavar="DEST",
        type=output_location,
        help="the table: a path that all workers see, or s3://…",
    )
    labels_flags(flags, "SOURCE")
    data_root_flag(flags)
    pixel_flags(flags)
    flags.add_argument(
        "--test",
        metavar="F",
        type=fraction,
        help="test fraction, chosen by hashes of names or groups, if the source has no test set "
        f"(default: {TEST_FRACTION})",
    )
    features_flag(flags, "what is learnt from a sample of the training images, and stored in the place of pixels")
    flags.add_argument("--seed", metavar="N", type=seed, default=0, help="of that sample")
    flags.add_argument(
        "--classes",
        metavar="FROM",
        type=input_location,
        help="use exactly the classes of this table, run folder or text file",
    )
    quiet_flag(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, open the table, ingest, and write the report."""
    arguments = parser().parse_arguments(argv)
    console = Console(arguments.quiet)
    labels = label_file(arguments)
    destination = Destination.open(Storage.at(str(arguments.destination)))
    features = arguments.features
    if features is not None and not destination.before:
        features = with_network(features)
    options = IngestOptions(
        arguments.data_root,
        pixel_format(arguments, features),
        arguments.test,
        classes_of(str(arguments.classes)) if arguments.classes else None,
        features,
        arguments.seed,
        labels,
    )
    with spark_context("ingest", console) as context:
        ingested = ingest(context, arguments.source, destination, options, console)
        report = write_report(*ingested, engine(context), console)
    console.say(f"{destination.storage}: {summary(ingested)}")
    print(f"report: {report}")
    return 0


def summary(ingested: Ingested) -> str:
    """Describe the result of an ingest in one line."""
    table = ingested.table
    train, test = (int(table.class_counts[split].sum()) for split in ("train", "test"))
    already = f", {ingested.already:,} there before" if ingested.already else ""
    return (
        f"{ingested.added:,} images added{already}, {len(ingested.quarantined):,} in quarantine; "
        f"now {train:,} training and {test:,} test images of {len(table.class_names):,} classes"
    )


if __name__ == "__main__":
    run_spark_job(main)
