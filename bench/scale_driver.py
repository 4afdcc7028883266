"""`spark-submit bench/scale_driver.py BIG SMALL MODEL REPEATS SIZE...`: what bench.scale measures in one driver.

BIG and SMALL are image tables, MODEL is a run folder, and each SIZE is a number of images of BIG to fit. Executors
are warm. If MODEL is `-`, SIZE images are fitted once by cold executors, and the peak memory is measured. The
result is printed as one line of JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import Row

from bench.jobs import run, work
from common.data.splits import FoldRule
from common.data.storage import Storage
from common.data.table.reading import TableImages, pixel_view
from common.data.table.table import Table
from common.ridge.fit import Problem
from common.ridge.moments import FoldMoments, FoldSums, merge
from spark_jobs import gram, predict
from spark_jobs.engine.blocks import image_blocks, reduce_moments, tree_reduce
from spark_jobs.engine.session import configuration, wait_for_executors
from spark_jobs.engine.worker_setup import settle

RULE = FoldRule(None, 0.2)

PREDICTIONS = 7
"""Runs of predict that count."""

BATCH = 8192
"""Images per array where Spark delivers records."""


def peaks() -> dict[str, int]:
    """Return the peak memory of this process and of its JVM, in bytes."""
    held = {}
    for name, pid in (("python", os.getpid()), ("jvm", os.getppid())):
        status = Path(f"/proc/{pid}/status").read_text()
        held[name] = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return held


def fit(table: str, n: int, *flags: str) -> dict[str, Any]:
    """Fit n images and return the metrics of the job."""
    return run(gram.main, "--data", f"parquet:{table}", "--limit", str(n), *flags)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the wall times of several calls, made in turn, after one of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def moments_of_records(frame: DataFrame) -> FoldMoments:
    """Compute the moments in the obvious way: an RDD of records, one object per image, stacked in batches."""

    def of_partition(records: Iterable[Row]) -> Iterator[FoldMoments]:
        sums = FoldSums(10)
        remaining = iter(records)
        while batch := list(islice(remaining, BATCH)):
            pixels = np.stack([np.frombuffer(record.pixels, np.uint8) for record in batch])
            labels = np.array([record.label for record in batch], np.int64)
            sums.add(pixels, labels, RULE.of_buckets(np.array([record.fold for record in batch], np.int16)))
        yield sums.result()

    return tree_reduce(frame.rdd.mapPartitions(of_partition), merge)


def moments_in_arrow(frame: DataFrame) -> FoldMoments:
    """Compute the moments in Spark's own Arrow way: the JVM reads Parquet and sends record batches to Python."""

    def of_partition(batches: Iterable[Any]) -> Iterator[Any]:
        import pyarrow as pa

        settle()
        sums = FoldSums(10)
        for batch in batches:
            pixels = batch.column(0).cast(pa.binary(784))
            labels = batch.column(1).to_numpy().astype(np.int64)
            sums.add(pixel_view(pixels), labels, RULE.of_buckets(batch.column(2).to_numpy()))
        yield pa.RecordBatch.from_pydict({"moments": [pickle.dumps(sums.result())]})

    parts = frame.mapInArrow(of_partition, "moments binary").rdd.map(lambda row: pickle.loads(row[0]))  # noqa: S301
    return tree_reduce(parts, merge)


def pixels_of_records(records: Iterable[Row]) -> Iterator[int]:
    """Yield the number of bytes of pixels in each batch, stacked as an array."""
    remaining = iter(records)
    while batch := list(islice(remaining, BATCH)):
        yield np.stack([np.frombuffer(record.pixels, np.uint8) for record in batch]).size


def compare_paths(session: SparkSession, table: Table, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Time ways to bring pixels to Python and to compute moments, and check that all give the same.

    Returns:
        Seconds by way: of pixels as arrays ("delivered"), and of moments ("summed").

    Raises:
        AssertionError: two ways gave different pixels or moments.
    """
    images = TableImages(table, RULE, "train")
    problem = Problem(images, RULE)
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(BATCH))
    files = [f"{table.storage}/{file.file}" for file in table.files if file.split == "train"]
    frame = session.read.parquet(*files).select("pixels", "label", "fold")
    moments: dict[str, FoldMoments] = {}
    arrived: dict[str, int] = {}

    def ours() -> None:
        moments["table"] = reduce_moments(image_blocks(session.sparkContext, images), problem).moments

    def in_arrow() -> None:
        moments["mapInArrow"] = moments_in_arrow(frame)

    def of_records() -> None:
        moments["records"] = moments_of_records(frame)

    def our_pixels() -> None:
        arrived["table"] = image_blocks(session.sparkContext, images).map(lambda block: block.pixels.size).sum()

    def pixels_in_records() -> None:
        arrived["records"] = frame.rdd.mapPartitions(pixels_of_records).sum()

    delivered = interleaved({"table": our_pixels, "records": pixels_in_records}, repeats)
    summed = interleaved({"table": ours, "mapInArrow": in_arrow, "records": of_records}, repeats)
    if arrived["table"] != arrived["records"]:
        raise AssertionError("different numbers of pixels arrived")
    for other in ("mapInArrow", "records"):
        for fold, expected in moments["table"].items():
            if not np.array_equal(expected.gram, moments[other][fold].gram):
                raise AssertionError(f"{other} gave different moments")
    return {"delivered": delivered, "summed": summed}


def predictions(table: str, model: str) -> list[dict[str, Any]]:
    """Return the metrics of PREDICTIONS runs of predict, after one that does not count."""
    words = ["--model", model, "--data", f"parquet:{table}", "--split", "train"]
    return [run(predict.main, *words) for _ in range(PREDICTIONS + 1)][1:]


def warm(big: str, small: str, model: str, repeats: int, sizes: list[int]) -> dict[str, Any]:
    """Measure everything that needs warm executors.

    Args:
        big: table of the fits.
        small: table of the other measurements.
        model: run folder of the model that predicts.
        repeats: how often to repeat each measurement.
        sizes: numbers of images to fit.
    """
    session = SparkSession.builder.config(conf=configuration("scale", live=False)).getOrCreate()
    wait_for_executors(session.sparkContext)
    fit(big, sizes[0])
    fits = {}
    for size in sizes:
        repeated = [fit(big, size) for _ in range(repeats)]
        fits[size] = sorted(repeated, key=work)[repeats // 2]
    largest = sizes[-1]
    folds = [(work(fit(big, largest)), work(fit(big, largest, "--folds", "5"))) for _ in range(repeats)]
    measured = {
        "cores": session.sparkContext.defaultParallelism,
        "fits": {size: {"seconds": metrics["seconds"], "work": work(metrics)} for size, metrics in fits.items()},
        "five_folds": statistics.median(five / one for one, five in folds),
        "paths": compare_paths(session, Table.open(Storage.at(small)), repeats),
        "predictions": [
            (made["images"]["predicted"], made["seconds"]["predict"]) for made in predictions(small, model)
        ],
    }
    session.stop()
    return measured


def main() -> int:
    """Measure, and print the result."""
    big, small, model, repeats, *sizes = sys.argv[1:]
    if model == "-":
        metrics = fit(big, int(sizes[0]))
        measured: dict[str, Any] = {"peaks": peaks(), "seconds": metrics["seconds"]}
    else:
        measured = warm(big, small, model, int(repeats), [int(size) for size in sizes])
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
