"""What bench.scale submits: measurements in one driver, on executors that are warm. Prints one line of JSON.

`spark-submit bench/scale_driver.py BIG SMALL MODEL SIZE...`: two image tables, a run folder, and how many images
of BIG to fit. With no MODEL but `-`, it fits SIZE images once, cold, and tells how much memory that took.
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
from common.features.pixels import PIXELS
from common.ridge.moments import FoldMoments, FoldSums, merge, packed_bytes
from spark_jobs import gram, predict
from spark_jobs.engine.blocks import image_blocks, reduce_moments, tree_reduce
from spark_jobs.engine.session import configuration, wait_for_executors
from spark_jobs.engine.worker_setup import settle

RULE = FoldRule(None, 0.2)
PREDICTIONS = 7
BATCH = 8192


def peaks() -> dict[str, int]:
    """The most memory that this process and its JVM have held, in bytes."""
    found = {}
    for name, pid in (("python", os.getpid()), ("jvm", os.getppid())):
        status = Path(f"/proc/{pid}/status").read_text()
        found[name] = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return found


def fit(table: str, n: int, *flags: str) -> dict[str, Any]:
    """The metrics of one fit to n images."""
    return run(gram.main, "--data", f"parquet:{table}", "--limit", str(n), *flags)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall times of each, in turn, after one of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return times


def moments_of_records(frame: DataFrame) -> FoldMoments:
    """The plain way: an RDD of records, in which each image is an object, stacked a batch at a time."""

    def of_partition(records: Iterable[Row]) -> Iterator[FoldMoments]:
        sums = FoldSums(10)
        every = iter(records)
        while batch := list(islice(every, BATCH)):
            pixels = np.stack([np.frombuffer(record.pixels, np.uint8) for record in batch])
            labels = np.array([record.label for record in batch], np.int64)
            sums.add(pixels, labels, RULE.of_buckets(np.array([record.fold for record in batch], np.int16)))
        yield sums.result()

    return tree_reduce(frame.rdd.mapPartitions(of_partition), merge)


def moments_in_arrow(frame: DataFrame) -> FoldMoments:
    """Spark's own Arrow way: the JVM reads Parquet and hands record batches to Python."""

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
    """How many bytes of pixels arrive as arrays."""
    every = iter(records)
    while batch := list(islice(every, BATCH)):
        yield np.stack([np.frombuffer(record.pixels, np.uint8) for record in batch]).size


def compare_paths(session: SparkSession, table: Table, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Ways to bring pixels to Python as arrays, and to the same moments; and a check that they are the same."""
    images = TableImages(table, RULE, "train")
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(BATCH))
    files = [f"{table.storage}/{file.file}" for file in table.files if file.split == "train"]
    frame = session.read.parquet(*files).select("pixels", "label", "fold")
    found: dict[str, FoldMoments] = {}
    arrived: dict[str, int] = {}

    def ours() -> None:
        size = 2 * packed_bytes(784, 10)
        found["table"] = reduce_moments(image_blocks(session.sparkContext, images), 10, PIXELS, size)[0]

    def in_arrow() -> None:
        found["mapInArrow"] = moments_in_arrow(frame)

    def of_records() -> None:
        found["records"] = moments_of_records(frame)

    def our_pixels() -> None:
        arrived["table"] = image_blocks(session.sparkContext, images).map(lambda block: block.pixels.size).sum()

    def pixels_in_records() -> None:
        arrived["records"] = frame.rdd.mapPartitions(pixels_of_records).sum()

    delivered = interleaved({"table": our_pixels, "records": pixels_in_records}, repeats)
    summed = interleaved({"table": ours, "mapInArrow": in_arrow, "records": of_records}, repeats)
    if arrived["table"] != arrived["records"]:
        raise AssertionError("other pixels arrived")
    for other in ("mapInArrow", "records"):
        for fold, own in found["table"].items():
            if not np.array_equal(own.gram, found[other][fold].gram):
                raise AssertionError(f"{other} found other moments")
    return {"delivered": delivered, "summed": summed}


def predictions(table: str, model: str) -> list[dict[str, Any]]:
    """The metrics of some runs of predict, after one that does not count."""
    words = ["--model", model, "--data", f"parquet:{table}", "--split", "train"]
    return [run(predict.main, *words) for _ in range(PREDICTIONS + 1)][1:]


def warm(big: str, small: str, model: str, repeats: int, sizes: list[int]) -> dict[str, Any]:
    """Everything that is measured on warm executors, so often."""
    session = SparkSession.builder.config(conf=configuration("scale", live=False)).getOrCreate()
    wait_for_executors(session.sparkContext)
    fit(big, sizes[0])
    fits = {}
    for size in sizes:
        every = [fit(big, size) for _ in range(repeats)]
        fits[size] = sorted(every, key=work)[repeats // 2]
    most = sizes[-1]
    folds = [(work(fit(big, most)), work(fit(big, most, "--folds", "5"))) for _ in range(repeats)]
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
    """Measure, and print what was found."""
    big, small, model, repeats, *sizes = sys.argv[1:]
    if model == "-":
        metrics = fit(big, int(sizes[0]))
        found: dict[str, Any] = {"peaks": peaks(), "seconds": metrics["seconds"]}
    else:
        found = warm(big, small, model, int(repeats), [int(size) for size in sizes])
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
