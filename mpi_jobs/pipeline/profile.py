"""A profile: what it costs to decode and predict an image, and the layout of ranks that follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.measuring import DECODING, DecodedSample
from common.errors import InputError
from mpi_jobs.pipeline.layout import Layout
from mpi_jobs.pipeline.models import Scorer

FORMAT = "profile of prediction, version 1"


@dataclass(frozen=True)
class Profile:
    """Seconds of a core per image, step by step; seconds of a GPU for steps that run on one.

    Attributes:
        seconds: seconds by step: those of DECODING, and the model's own.
        mode: "plain" or "fast".
        batch: the number of images per batch of the model.
        threads: the number of threads of the model.
        device: "cpu" or "cuda".
        model: the name of the model.
        shape: (height, width, channels) of the images that the model takes.
        images: the number of images measured.
    """

    seconds: Mapping[str, float]
    mode: str
    batch: int
    threads: int
    device: str
    model: str
    shape: tuple[int, ...]
    images: int

    @classmethod
    def measure(
        cls,
        model: str,
        scorer: Scorer,
        mode: str,
        decoded: DecodedSample,
        batch: int,
        enough_s: float,
    ) -> Profile:
        """Measure prediction, and return the profile of decoding and predicting.

        Args:
            model: the name of the model.
            scorer: the model in use.
            mode: "plain" or "fast".
            decoded: images whose decoding was measured.
            batch: the number of images per batch.
            enough_s: seconds after which no further batch is scored.
        """
        shape = decoded.pixels.shape[1:]
        pixels = decoded.pixels if len(decoded.pixels) else np.zeros((1, *shape), np.uint8)
        seconds = decoded.seconds | scorer.seconds(pixels, batch, enough_s)
        images = len(decoded.pixels)
        return cls(seconds, mode, batch, scorer.threads, scorer.device, model, tuple(shape), images)

    @property
    def predicting(self) -> tuple[str, ...]:
        """The steps of predicting."""
        return tuple(step for step in self.seconds if step not in DECODING)

    @property
    def preprocess(self) -> float:
        """Seconds that a preprocessor takes per image."""
        return sum(self.seconds.get(step, 0.0) for step in DECODING)

    @property
    def predict(self) -> float:
        """Seconds that a predictor takes per image."""
        return sum(self.seconds[step] for step in self.predicting)

    @property
    def helping(self) -> bool:
        """True if predictors should decode when no image is decoded yet: only if they do not use a GPU."""
        return self.device == "cpu"

    def rate(self, layout: Layout, cores: int) -> float:
        """Return the number of images per second that a layout can process, on machines with `cores` cores in all.

        Each worker is assumed to have a core of its own, and each predictor on a GPU a GPU of its own. An image
        that a preprocessor has decoded costs a predictor only `predict`; in the rest of their time predictors
        decode and predict. No layout is faster than the cores allow.
        """
        decode, predict = self.preprocess, self.predict
        decoders, predictors = len(layout.preprocessors), len(layout.predictors)
        decoded = min(decoders / decode, predictors / predict)
        left = predictors - decoded * predict
        alone = left / (decode + predict) if self.helping or not decoders else 0.0
        bound = cores / (decode + predict if self.helping else decode)
        return min(decoded + alone, bound)

    def recommend(self, ranks: int, cores: int) -> int:
        """Return the ratio of predictors to preprocessors with the highest rate.

        If several ratios have it, as happens where ranks outnumber cores, the one closest to the ratio of the
        costs is returned.
        """
        costs = np.log(self.predict / self.preprocess)

        def merit(ratio: int) -> tuple[float, float]:
            rate = round(self.rate(Layout.of(ranks, ratio), cores), 6)
            return rate, -abs(float(np.log(ratio) - costs))

        return max(range(1, max(2, ranks - 2)), key=merit)

    def described(self) -> dict[str, Any]:
        """Return the profile as plain values for profile.json."""
        return {
            "seconds": dict(self.seconds),
            "way": self.mode,
            "batch": self.batch,
            "threads": self.threads,
            "device": self.device,
            "network": self.model,
            "shape": self.shape,
            "images": self.images,
            "preprocess": self.preprocess,
            "predict": self.predict,
        }

    @classmethod
    def load(cls, path: Path, mode: str) -> Profile:
        """Read the profile of one mode from a profile.json that profile_cnn.py has written.

        Raises:
            InputError: there is no such file, or it is something else.
        """
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise InputError(f"--profile {path}: {error.strerror}; profile_cnn.py writes one") from error
        except ValueError as error:
            raise InputError(f"--profile {path}: no JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"--profile {path}: no {FORMAT}; profile_cnn.py writes one")
        try:
            return cls._of(content["ways"][mode])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"--profile {path}: damaged ({type(error).__name__}: {error})") from error

    @classmethod
    def _of(cls, described: Mapping[str, Any]) -> Profile:
        """Return the profile from which `described` made plain values."""
        steps = dict.fromkeys((*DECODING, *described["seconds"]))  # all of decoding, whatever else there is
        seconds = {step: float(described["seconds"][step]) for step in steps}
        if not all(0 <= value < np.inf for value in seconds.values()):
            raise ValueError("seconds are negative or not finite")
        decoding, predicting = DECODING, steps.keys() - DECODING
        if not all(any(seconds[step] for step in part) for part in (decoding, predicting)):
            raise ValueError("decoding or predicting takes no time")
        return cls(
            seconds,
            str(described["way"]),
            int(described["batch"]),
            int(described["threads"]),
            str(described["device"]),
            str(described["network"]),
            tuple(map(int, described["shape"])),
            int(described["images"]),
        )
