"""Spark ML: columns that cannot be used, and columns with odd names or values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession

from spark_jobs.ml import (
    FeatureMapModel,
    RidgeClassifierCV,
    RidgeClassifierCVModel,
)

pytestmark = [pytest.mark.spark]


def bad_frames(session: SparkSession) -> dict[str, tuple[RidgeClassifierCV, DataFrame]]:
    """Estimators and frames that do not go together, by a part of the message."""

    def of(rows: list[Any], schema: str) -> DataFrame:
        return session.createDataFrame(rows, schema).repartition(2)

    one = RidgeClassifierCV(lambdas=[1.0])
    good = [([0.0, 1.0], 0.0), ([1.0, 0.0], 1.0)] * 3
    arrays = "features array<double>, label double"
    weighted = [(*row, w) for row, w in zip(good, (1.0, -1.0, 1.0, None, 1.0, float("inf")), strict=True)]
    return {
        "no column 'features'; the columns are x": (one, of([(1.0,)], "x double")),
        "no column 'label'": (one, of([([0.0],)], "features array<double>")),
        "'features' is of type string": (one, of([("a", 1)], "features string, label int")),
        "'features' is of type array<string>": (
            one,
            of([(["a"], 1), (["a"], 2)], "features array<string>, label int"),
        ),
        "'label' is of type array<int>; labels are numbers or text": (
            one,
            of([([0.0], [1])], "features array<double>, label array<int>"),
        ),
        "'label' has 2 labels that are null": (one, of([*good, ([1.0, 1.0], None), ([0.0, 0.0], None)], arrays)),
        "'label' has 1 labels that are NaN": (one, of([*good, ([1.0, 1.0], float("nan"))], arrays)),
        "'label' has 1 labels, 0.0; a classifier needs two": (one, of([([0.0], 0.0)], arrays)),
        "'label' has 0 labels; a classifier needs two": (one, of([], arrays)),
        "'features' has 1 rows that are null": (
            one,
            of([(None, 0), (bytearray(b"a"), 1)], "features binary, label int").coalesce(1),
        ),
        "'features' has rows that are null": (one, of([*good, (None, 0.0)], arrays)),
        "'features' has 1 rows with NaN, infinity or null": (one, of([*good, ([None, 1.0], 1.0)], arrays)),
        "'features' has rows of 2 and of 3 numbers": (
            one,
            of([(bytearray(b"ab"), 0), (bytearray(b"ac"), 1)], "features binary, label int").union(
                of([(bytearray(b"abc"), 1)], "features binary, label int")
            ),
        ),
        "'features' has rows of different lengths": (one, of([*good, ([1.0], 1.0)], arrays)),
        "'w' has 3 weights that are null, negative or not finite": (
            RidgeClassifierCV(lambdas=[1.0], weightCol="w"),
            of(weighted, f"{arrays}, w double"),
        ),
        "'w' has no weight above 0": (
            RidgeClassifierCV(lambdas=[1.0], weightCol="w"),
            of([(*row, 0.0) for row in good], f"{arrays}, w double"),
        ),
        "'f' has 2 folds that are none of 0 to 1": (
            RidgeClassifierCV(numFolds=2, foldCol="f"),
            of([(*row, f) for row, f in zip(good, (0, 1, 2, None, 0, 1), strict=True)], f"{arrays}, f int"),
        ),
        "'f' has one fold only": (
            RidgeClassifierCV(numFolds=2, foldCol="f"),
            of([(*row, 1) for row in good], f"{arrays}, f int"),
        ),
        "'my features' has rows of 2 and of 3 numbers": (
            RidgeClassifierCV(lambdas=[1.0], featuresCol="my features"),
            of([(bytearray(b"ab"), 0), (bytearray(b"ac"), 1)], "`my features` binary, label int").union(
                of([(bytearray(b"abc"), 1)], "`my features` binary, label int")
            ),
        ),
        "'v' has rows that are null": (
            RidgeClassifierCV(lambdas=[1.0], featuresCol="v"),
            session.createDataFrame(
                [(Vectors.dense([1.0]), 0), (None, 1), (Vectors.dense([2.0]), 1)], ["v", "label"]
            ),
        ),
        "'w' leaves": (
            RidgeClassifierCV(numFolds=2, foldCol="f", weightCol="w"),
            of([(*row, i % 2, float(i % 2)) for i, row in enumerate(good)], f"{arrays}, f int, w double"),
        ),
        "numFolds=1": (RidgeClassifierCV(numFolds=1), of(good, arrays)),
        "lambdas=[-1.0]": (RidgeClassifierCV(lambdas=[-1.0]), of(good, arrays)),
        "penalty='lasso'": (RidgeClassifierCV(lambdas=[1.0], penalty="lasso"), of(good, arrays)),
    }


def test_bad_input_is_a_value_error_that_names_the_column(session: SparkSession) -> None:
    for words, (estimator, frame) in bad_frames(session).items():
        with pytest.raises(ValueError) as raised:  # noqa: PT011 the words are compared below
            estimator.fit(frame)
        assert words in str(raised.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda: RidgeClassifierCVModel().numClasses,
        lambda: FeatureMapModel().map,
    ],
)
def test_models_that_nobody_fitted_say_so(session: SparkSession, use: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="fit a"):
        use()


def test_predictions_of_rows_of_other_lengths_are_refused(session: SparkSession) -> None:
    frame = session.createDataFrame([([0.0, 1.0], 0), ([1.0, 0.0], 1)], "features array<double>, label int")
    model = RidgeClassifierCV(lambdas=[1.0], rawPredictionCol="").fit(frame)
    assert model.transform(frame).columns == ["features", "label", "prediction"]
    wrong = session.createDataFrame([([0.0],)], "features array<double>")
    with pytest.raises(Exception, match="rows of 1 numbers, and the model is for 2"):
        model.transform(wrong).collect()


def test_predictions_of_numbers_that_are_not_finite_are_refused(session: SparkSession) -> None:
    schema = "features array<double>, label int"
    model = RidgeClassifierCV(lambdas=[1.0]).fit(
        session.createDataFrame([([0.0, 1.0], 0), ([1.0, 0.0], 1)], schema)
    )
    for bad in (float("nan"), float("inf"), None):
        # in one partition: Spark interrupts tasks beside the one that fails, and may report that instead
        frame = session.createDataFrame([([bad, 1.0], 0)], schema).coalesce(1)
        with pytest.raises(Exception, match="1 rows with NaN, infinity or null"):
            model.transform(frame).select("prediction").collect()
    frame = session.createDataFrame([(None, 0)], schema).coalesce(1)
    with pytest.raises(Exception, match="1 rows that are null"):
        model.transform(frame).select("prediction").collect()


def test_columns_that_are_there_are_not_overwritten(session: SparkSession) -> None:
    rows = [([0.0, 1.0], 0, "kept"), ([1.0, 0.0], 1, "kept")]
    frame = session.createDataFrame(rows, "features array<double>, label int, `ridge scores` string")
    model = RidgeClassifierCV(lambdas=[1.0]).fit(frame)
    assert [row["ridge scores"] for row in model.transform(frame).collect()] == ["kept", "kept"]
    for name, other in (("Label", "raw"), ("same", "same")):
        with pytest.raises(ValueError, match=f"there is a column '{name}' already"):
            model.copy().setPredictionCol(name).setRawPredictionCol(other).transform(frame)


def test_zeros_of_either_sign_are_one_label(session: SparkSession) -> None:
    rows = [([0.0, 1.0 + i], -0.0 if i % 2 else 0.0) for i in range(6)] + [([5.0, 0.0], 1.0)] * 3
    frame = session.createDataFrame(rows, "features array<double>, label double").repartition(3)
    model = RidgeClassifierCV(lambdas=[1.0]).fit(frame)
    assert model.labels == [0.0, 1.0]
    assert all(row.prediction == row.label for row in model.transform(frame).collect())


def test_names_of_columns_may_have_dots(session: SparkSession) -> None:
    rows = [([0.0, 1.0], 0, 1.0), ([1.0, 0.0], 1, 1.0)]
    frame = session.createDataFrame(rows, "`my.x` array<double>, `my.y` int, `my.w` double")
    estimator = RidgeClassifierCV(lambdas=[1.0], featuresCol="my.x", labelCol="my.y", weightCol="my.w")
    assert [row.prediction for row in estimator.fit(frame).transform(frame).collect()] == [0.0, 1.0]
