"""FeatureMapTransformer: the feature maps of this project as stages of Spark ML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Self

import numpy as np
from pyspark import keyword_only
from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol, HasSeed
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col
from pyspark.sql.pandas.functions import pandas_udf

from common.arrays import Pixels
from common.data.images import Sample
from common.errors import InputError, UnusableImagesError
from common.features.feature_map import FeatureMap, Shape
from common.features.registry import saved_arrays, saved_map
from common.features.spec import FeatureSpec
from common.run.features import feature_map, with_network
from spark_jobs.engine.worker_setup import settle
from spark_jobs.ml.columns import check_new, check_session, quoted
from spark_jobs.ml.images import ImagesColumn

MOST_SAMPLED = 12_000
"""Images that a map is learnt from, at most; the driver holds them."""

DATA = "data"
"""The folder of a saved map's arrays, beside Spark's own metadata."""


class _ImageParams(HasInputCol, HasOutputCol):
    """Params that the estimator and its model share."""

    imageSize: Param[list[int]] = Param(
        Params._dummy(),
        "imageSize",
        "height and width to resize images to; as they are if not set",
        typeConverter=TypeConverters.toListInt,
    )
    grey: Param[bool] = Param(
        Params._dummy(), "grey", "whether images become grey", typeConverter=TypeConverters.toBoolean
    )
    shape: Param[list[int]] = Param(
        Params._dummy(),
        "shape",
        "height, width and channels of images that are plain bytes; the bytes are image files if not set",
        typeConverter=TypeConverters.toListInt,
    )

    def setInputCol(self, value: str) -> Self:
        """Set the column of images."""
        return self._set(inputCol=value)

    def setOutputCol(self, value: str) -> Self:
        """Set the column that features are written to, as bytes."""
        return self._set(outputCol=value)

    def _images(self, frame: DataFrame) -> ImagesColumn:
        size, shape = (self.getOrDefault(p) if self.isDefined(p) else None for p in (self.imageSize, self.shape))
        return ImagesColumn.of(frame, self.getInputCol(), size, self.getOrDefault(self.grey), shape)


class FeatureMapTransformer(
    _ImageParams,
    HasSeed,
    Estimator["FeatureMapModel"],
    DefaultParamsReadable["FeatureMapTransformer"],
    DefaultParamsWritable,
):
    """Learns a feature map from a sample of images; its model turns images into features of 8 bits.

    Images are files (as `binaryFile` reads them), Spark's own image structs, or plain bytes of one shape.
    RidgeClassifierCV takes the features as they are, and sums them exactly.

    Args:
        inputCol: images.
        outputCol: their features, as bytes.
        features: the map, as `--features` names it: "patches:64", "random:2000", "patches:64+landmarks:4096", …
        imageSize: height and width to resize to; None if all images are of one size.
        grey: whether images become grey.
        shape: height, width and channels of images that are plain bytes; None if they are none.
        seed: of all that is drawn, and of the sample.
    """

    _input_kwargs: dict[str, Any]

    features: Param[str] = Param(
        Params._dummy(), "features", "the map, as --features names it", typeConverter=TypeConverters.toString
    )

    @keyword_only
    def __init__(
        self,
        *,
        inputCol: str = "image",
        outputCol: str = "features",
        features: str = "auto",
        imageSize: Sequence[int] | None = None,
        grey: bool = False,
        shape: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._setDefault(inputCol="image", outputCol="features", features="auto", grey=False, seed=0)
        self._set(**{name: value for name, value in self._input_kwargs.items() if value is not None})

    def setFeatures(self, value: str) -> FeatureMapTransformer:
        """Set the map, as `--features` names it."""
        return self._set(features=value)

    def _fit(self, dataset: DataFrame) -> FeatureMapModel:
        check_session(dataset)
        images = self._images(dataset)
        sampled = _Sampled(dataset, images, self.getSeed())
        try:
            spec = with_network(FeatureSpec.parse(self.getOrDefault(self.features)))
            found = feature_map(spec.for_images(sampled)[0], sampled, self.getSeed())
        except InputError as error:
            raise ValueError(str(error)) from error
        model = FeatureMapModel(found, sampled.shape)
        return self._copyValues(model._resetUid(self.uid))


class FeatureMapModel(_ImageParams, Model, MLWritable, MLReadable["FeatureMapModel"]):
    """A feature map that was learnt by FeatureMapTransformer."""

    def __init__(self, learnt: FeatureMap | None = None, image_shape: Shape | None = None) -> None:
        super().__init__()
        self._learnt = learnt
        self._image_shape = image_shape
        self._setDefault(inputCol="image", outputCol="features", grey=False)

    @property
    def map(self) -> FeatureMap:
        """The map; its `digest` tells it from others.

        Raises:
            ValueError: nothing was learnt: the model was made without an estimator.
        """
        if self._learnt is None:
            raise ValueError("this FeatureMapModel has no map; fit a FeatureMapTransformer, or load a model")
        return self._learnt

    @property
    def image_shape(self) -> Shape:
        """(height, width, channels) of the images that it was learnt from, and takes."""
        return self._image_shape or (0, 0, 0)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_session(dataset)
        images, output = self._images(dataset), self.getOutputCol()
        check_new(dataset, output)
        compute = pandas_udf("binary")(_computer(self.map, images, self.image_shape))  # type: ignore[call-overload]
        return dataset.withColumn(output, compute(col(quoted(images.name))))

    def write(self) -> MLWriter:
        """Return the writer of this model."""
        _ = self.map  # before a model that is there already is overwritten
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[FeatureMapModel]:
        """Return a reader of models."""
        return _Reader()


class _Sampled:
    """The images of a DataFrame that a map is learnt from; see spec.Sampled."""

    def __init__(self, frame: DataFrame, images: ImagesColumn, seed: int) -> None:
        entries = frame.select(col(quoted(images.name)).alias("image"))
        self.n_sampled = entries.count()
        if not self.n_sampled:
            raise ValueError("there are no images to learn from")
        share = min(1.0, 1.1 * MOST_SAMPLED / self.n_sampled)
        chosen = entries if share == 1 else entries.sample(share, seed)
        self._pixels: Pixels = images.batch([row["image"] for row in chosen.limit(MOST_SAMPLED).collect()])
        height, width, channels = self._pixels.shape[1:]
        self.shape: Shape = height, width, channels

    def sample(self, n: int, seed: int) -> Sample:
        """Return up to n images, in an order that `seed` chooses."""
        rows = np.random.default_rng([seed, *b"sample"]).permutation(len(self._pixels))[:n]
        return Sample(self._pixels[rows], np.zeros(len(rows), np.int64))


def _computer(learnt: FeatureMap, images: ImagesColumn, shape: Shape) -> Callable[..., Any]:
    """Return a function from a series of images to their features."""
    import pandas as pd

    def compute(entries: Any) -> pd.Series:
        settle()
        if isinstance(entries, pd.DataFrame):  # Spark's images come as one column per field
            rows: list[Any] = entries.to_dict("records")
        else:
            rows = list(entries)
        if not rows:
            return pd.Series([], dtype=object)
        pixels = images.batch(rows)
        if pixels.shape[1:] != shape:
            own, wanted = ("×".join(map(str, lengths)) for lengths in (pixels.shape[1:], shape))
            raise ValueError(f"the column {images.name!r} has images of {own}, and the map is for {wanted}")
        try:
            return pd.Series([row.tobytes() for row in learnt(pixels)])
        except UnusableImagesError as error:
            raise ValueError(f"the column {images.name!r} has images without features: {error}") from error

    compute.__annotations__ = {"entries": pd.DataFrame if images.is_struct else pd.Series, "return": pd.Series}
    return compute


class _Writer(MLWriter):
    """Writes metadata and one row of Parquet: the map's description, and its arrays as a file of NumPy's."""

    def __init__(self, model: FeatureMapModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        learnt = self._model.map
        session = SparkSession.builder.getOrCreate()
        DefaultParamsWriter.saveMetadata(self._model, path, session.sparkContext)
        file = BytesIO()
        np.savez(file, allow_pickle=False, **saved_arrays(learnt))
        row = (json.dumps(learnt.describe()), bytearray(file.getvalue()), list(self._model.image_shape))
        frame = session.createDataFrame([row], "described string, arrays binary, image_shape array<int>")
        frame.coalesce(1).write.parquet(f"{path.rstrip('/')}/{DATA}")


class _Reader(MLReader[FeatureMapModel]):
    """Reads what _Writer wrote."""

    def load(self, path: str) -> FeatureMapModel:
        session = SparkSession.builder.getOrCreate()
        metadata = DefaultParamsReader.loadMetadata(path, session.sparkContext)
        row = session.read.parquet(f"{path.rstrip('/')}/{DATA}").first()
        if row is None:
            raise ValueError(f"{path}: no FeatureMapModel is saved there")
        with np.load(BytesIO(bytes(row["arrays"])), allow_pickle=False) as arrays:
            height, width, channels = row["image_shape"]
            learnt = saved_map(json.loads(row["described"]), arrays)
            model = FeatureMapModel(learnt, (height, width, channels))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
