"""RidgeClassifierCVModel: a fitted classifier that transforms DataFrames, and is saved without pickles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseMatrix, DenseVector
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import array, col, lit
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DoubleType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from common.arrays import Floats
from common.estimators.solution import Solution
from common.ridge.path import RidgePath
from spark_jobs.engine.worker_setup import settle
from spark_jobs.ml.columns import (
    FeaturesColumn,
    check_lengths,
    check_new,
    check_session,
    checked_finite,
    quoted,
    rows_of_bytes,
)
from spark_jobs.ml.params import PredictionParams

DATA = "data"
"""The folder of a saved model's numbers, beside Spark's own metadata."""


@dataclass(frozen=True)
class FittedRidge:
    """A fit to the rows of a DataFrame.

    Attributes:
        solution: the fit; see Solution.
        labels: of the classes, in order.
        exact: whether rows were bytes without weights: bytes then have the same scores in any batch.
    """

    solution: Solution
    labels: tuple[Any, ...]
    exact: bool

    def scores(self, rows: NDArray[Any]) -> Floats:
        """Return scores of rows (n, d), float64 (n, n_classes)."""
        return self.solution.scores_of(rows, self.exact and rows.dtype == np.uint8)


class RidgeClassifierCVModel(PredictionParams, Model, MLWritable, MLReadable["RidgeClassifierCVModel"]):
    """A ridge classifier that was fitted by RidgeClassifierCV.

    Attributes:
        labels: the labels, in the order of scores.
        bestLambda: the chosen λ.
        cvScores: minus the mean squared error of held-out rows at each λ; zeros if nothing was chosen.
    """

    def __init__(self, fitted: FittedRidge | None = None) -> None:
        super().__init__()
        self._fitted = fitted

    @property
    def fitted(self) -> FittedRidge:
        """The fit.

        Raises:
            ValueError: nothing was: the model was made without an estimator.
        """
        if self._fitted is None:
            raise ValueError("this model has no weights; fit a RidgeClassifierCV, or load a model")
        return self._fitted

    @property
    def labels(self) -> list[Any]:
        """The labels, in the order of scores."""
        return list(self.fitted.labels)

    @property
    def bestLambda(self) -> float:
        """The chosen λ."""
        return self.fitted.solution.lambda_

    @property
    def cvScores(self) -> list[float]:
        """Minus the mean squared error of held-out rows at each λ."""
        return [float(score) for score in self.fitted.solution.scores]

    @property
    def numClasses(self) -> int:
        """The number of classes."""
        return len(self.fitted.labels)

    @property
    def numFeatures(self) -> int:
        """The number of features."""
        return len(self.fitted.solution.weights)

    @property
    def coefficientMatrix(self) -> DenseMatrix:
        """Weights, (numClasses, numFeatures)."""
        weights = self.fitted.solution.weights
        n_features, n_classes = weights.shape
        return DenseMatrix(n_classes, n_features, weights.reshape(-1), isTransposed=False)

    @property
    def interceptVector(self) -> DenseVector:
        """Intercepts, (numClasses,)."""
        return DenseVector(self.fitted.solution.intercept)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_session(dataset)
        features = FeaturesColumn.of(dataset, self.getFeaturesCol())
        fitted, name = self.fitted, self.getFeaturesCol()
        score = pandas_udf("scores array<double>, best int")(_scorer(fitted, name, features.exact))  # type: ignore[call-overload]
        both = f"{self.uid} scores"  # of a name that nobody else has
        names = [self.getRawPredictionCol(), self.getPredictionCol()]
        check_new(dataset, *names)
        scored = dataset.withColumn(both, score(features.expression))
        scores, best = (col(f"{quoted(both)}.{field}") for field in ("scores", "best"))
        for new, column in zip(names, (array_to_vector(scores), _labels(fitted)[best]), strict=True):
            if new:
                scored = scored.withColumn(new, column)
        return scored.drop(both)

    def write(self) -> MLWriter:
        """Return the writer of this model."""
        _ = self.fitted  # before a model that is there already is overwritten
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[RidgeClassifierCVModel]:
        """Return a reader of models."""
        return _Reader()


def _labels(fitted: FittedRidge) -> Any:
    """Return the labels as a constant column of arrays; numbers become float64, as in all of Spark ML."""
    if isinstance(fitted.labels[0], str):
        return array(*map(lit, fitted.labels))
    return array(*(lit(float(label)) for label in fitted.labels))


def _scorer(fitted: FittedRidge, name: str, exact: bool) -> Callable[..., Any]:
    """Return a function from a series of rows to their scores and best classes."""
    import pandas as pd

    d = len(fitted.solution.weights)

    def score(rows: pd.Series) -> pd.DataFrame:
        settle()
        if rows.isna().any():
            raise ValueError(f"the column {name!r} has {int(rows.isna().sum())} rows that are null")
        if exact:
            x: NDArray[Any] = rows_of_bytes(list(rows), name)
        else:
            check_lengths(np.array([len(row) for row in rows]), name)
            x = checked_finite(np.stack(list(rows)).astype(np.float64), name)
        if x.shape[1] != d:
            raise ValueError(f"the column {name!r} has rows of {x.shape[1]} numbers, and the model is for {d}")
        scores = fitted.scores(x)
        return pd.DataFrame({"scores": list(scores), "best": scores.argmax(axis=1).astype(np.int32)})

    score.__annotations__ = {"rows": pd.Series, "return": pd.DataFrame}
    return score


SCHEMA = StructType(
    [
        StructField("numbers", ArrayType(DoubleType())),
        StructField("whole_numbers", ArrayType(LongType())),
        StructField("truth_values", ArrayType(BooleanType())),
        StructField("texts", ArrayType(StringType())),
        StructField("weights", BinaryType()),
        StructField("intercept", BinaryType()),
        StructField("shift", BinaryType()),
        StructField("lambda", DoubleType()),
        StructField("scores", BinaryType()),
        StructField("exact", BooleanType()),
    ]
)
"""A saved Solution: labels in the column of their type, arrays as the bytes of little-endian float64."""


def _label_columns(labels: tuple[Any, ...]) -> tuple[list[Any] | None, ...]:
    """Return the labels in the place of their type, and None in the others."""
    kinds = (float, int, bool, str)
    kind = type(labels[0])
    if kind not in kinds:  # such as Decimal
        kind, labels = float, tuple(map(float, labels))
    return tuple(list(labels) if kind is own else None for own in kinds)


class _Writer(MLWriter):
    """Writes metadata and one row of Parquet."""

    def __init__(self, model: RidgeClassifierCVModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        fitted = self._model.fitted
        session = SparkSession.builder.getOrCreate()
        DefaultParamsWriter.saveMetadata(self._model, path, session.sparkContext)

        def as_bytes(array: Floats) -> bytearray:
            return bytearray(np.ascontiguousarray(array, "<f8").tobytes())

        solution = fitted.solution
        shift = None if solution.shift is None else as_bytes(solution.shift)
        arrays = as_bytes(solution.path.weights[0]), as_bytes(solution.path.intercepts[0]), shift
        numbers = float(solution.lambda_), as_bytes(solution.scores), fitted.exact
        row = (*_label_columns(fitted.labels), *arrays, *numbers)
        session.createDataFrame([row], SCHEMA).coalesce(1).write.parquet(_data_of(path))


class _Reader(MLReader[RidgeClassifierCVModel]):
    """Reads what _Writer wrote."""

    def load(self, path: str) -> RidgeClassifierCVModel:
        session = SparkSession.builder.getOrCreate()
        metadata = DefaultParamsReader.loadMetadata(path, session.sparkContext)
        row = session.read.schema(SCHEMA).parquet(_data_of(path)).first()
        if row is None:
            raise ValueError(f"{path}: no RidgeClassifierCVModel is saved there")
        labels = next(tuple(row[i]) for i in range(4) if row[i] is not None)

        def array_of(name: str, *shape: int) -> Floats:
            return np.frombuffer(row[name], "<f8").astype(np.float64).reshape(shape)

        n_classes = len(labels)
        fits = RidgePath(array_of("weights", 1, -1, n_classes), array_of("intercept", 1, n_classes))
        shift = None if row["shift"] is None else array_of("shift", -1)
        fitted = FittedRidge(Solution(fits, shift, row["lambda"], array_of("scores", -1)), labels, row["exact"])
        model = RidgeClassifierCVModel(fitted)
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _data_of(path: str) -> str:
    """Return the folder of a model's numbers, on any of Spark's file systems."""
    return f"{path.rstrip('/')}/{DATA}"
