"""Ridge models in the pipeline: numpy computes, and onnxruntime where a network is among the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import Pixels
from common.blas import limit_blas
from common.data.catalogue import Classes
from common.data.decode import DECODING_STEPS, DecodingSteps, PixelFormat
from common.data.measuring import seconds_of_steps
from common.errors import InputError
from common.features.feature_map import usable_features
from common.predict.predictions import BestClasses, RowFormat, best_classes
from common.ridge.model import RidgeModel
from mpi_jobs.engine.world import World
from mpi_jobs.pipeline.models import PLAIN


@dataclass(frozen=True)
class PredictingRidge:
    """A ridge model, as `pipeline.models.Model` says.

    Attributes:
        model: the model.
        modes: the plain mode alone: the model has seen images as Pillow decodes them.
    """

    model: RidgeModel
    modes: tuple[str, ...] = (PLAIN,)

    @property
    def name(self) -> str:
        """The kinds of its features, and how many they are."""
        return f"ridge on {len(self.model.weights):,} features ({kinds_of(self.model.features.describe())})"

    @property
    def digest(self) -> str:
        """The digest of the model."""
        return self.model.digest

    @property
    def classes(self) -> Classes:
        """The classes that it distinguishes."""
        return self.model.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the decoded images that it takes."""
        return self.model.shape

    @property
    def pixel_format(self) -> PixelFormat:
        """The format that files are decoded into."""
        return self.model.pixel_format

    def described(self) -> dict[str, Any]:
        """Return the feature map, the number of features, and λ."""
        model = self.model
        features = {"features": model.features.describe(), "n_features": len(model.weights)}
        return features | {"lambda": model.lambda_, "penalty": model.penalty}

    def decoding_steps(self, mode: str) -> DecodingSteps:
        """Return the plain decoding steps."""
        return DECODING_STEPS

    def find_device(self, choice: str, ranks: World | None) -> str:
        """Return the processor."""
        return "cpu"

    def scorer(self, device: str, mode: str, threads: int) -> RidgeScorer:
        """Give this process's BLAS its threads, which are a network's too."""
        limit_blas(threads)
        return RidgeScorer(self.model, threads)


@dataclass(frozen=True)
class RidgeScorer:
    """A ridge model in use, as `pipeline.models.Scorer` says.

    Attributes:
        model: the model.
        threads: the number of threads of BLAS and of onnxruntime.
        device: the processor.
    """

    model: RidgeModel
    threads: int
    device: str = "cpu"

    def begin_thread(self) -> None:
        """Do nothing: the number of threads is set for the whole process."""

    def best_classes(self, pixels: Pixels, row_format: RowFormat) -> BestClasses:
        """Compute features and score them; scores are float64, as everywhere."""
        return best_classes(self.model, self._coloured(pixels), row_format)

    def seconds(self, pixels: Pixels, batch: int, enough_s: float) -> dict[str, float]:
        """Measure the feature map, and the scores of its features."""
        steps: dict[str, Callable[[Any], Any]] = {
            "features": lambda chosen: usable_features(self.model.features, chosen).x,
            "score": self.model.path.best_classes,
        }
        seconds = seconds_of_steps(steps, self._coloured(pixels), batch, enough_s)
        return {step: self.threads * value for step, value in seconds.items()}

    def _coloured(self, pixels: Pixels) -> Pixels:
        """Return images as the model takes them: those of a table without colour become grey colours."""
        channels = self.model.shape[2]
        return pixels if pixels.shape[3] == channels else np.repeat(pixels, channels, axis=3)


def kinds_of(described: Mapping[str, Any]) -> str:
    """Return the kinds of a feature map and its stages as text, chained by +, from its description."""
    if "first" not in described:
        return ":".join(filter(None, [described["kind"], described.get("network")]))
    (stage,) = described.keys() - {"kind", "first"}
    return f"{kinds_of(described['first'])}+{stage}"


def load_ridge(location: Path, mode: str, device: str) -> PredictingRidge:
    """Load a ridge model.

    Args:
        location: the run folder of a ridge job.
        mode: the mode to predict in.
        device: the value of --device.

    Raises:
        InputError: the model is damaged, or it has no such mode or device.
    """
    model = PredictingRidge(RidgeModel.load(location))
    if mode not in model.modes:
        raise InputError(f"--fast: for networks; {location} is a ridge model, which has one mode: leave it out")
    if device == "cuda":
        raise InputError(f"--device cuda: {location} is a ridge model, which processors compute: leave it out")
    return model
