"""Spark ML: against the estimators of scikit-learn, in Spark's pipelines and searches, saved and loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark import SparkContext
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import DataFrame, SparkSession
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from common.estimators import MomentsRidgeClassifierCV
from common.features.patches import PatchesRecipe
from spark_jobs.ml import (
    FeatureMapModel,
    FeatureMapTransformer,
    RidgeClassifierCV,
    RidgeClassifierCVModel,
    sums,
)
from tests.support.jobs import command
from tests.support.places import ROOT

pytestmark = [pytest.mark.spark]

LAMBDAS = [1.0, 100.0, 10_000.0]


@pytest.fixture(scope="module")
def session(spark: SparkContext) -> SparkSession:
    return SparkSession(spark)


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    X, y = load_digits(return_X_y=True)
    return X.astype(np.uint8), y


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


@pytest.mark.parametrize("partitions", [1, 8, 200])
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
        .addGrid(estimator.lambdas, [[value] for value in LAMBDAS])
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


FRESH = """
import json, sys
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from spark_jobs.engine.session import configuration
session = SparkSession.builder.config(conf=configuration("fresh", False).setMaster("local[1]")).getOrCreate()
session.sparkContext.setLogLevel("OFF")
frame = session.read.parquet(sys.argv[2])
found = PipelineModel.load(sys.argv[1]).transform(frame).orderBy("id").collect()
print(json.dumps([[row.prediction, *map(float, row.rawPrediction)] for row in found]))
"""


@pytest.mark.slow
def test_a_saved_pipeline_predicts_the_same_in_a_fresh_process(
    session: SparkSession, digits: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    import json

    X, y = digits
    names = [f"pixel {i}" for i in range(8)]
    rows = [(i, *map(float, x[20:28]), int(c)) for i, (x, c) in enumerate(zip(X[:300], y[:300], strict=True))]
    frame = session.createDataFrame(rows, ["id", *names, "label"])
    stages = [
        VectorAssembler(inputCols=names, outputCol="assembled"),
        StandardScaler(inputCol="assembled", outputCol="features", withMean=True),
        RidgeClassifierCV(lambdas=LAMBDAS),
    ]
    fitted = Pipeline(stages=stages).fit(frame)
    frame.write.parquet(str(tmp_path / "rows"))
    fitted.write().save(str(tmp_path / "model"))
    expected = fitted.transform(frame).orderBy("id").collect()
    fresh = command(
        sys.executable, "-c", FRESH, tmp_path / "model", tmp_path / "rows", cwd=ROOT, SPARK_LOCAL_IP="127.0.0.1"
    )
    assert fresh.returncode == 0, fresh.stderr
    found = json.loads(fresh.stdout.splitlines()[-1])
    assert found == [[row.prediction, *map(float, row.rawPrediction)] for row in expected]
    assert not list((tmp_path / "model").rglob("*.pkl"))
    again = PipelineModel.load(str(tmp_path / "model")).stages[-1]
    last = fitted.stages[-1]
    assert isinstance(again, RidgeClassifierCVModel)
    assert isinstance(last, RidgeClassifierCVModel)
    assert (again.labels, again.bestLambda, again.cvScores) == (last.labels, last.bestLambda, last.cvScores)
    assert again.uid == last.uid


def test_estimators_are_saved_with_their_params(session: SparkSession, tmp_path: Path) -> None:
    estimator = RidgeClassifierCV(lambdas=LAMBDAS, penalty="scaled", weightCol="w", predictionCol="p")
    estimator.write().overwrite().save(str(tmp_path / "estimator"))
    again = RidgeClassifierCV.load(str(tmp_path / "estimator"))
    assert again.extractParamMap() == estimator.extractParamMap()
    assert RidgeClassifierCV().getLambdas() == [0.1, 1.0, 10.0]
    assert estimator.copy().setNumFolds(3).setLambdas([1.0]).getNumFolds() == 3


def photographs(folder: Path) -> list[NDArray[np.uint8]]:
    """Write colour images of two kinds, and return their pixels in the order of their names."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(40):
        pixels = rng.integers(0, 120, (16, 16, 3), np.uint8)
        if i % 2:
            pixels[:, ::4, 0] = 255
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        found.append(pixels)
    return found


