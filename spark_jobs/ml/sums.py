"""Moments of a DataFrame: one packed row per partition and fold, summed in a tree.

Nothing but Arrow batches goes to Python, and nothing but moments comes back. A task that is repeated computes the
same again, so retries, speculation and executors that come and go change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.functions import col, lit
from pyspark.sql.types import DoubleType, FloatType

from common.arrays import Floats
from common.estimators.folds import folds_of
from common.estimators.row_sums import ExactSums, FloatSums, FoldedMoments, RowMoments, RowSums, WeightedMoments
from common.ridge.moments import Moments, pack, unpack
from spark_jobs.engine.worker_setup import settle
from spark_jobs.ml.columns import FeaturesColumn, quoted, rows_of_arrow, type_of
from spark_jobs.ml.labels import RowColumns

SHIFTED_BY = 100
"""Rows whose mean, rounded, is subtracted from all rows that are no bytes, before they are summed."""

BRANCHES = 4
"""Tasks per level of the tree, between partitions and the driver."""

MOST_FEATURES = 20_000
"""Features whose moments are a record that Spark can send."""

SCHEMA = "branch int, fold int, n double, d int, sums binary, problem string"
"""A record of moments; `sums` are float64: Σx (d,), Σy (n_classes,), half of XᵀX, and XᵀY (d, n_classes)."""


@dataclass(frozen=True)
class RowsPlan:
    """How executors sum rows.

    Attributes:
        columns: the names of columns, for errors.
        classes: the labels, in order.
        n_folds: the number of folds; 1 for none.
        exact: whether rows are bytes without weights.
        of_bytes: whether rows are bytes.
        shift: subtracted from rows before they are summed, float64 (d,); None for nothing.
    """

    columns: RowColumns
    classes: tuple[Any, ...]
    n_folds: int
    exact: bool
    of_bytes: bool
    shift: Floats | None

    @classmethod
    def of(cls, frame: DataFrame, columns: RowColumns, classes: tuple[Any, ...], n_folds: int) -> RowsPlan:
        """Look at the first rows, and decide.

        Raises:
            ValueError: the features are of a wrong type, or there are too many.
        """
        features = FeaturesColumn.of(frame, columns.features)
        exact = features.exact and columns.weight is None
        if exact:
            return cls(columns, classes, n_folds, exact, features.exact, None)
        first = frame.select(features.expression.alias("x")).limit(SHIFTED_BY).collect()
        rows = [row["x"] for row in first]
        if any(row is None for row in rows):
            raise ValueError(f"the column {columns.features!r} has rows that are null")
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"the column {columns.features!r} has rows of different lengths")
        numbers = [np.frombuffer(row, np.uint8) for row in rows] if features.exact else rows
        mean = np.mean(np.array(numbers, np.float64), axis=0)
        # whole numbers keep whole numbers whole, and so their sums exact
        shift = np.rint(np.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0))
        return cls(columns, classes, n_folds, exact, features.exact, shift)


def sum_rows(frame: DataFrame, plan: RowsPlan) -> FoldedMoments:
    """Return the moments of all rows, by fold.

    Raises:
        ValueError: rows cannot be summed; the message names the column.
    """
    names = plan.columns
    features = FeaturesColumn.of(frame, names.features)
    label = col(quoted(names.label))
    if isinstance(type_of(frame, names.label), DoubleType | FloatType):
        label = label + lit(0.0)  # −0 is 0
    selected = [features.expression.alias("x"), label.alias("label")]
    if names.weight is not None:
        selected.append(col(quoted(names.weight)).cast("double").alias("weight"))
    if names.fold is not None and plan.n_folds > 1:
        selected.append(col(quoted(names.fold)).cast("short").alias("fold"))
    parts = frame.select(*selected).mapInArrow(_of_partition(plan), SCHEMA)
    # the driver gets one record per fold
    of_branch = _of_branch(names.features)
    sums = parts.repartition(BRANCHES, "branch").mapInArrow(of_branch, SCHEMA)
    sums = sums.repartition(min(BRANCHES, plan.n_folds), "fold").mapInArrow(of_branch, SCHEMA)
    merged: dict[int, tuple[float, int, Floats]] = {}
    for row in sums.collect():
        if row["problem"] is not None:
            raise ValueError(row["problem"])
        _merge(merged, row["fold"], row["n"], row["d"], np.frombuffer(row["sums"]), names.features)
    if not merged:
        raise ValueError("there are no rows to fit to")
    return {fold: _unpacked(plan, *own) for fold, own in sorted(merged.items())}


def _of_partition(plan: RowsPlan) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that sums the rows of a partition."""

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        settle()
        context = TaskContext.get()
        branch = context.partitionId() % BRANCHES if context else 0
        try:
            moments = _summed(plan, batches)
        except ValueError as error:
            yield _record(branch, problem=str(error))
            return
        for fold, own in moments.items():
            sums = np.concatenate([own.sum_x, own.sum_y, pack(own.gram), own.cross.reshape(-1)])
            yield _record(branch, fold, own.n, len(own.sum_x), sums)

    return work


