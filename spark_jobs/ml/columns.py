"""Columns of DataFrames that rows of numbers are read from: vectors, arrays, or bytes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql.functions import col, when
from pyspark.sql.types import ArrayType, BinaryType, BooleanType, DataType, NumericType, StringType
from pyspark.sql.utils import is_remote


class FeaturesColumn(NamedTuple):
    """A column of rows.

    Attributes:
        expression: the column as arrays of float64, or as bytes.
        exact: whether it holds bytes, each of which is a number from 0 to 255.
    """

    expression: Column
    exact: bool

    @classmethod
    def of(cls, frame: DataFrame, name: str) -> FeaturesColumn:
        """Return the column of that name.

        Raises:
            ValueError: there is none, or it holds neither vectors, nor arrays of numbers, nor bytes.
        """
        kind = type_of(frame, name)
        if isinstance(kind, VectorUDT):
            of_name = col(quoted(name))
            return cls(when(of_name.isNotNull(), vector_to_array(of_name)), exact=False)
        if isinstance(kind, BinaryType):
            return cls(col(quoted(name)), exact=True)
        if isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType):
            return cls(col(quoted(name)).cast("array<double>"), exact=False)
        raise ValueError(
            f"the column {name!r} is of type {kind.simpleString()}; features are vectors, arrays of numbers or "
            "bytes"
        )


def check_session(frame: DataFrame) -> None:
    """Refuse frames of Spark Connect, on which none of this has been tried.

    Raises:
        ValueError: the frame is one.
    """
    if is_remote():
        raise ValueError("Spark Connect is not supported; start the session without `remote`")


def quoted(name: str) -> str:
    """Return the name of a column so that dots in it are no fields."""
    return f"`{name.replace('`', '``')}`"


def type_of(frame: DataFrame, name: str) -> DataType:
    """Return the type of a column.

    Raises:
        ValueError: there is no such column.
    """
    for field in frame.schema.fields:
        if field.name == name:
            return field.dataType
    raise ValueError(f"there is no column {name!r}; the columns are {', '.join(frame.columns)}")


def check_new(frame: DataFrame, *names: str) -> None:
    """Refuse names of new columns that there are already, in whatever case, or that are equal.

    Raises:
        ValueError: there is one.
    """
    taken = {name.lower() for name in frame.columns}
    for name in filter(None, names):
        if name.lower() in taken:
            raise ValueError(f"there is a column {name!r} already; name another for what is computed")
        taken.add(name.lower())


def check_label_type(frame: DataFrame, name: str) -> None:
    """Refuse labels that are neither numbers nor truth values nor text.

    Raises:
        ValueError: they are of another type, or there is no such column.
    """
    kind = type_of(frame, name)
    if not isinstance(kind, NumericType | BooleanType | StringType):
        raise ValueError(f"the column {name!r} is of type {kind.simpleString()}; labels are numbers or text")


def check_number_type(frame: DataFrame, name: str) -> None:
    """Refuse a column of weights or folds that is not numeric.

    Raises:
        ValueError: it is not, or there is no such column.
    """
    kind = type_of(frame, name)
    if not isinstance(kind, NumericType):
        raise ValueError(f"the column {name!r} is of type {kind.simpleString()}, and not of numbers")


def rows_of_arrow(column: Any, name: str, exact: bool) -> NDArray[Any]:
    """Return the rows of an Arrow column, float64 (n, d) or uint8 (n, d).

    Args:
        column: a pyarrow.Array of lists of float64, or of bytes, without nulls.
        name: of the column, for errors.
        exact: whether it is of bytes.

    Raises:
        ValueError: rows are of different lengths, or numbers are not finite.
    """
    if not len(column):
        return np.zeros((0, 0), np.uint8 if exact else np.float64)
    if exact:
        return rows_of_bytes(column.to_pylist(), name)
    lengths = column.value_lengths().to_numpy()
    check_lengths(lengths, name)
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0]))
    return checked_finite(rows, name)


def rows_of_bytes(rows: list[bytes], name: str) -> NDArray[np.uint8]:
    """Return rows of bytes of equal length, uint8 (n, d).

    Raises:
        ValueError: they are not of equal length.
    """
    check_lengths(np.array([len(row) for row in rows]), name)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)


def check_lengths(lengths: NDArray[Any], name: str) -> None:
    """Refuse rows of different lengths, or of none.

    Raises:
        ValueError: there are some.
    """
    if lengths.min() != lengths.max():
        raise ValueError(f"the column {name!r} has rows of {lengths.min()} and of {lengths.max()} numbers")
    if not lengths[0]:
        raise ValueError(f"the column {name!r} has rows without a number")


def checked_finite(rows: NDArray[Any], name: str) -> NDArray[Any]:
    """Return rows, whose numbers all have to be finite.

    Raises:
        ValueError: some are NaN, infinite or null.
    """
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the column {name!r} has {int(bad.sum())} rows with NaN, infinity or null among {len(rows)}"
        )
    return rows
