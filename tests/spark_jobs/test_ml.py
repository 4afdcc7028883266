"""Spark ML: fits against the estimators of scikit-learn, and in Spark's searches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from sklearn.linear_model import RidgeClassifier

from common.estimators import MomentsRidgeClassifierCV
from spark_jobs.ml import (
    RidgeClassifierCV,
    sums,
)
from tests.support.ml_frames import LAMBDAS, frame_of, weights_of

pytestmark = [pytest.mark.spark]


@pytest.mark.parametrize("kind", ["bytes", "vectors", "sparse", "int"])
def test_weights_and_scores_are_those_of_scikit_learn(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], kind: str
) -> None:
    X, y = digits
    frame = frame_of(session, X, y, kind)
    model = RidgeClassifierCV(lambdas=[10.0]).fit(frame)
    truth = RidgeClassifier(alpha=10.0, solver="cholesky").fit(X.astype(float), y)
    for found, expected in zip(weights_of(model), (truth.coef_, truth.intercept_), strict=True):
        assert np.linalg.norm(found - expected) < 1e-8 * np.linalg.norm(expected)
    rows = model.transform(frame).collect()
    X_back = np.array([list(row.features) if kind == "bytes" else np.array(row.features) for row in rows], float)
    assert np.allclose([row.rawPrediction.toArray() for row in rows], truth.decision_function(X_back), atol=1e-10)
    assert [row.prediction for row in rows] == truth.predict(X_back).tolist()
    assert isinstance(rows[0].prediction, float)


def test_the_model_is_that_of_the_estimator_of_scikit_learn(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    """Folds follow from the contents of rows in both, so that even the scores of λ agree to the last bit."""
    X, y = digits
    model = RidgeClassifierCV(lambdas=LAMBDAS, numFolds=4).fit(frame_of(session, X, y, "bytes"))
    other = MomentsRidgeClassifierCV(LAMBDAS, cv=4).partial_fit(X, y)
    assert model.bestLambda == other.lambda_
    assert model.cvScores == other.cv_scores_.tolist()
    assert np.array_equal(weights_of(model)[0], other.coef_)
    assert model.labels == list(range(10))
    assert (model.numClasses, model.numFeatures) == (10, 64)


@pytest.mark.parametrize("partitions", [1, 8, 50])
def test_partitions_change_nothing(
    session: SparkSession,
    digits: tuple[NDArray[np.uint8], NDArray[np.int64]],
    partitions: int,
) -> None:
    X, y = digits[0][:400], digits[1][:400]
    estimator = RidgeClassifierCV(lambdas=LAMBDAS)
    one, other = (estimator.fit(frame_of(session, X, y, "bytes", n)) for n in (3, partitions))
    assert one.cvScores == other.cvScores
    assert all(map(np.array_equal, weights_of(one), weights_of(other)))


def test_numbers_that_are_not_whole_agree_up_to_rounding_however_they_are_dealt_out(session: SparkSession) -> None:
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((500, 20)) + 1e3, rng.integers(0, 3, 500)
    X[:, 0] += y
    estimator = RidgeClassifierCV(lambdas=[0.1, 10.0])
    frame = frame_of(session, X, y, "double", 5)
    uneven = frame.filter("label = 7").union(frame.repartition(1))  # empty parts, and one of all
    one, other = estimator.fit(frame), estimator.fit(uneven)
    truth = RidgeClassifier(alpha=one.bestLambda).fit(X, y)
    for found, also, expected in zip(
        weights_of(one), weights_of(other), (truth.coef_, truth.intercept_), strict=True
    ):
        assert np.linalg.norm(found - also) < 1e-12 * np.linalg.norm(also)
        assert np.linalg.norm(found - expected) < 1e-8 * np.linalg.norm(expected)


@pytest.mark.parametrize("labels", [list("abcdefghij"), [float(i) / 2 for i in range(10)], [True, False] * 5])
def test_labels_are_text_or_numbers(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], labels: list[Any]
) -> None:
    X, y = digits
    frame = session.createDataFrame(
        [(bytearray(x), labels[c]) for x, c in zip(X, y, strict=True)], ["features", "label"]
    )
    model = RidgeClassifierCV(lambdas=[10.0]).fit(frame)
    assert model.labels == sorted(set(labels))
    rows = model.transform(frame).collect()
    assert isinstance(rows[0].prediction, str if isinstance(labels[0], str) else float)
    assert np.mean([row.prediction == row.label for row in rows]) > 0.9


def test_weights_of_rows_count_rows_repeatedly(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    X, y = digits[0][:600], digits[1][:600]
    times = np.random.default_rng(0).integers(0, 4, len(X))
    rows = [(Vectors.dense(x), int(c), float(w)) for x, c, w in zip(X, y, times, strict=True)]
    weighted = session.createDataFrame(rows, ["features", "label", "times"])
    repeated = frame_of(session, np.repeat(X, times, axis=0), np.repeat(y, times), "vectors")
    one = RidgeClassifierCV(lambdas=LAMBDAS, weightCol="times").fit(weighted)
    other = RidgeClassifierCV(lambdas=LAMBDAS).fit(repeated)
    assert one.bestLambda == other.bestLambda
    assert np.allclose(one.cvScores, other.cvScores, rtol=1e-10)
    assert np.allclose(weights_of(one)[0], weights_of(other)[0], rtol=0, atol=1e-10)


def test_folds_of_a_column_are_those_of_scikit_learn(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    X, y = digits
    fold = np.arange(len(X)) % 3
    rows = [(bytearray(x), int(c), int(f)) for x, c, f in zip(X, y, fold, strict=True)]
    frame = session.createDataFrame(rows, "features binary, label int, fold int")
    model = RidgeClassifierCV(lambdas=LAMBDAS, numFolds=3, foldCol="fold").fit(frame)
    splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)]
    other = MomentsRidgeClassifierCV(LAMBDAS, cv=splits, scoring="neg_mean_squared_error").fit(X, y)
    assert model.bestLambda == other.lambda_
    assert np.allclose(model.cvScores, other.cv_scores_, rtol=1e-10)


def counted_passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by one with every pass over the rows."""
    passes: list[str] = []
    sum_rows = sums.sum_rows

    def counting(frame: DataFrame, plan: sums.RowsPlan) -> Any:
        passes.append(plan.columns.features)
        return sum_rows(frame, plan)

    monkeypatch.setattr("spark_jobs.ml.classifier.sum_rows", counting)
    return passes


