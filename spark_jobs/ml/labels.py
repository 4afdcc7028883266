"""The labels of a DataFrame, and whether labels, weights and folds can be used: one small job."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql.functions import col, count_if, isnan, lit
from pyspark.sql.types import DoubleType, FloatType

from spark_jobs.ml.columns import check_label_type, check_number_type, quoted, type_of

MOST_CLASSES = 10_000
"""Labels above which a column is taken for numbers that are measured."""


class RowColumns(NamedTuple):
    """Names of the columns that rows are read from.

    Attributes:
        features: of the features.
        label: of the labels.
        weight: of the weights; None if all are 1.
        fold: of the folds; None if they follow from the contents of rows.
    """

    features: str
    label: str
    weight: str | None
    fold: str | None


def labels_of(frame: DataFrame, columns: RowColumns, n_folds: int) -> tuple[Any, ...]:
    """Return the labels that occur, in order.

    Nothing but labels, weights and folds is read, so that Spark need not compute features for this.

    Raises:
        ValueError: a column is missing, of a wrong type, or has unusable entries; or there are too few labels.
    """
    check_label_type(frame, columns.label)
    of_label = col(quoted(columns.label))
    problems: dict[str, Column] = {"null": count_if(of_label.isNull())}
    if isinstance(type_of(frame, columns.label), DoubleType | FloatType):
        problems["NaN"] = count_if(isnan(of_label))
    asked = [problem.alias(f"label {name}") for name, problem in problems.items()]
    if columns.weight is not None:
        asked += [_unusable(frame, columns.weight, None).alias("weights")]
    if columns.fold is not None:
        asked += [_unusable(frame, columns.fold, n_folds).alias("folds")]
    of_label = of_label + lit(0.0) if "NaN" in problems else of_label  # −0 is 0
    found = frame.groupBy(of_label.alias("label")).agg(*asked).limit(MOST_CLASSES + 1).collect()
    for name in problems:
        if bad := sum(row[f"label {name}"] for row in found):
            raise ValueError(f"the column {columns.label!r} has {bad} labels that are {name}")
    if columns.weight is not None and (bad := sum(row["weights"] for row in found)):
        raise ValueError(f"the column {columns.weight!r} has {bad} weights that are null, negative or not finite")
    if columns.fold is not None and (bad := sum(row["folds"] for row in found)):
        raise ValueError(f"the column {columns.fold!r} has {bad} folds that are none of 0 to {n_folds - 1}")
    if len(found) > MOST_CLASSES:
        raise ValueError(f"the column {columns.label!r} has more than {MOST_CLASSES:,} labels; are these classes?")
    if len(found) < 2:
        only = "" if not found else f", {found[0]['label']!r}"
        raise ValueError(f"the column {columns.label!r} has {len(found)} labels{only}; a classifier needs two")
    return tuple(sorted(row["label"] for row in found))


def _unusable(frame: DataFrame, name: str, n_folds: int | None) -> Column:
    """Return the number of rows whose weight, or whose fold, cannot be used."""
    check_number_type(frame, name)
    number = col(quoted(name)).cast("double")
    bad = number.isNull() | isnan(number) | (number < 0)
    if n_folds is None:
        return count_if(bad | (number == lit(float("inf"))))
    return count_if(bad | (number >= n_folds) | (number != number.cast("int")))