def _summed(plan: RowsPlan, batches: Iterable[pa.RecordBatch]) -> FoldedMoments:
    """Return the moments of the rows of a partition, by fold."""
    sums: RowSums | None = None
    found: FoldedMoments = {}
    name = plan.columns.features
    for batch in batches:
        table = {field: batch.column(i) for i, field in enumerate(batch.schema.names)}
        if table["x"].null_count:
            raise ValueError(f"the column {name!r} has {table['x'].null_count} rows that are null")
        if not len(table["x"]):
            continue
        x = rows_of_arrow(table["x"], name, plan.of_bytes)
        if x.shape[1] > MOST_FEATURES:
            raise ValueError(f"the column {name!r} has {x.shape[1]:,} features; {MOST_FEATURES:,} are the most")
        if sums is None:
            exact = ExactSums(x.shape[1], len(plan.classes))
            sums = exact if plan.exact else FloatSums(plan.shift, len(plan.classes))
            d = x.shape[1] if plan.shift is None else len(plan.shift)
        if x.shape[1] != d:
            raise ValueError(f"the column {name!r} has rows of {d} and of {x.shape[1]} numbers")
        found_labels = pc.index_in(table["label"], value_set=pa.array(plan.classes, table["label"].type))
        if found_labels.null_count:
            raise ValueError(f"the column {plan.columns.label!r} has other labels than when it was read first")
        labels = found_labels.to_numpy()
        weights = table["weight"].to_numpy() if "weight" in table else None
        if plan.n_folds == 1:
            folds = np.zeros(len(x), np.int16)
        else:
            folds = table["fold"].to_numpy() if "fold" in table else folds_of(x, plan.n_folds)
        for fold, own in sums.of(x, labels.astype(np.int64), folds, weights).items():
            found[fold] = found[fold] + own if fold in found else own
    return found


def _of_branch(name: str) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that sums moments of several tasks; errors call the column of features `name`."""

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        settle()
        merged: dict[int, tuple[float, int, Floats]] = {}
        problem: str | None = None
        for batch in batches:
            for row in range(batch.num_rows):
                part = {field: batch.column(i)[row].as_py() for i, field in enumerate(batch.schema.names)}
                problem = problem or part["problem"]
                if problem is None:
                    try:
                        sums = np.frombuffer(part["sums"])
                        _merge(merged, part["fold"], part["n"], part["d"], sums, name)
                    except ValueError as error:
                        problem = str(error)
        if problem is not None:
            yield _record(0, problem=problem)
            return
        for fold, (n, d, sums) in merged.items():
            yield _record(0, fold, n, d, sums)

    return work


def _merge(
    merged: dict[int, tuple[float, int, Floats]], fold: int, n: float, d: int, sums: Floats, name: str
) -> None:
    """Add the moments of a fold to those that there are.

    Raises:
        ValueError: they are of other numbers of features.
    """
    for _, others, _ in merged.values():
        if others != d:
            raise ValueError(f"the column {name!r} has rows of {min(d, others)} and of {max(d, others)} numbers")
    before_n, _, before = merged.get(fold, (0.0, d, np.zeros(len(sums))))
    merged[fold] = before_n + n, d, before + sums


def _record(
    branch: int, fold: int = 0, n: float = 0.0, d: int = 0, sums: Floats | None = None, problem: str | None = None
) -> pa.RecordBatch:
    """Return a row of SCHEMA."""
    columns = [
        pa.array([branch], pa.int32()),
        pa.array([fold], pa.int32()),
        pa.array([float(n)], pa.float64()),
        pa.array([d], pa.int32()),
        pa.array([b"" if sums is None else sums.data], pa.binary()),
        pa.array([problem], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, ["branch", "fold", "n", "d", "sums", "problem"])


def _unpacked(plan: RowsPlan, n: float, d: int, sums: Floats) -> RowMoments:
    """Rebuild moments of d features from a record's sums."""
    n_classes = len(plan.classes)
    ends = np.cumsum([d, n_classes, d * (d + 1) // 2])
    sum_x, sum_y, gram, cross = np.split(sums, ends)
    parts = sum_x.copy(), sum_y.copy(), unpack(gram, d), cross.reshape(d, n_classes).copy()
    return Moments(int(n), *parts) if plan.exact else WeightedMoments(n, *parts)