def test_a_search_takes_one_pass_per_fold(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = digits
    frame = frame_of(session, X, y.astype(float), "vectors").cache()
    estimator = RidgeClassifierCV()
    grid = (
        ParamGridBuilder()
        .addGrid(estimator.lambdas, [[value] for value in LAMBDAS[::2]])
        .addGrid(estimator.penalty, ["sum", "scaled"])
        .build()
    )
    evaluator, passes = MulticlassClassificationEvaluator(metricName="accuracy"), counted_passes(monkeypatch)
    search = CrossValidator(
        estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, parallelism=2, seed=1
    )
    found = search.fit(frame)
    assert len(passes) == 2 + 1  # and one for the best
    assert max(found.avgMetrics) > 0.9
    assert len(set(found.avgMetrics)) > 2
    split = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, seed=1)
    assert max(split.fit(frame).validationMetrics) > 0.9
    assert len(passes) == 2 + 1 + 1 + 1


def test_models_of_a_list_of_param_maps_are_those_of_single_fits(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    frame = frame_of(session, *digits, "bytes")
    estimator = RidgeClassifierCV(lambdas=[1.0])
    maps = [
        {estimator.lambdas: LAMBDAS},
        {estimator.penalty: "mean"},
        {estimator.numFolds: 3, estimator.lambdas: LAMBDAS},
    ]
    for params, model in zip(maps, estimator.fit(frame, maps), strict=True):
        alone = estimator.copy(params).fit(frame)
        assert model.cvScores == alone.cvScores
        assert np.array_equal(weights_of(model)[0], weights_of(alone)[0])
