"""Spark ML: feature maps of columns of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import DataFrame, SparkSession

from common.features.patches import PatchesRecipe
from spark_jobs.ml import (
    FeatureMapModel,
    FeatureMapTransformer,
    RidgeClassifierCV,
)

pytestmark = [pytest.mark.spark]


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
