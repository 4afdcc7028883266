"""Spark ML: pipelines, estimators and models that are saved and loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession

from spark_jobs.ml import (
    FeatureMapModel,
    FeatureMapTransformer,
    RidgeClassifierCV,
    RidgeClassifierCVModel,
)
from tests.support.jobs import command
from tests.support.ml_frames import LAMBDAS
from tests.support.places import ROOT

pytestmark = [pytest.mark.spark]


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


def test_a_model_without_weights_does_not_overwrite_another(session: SparkSession, tmp_path: Path) -> None:
    frame = session.createDataFrame([([0.0, 1.0], 0), ([1.0, 0.0], 1)], "features array<double>, label int")
    RidgeClassifierCV(lambdas=[1.0]).fit(frame).save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="no weights"):
        RidgeClassifierCVModel().write().overwrite().save(str(tmp_path / "model"))
    assert RidgeClassifierCVModel.load(str(tmp_path / "model")).numFeatures == 2


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