def test_feature_maps_of_files_of_sparks_images_and_of_plain_bytes_are_the_same(
    session: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = photographs(folder)
    shape = list(pixels[0].shape)
    plain = [(bytearray(p.tobytes()), i % 2) for i, p in enumerate(pixels)]
    frames: dict[str, tuple[DataFrame, FeatureMapTransformer]] = {
        "content": (
            session.read.format("binaryFile").load(str(folder)).orderBy("path").coalesce(1),
            FeatureMapTransformer(inputCol="content", features="patches:8"),
        ),
        "image": (
            session.read.format("image").load(str(folder)).orderBy("image.origin").coalesce(1),
            FeatureMapTransformer(features="patches:8"),
        ),
        "bytes": (
            session.createDataFrame(plain, "bytes binary, label int").coalesce(1),
            FeatureMapTransformer(inputCol="bytes", features="patches:8", shape=shape),
        ),
    }
    order = np.random.default_rng([0, *b"sample"]).permutation(len(pixels))
    expected = PatchesRecipe(8).learn(np.stack(pixels)[order], 0)
    truth = [row.tobytes() for row in expected(np.stack(pixels))]
    for frame, estimator in frames.values():
        model = estimator.fit(frame)
        assert model.map.digest == expected.digest
        assert [bytes(row.features) for row in model.transform(frame).collect()] == truth
    frame, estimator = frames["bytes"]
    pipeline = Pipeline(stages=[estimator, RidgeClassifierCV(lambdas=[1e4, 1e6], numFolds=2)]).fit(frame)
    pipeline.write().save(str(tmp_path / "pipeline"))
    again = PipelineModel.load(str(tmp_path / "pipeline"))
    assert isinstance(again.stages[0], FeatureMapModel)
    assert again.stages[0].map.digest == expected.digest
    rows, others = (model.transform(frame).collect() for model in (pipeline, again))
    assert rows == others
    assert all(row.prediction == row.label for row in rows)


def test_images_are_resized_and_grey_on_request(session: SparkSession, tmp_path: Path) -> None:
    photographs(tmp_path)
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "large.png")
    frame = session.read.format("binaryFile").load(str(tmp_path))
    with pytest.raises(ValueError, match="16×16×3 and of 30×20×3; set imageSize"):
        FeatureMapTransformer(inputCol="content", features="pixels").fit(frame)
    estimator = FeatureMapTransformer(inputCol="content", features="pixels", imageSize=[8, 10], grey=True)
    rows = estimator.fit(frame).transform(frame).collect()
    assert {len(row.features) for row in rows} == {80}
    (tmp_path / "broken.png").write_bytes((tmp_path / "large.png").read_bytes()[:45])
    with pytest.raises(ValueError, match="'content' has an image that cannot be used"):
        estimator.fit(session.read.format("binaryFile").load(str(tmp_path)))


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


def test_params_of_none_are_not_set(session: SparkSession, tmp_path: Path) -> None:
    RidgeClassifierCV(weightCol=None, foldCol=None).save(str(tmp_path / "estimator"))
    assert not RidgeClassifierCV.load(str(tmp_path / "estimator")).isDefined("weightCol")
    rows = [(bytearray(range(i, i + 64)), i % 2) for i in range(20)]
    frame = session.createDataFrame(rows, "image binary, label int")
    model = FeatureMapTransformer(features="pixels", imageSize=None, shape=[8, 8]).fit(frame)
    model.save(str(tmp_path / "map"))
    again = FeatureMapModel.load(str(tmp_path / "map"))
    assert again.image_shape == (8, 8, 1)
    assert again.transform(frame).collect() == model.transform(frame).collect()
    longer = session.createDataFrame([(bytearray(80),)], "image binary")
    again.set(again.shape, [8, 10])
    with pytest.raises(Exception, match="images of 8×10×1, and the map is for 8×8×1"):
        again.transform(longer).collect()


def test_a_model_without_weights_does_not_overwrite_another(session: SparkSession, tmp_path: Path) -> None:
    frame = session.createDataFrame([([0.0, 1.0], 0), ([1.0, 0.0], 1)], "features array<double>, label int")
    RidgeClassifierCV(lambdas=[1.0]).fit(frame).save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="no weights"):
        RidgeClassifierCVModel().write().overwrite().save(str(tmp_path / "model"))
    assert RidgeClassifierCVModel.load(str(tmp_path / "model")).numFeatures == 2


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
