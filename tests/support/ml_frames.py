"""DataFrames for the estimators of Spark ML, and what their models have learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from spark_jobs.ml import RidgeClassifierCVModel

LAMBDAS = [1.0, 100.0, 10_000.0]


def frame_of(session: SparkSession, X: NDArray[Any], y: NDArray[Any], kind: str, partitions: int = 3) -> DataFrame:
    """Return rows as a DataFrame whose features are bytes, vectors, sparse vectors, or an array of some type."""
    if kind == "bytes":
        rows: list[Any] = [bytearray(row.astype(np.uint8)) for row in X]
    elif kind == "vectors":
        rows = [Vectors.dense(row.astype(float)) for row in X]
    elif kind == "sparse":
        rows = [Vectors.sparse(len(row), np.flatnonzero(row), row[row != 0].astype(float)) for row in X]
    else:
        rows = [row.astype(int if kind == "int" else float).tolist() for row in X]
    label = "string" if isinstance(y[0], str) else "double" if isinstance(y[0], float) else "int"
    of_rows = {"bytes": "binary", "vectors": "vector", "sparse": "vector"}.get(kind, f"array<{kind}>")
    labelled = [
        (row, value.item() if hasattr(value, "item") else value) for row, value in zip(rows, y, strict=True)
    ]
    if of_rows == "vector":
        frame = session.createDataFrame(labelled, ["features", "label"])
    else:
        frame = session.createDataFrame(labelled, f"features {of_rows}, label {label}")
    return frame.repartition(partitions)


def weights_of(model: RidgeClassifierCVModel) -> tuple[NDArray[Any], NDArray[Any]]:
    return model.coefficientMatrix.toArray(), model.interceptVector.toArray()
