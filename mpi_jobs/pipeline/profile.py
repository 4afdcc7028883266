"""What an image costs at each stage, and what layout of ranks follows from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import PixelReader
from common.data.decode import PixelFormat, Stages
from common.data.sources.files import FileReader
from common.errors import InputError
from mpi_jobs.pipeline.layout import Layout

if TYPE_CHECKING:
    from common.nets.classifier import Classifier

FORMAT = "profile of prediction, version 1"
DECODING = ("read", "decode", "resize", "crop", "to bytes")
"""What preprocessors do."""
PREDICTING = ("to tensor", "normalise", "predict")
"""What predictors do."""

PIECE = 4
"""Images that are read together when decoding is measured."""


@dataclass(frozen=True)
class Profile:
    """Seconds of a core for an image, stage by stage; of a GPU, for stages that run on one.

    Attributes:
        seconds: by stage, of DECODING and PREDICTING.
        way: "plain" or "fast".
        batch: images that the network took at once.
        threads: that it took.
        device: "cpu" or "cuda".
        network: its name.
        shape: (height, width, channels) of the images that it takes.
        images: that were measured.
    """

    seconds: Mapping[str, float]
    way: str
    batch: int
    threads: int
    device: str
    network: str
    shape: tuple[int, ...]
    images: int

    @property
    def preprocess(self) -> float:
        """Seconds that a preprocessor takes for an image."""
        return sum(self.seconds.get(stage, 0.0) for stage in DECODING)

    @property
    def predict(self) -> float:
        """Seconds that a predictor takes for an image."""
        return sum(self.seconds.get(stage, 0.0) for stage in PREDICTING)

    @property
    def helping(self) -> bool:
        """Whether predictors decode when nobody decodes for them: those on a GPU had better not."""
        return self.device == "cpu"

    def rate(self, layout: Layout, cores: int) -> float:
        """Images a second that a layout can do, on machines of so many cores in all.

        Each worker is taken to be a core, and a predictor's GPU to be its own. What preprocessors decode costs
        predictors `predict` only; with what is left of their time they decode and predict. No layout does more
        than the cores.
        """
        decode, predict = self.preprocess, self.predict
        decoders, predictors = len(layout.preprocessors), len(layout.predictors)
        decoded = min(decoders / decode, predictors / predict)
        left = predictors - decoded * predict
        alone = left / (decode + predict) if self.helping or not decoders else 0.0
        bound = cores / (decode + predict if self.helping else decode)
        return min(decoded + alone, bound)

    def recommend(self, ranks: int, cores: int) -> int:
        """The ratio of predictors to preprocessors with the highest rate.

        Of equals, which there are where ranks outnumber cores, the one that is closest to what the costs are.
        """
        wanted = np.log(self.predict / self.preprocess)
        ratios = range(1, max(2, ranks - 2))
        return max(
            ratios,
            key=lambda ratio: (
                round(self.rate(Layout.of(ranks, ratio), cores), 6),
                -abs(np.log(ratio) - wanted),
            ),
        )

    def described(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"preprocess": self.preprocess, "predict": self.predict}

    @classmethod
    def load(cls, path: Path, way: str) -> Profile:
        """Read what profile_cnn.py wrote of "plain" or "fast".

        Raises:
            InputError: there is no such file, or it is something else.
        """
        try:
            found = json.loads(path.read_text())
        except OSError as error:
            raise InputError(f"--profile {path}: {error.strerror}; profile_cnn.py writes one") from error
        except ValueError as error:
            raise InputError(f"--profile {path}: no JSON ({error})") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"--profile {path}: no {FORMAT}; profile_cnn.py writes one")
        try:
            found = found["ways"][way]
            seconds = {stage: float(found["seconds"][stage]) for stage in (*DECODING, *PREDICTING)}
            if not all(0 <= value < np.inf for value in seconds.values()):
                raise ValueError("seconds below 0")
            if not any(seconds[stage] for stage in DECODING) or not any(seconds[stage] for stage in PREDICTING):
                raise ValueError("something that takes no time")
            return cls(
                seconds, str(found["way"]), int(found["batch"]), int(found["threads"]), str(found["device"]),
                str(found["network"]), tuple(map(int, found["shape"])), int(found["images"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"--profile {path}: damaged ({type(error).__name__}: {error})") from error


class Stopwatch:
    """Adds up what calls take.

    Attributes:
        seconds: by stage.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*DECODING, *PREDICTING), 0.0)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts as that of a stage."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds[stage] += time.perf_counter() - started

        return call

    def stages(self, stages: Stages) -> Stages:
        """The same stages, timed."""

        def of(name: str, stage: Callable[[Any, PixelFormat], Any]) -> Callable[[Any, PixelFormat], Any]:
            return self.timed(name, stage)

        return {name: of(name, stage) for name, stage in stages.items()}


class Sample(NamedTuple):
    """Images that were decoded stage by stage.

    Attributes:
        pixels: uint8 (m, height, width, channels), of those that could be.
        items: (m,), theirs.
        seconds: for an image, of each stage of DECODING.
    """

    pixels: Pixels
    items: Items
    seconds: dict[str, float]

    @classmethod
    def of(cls, reader: PixelReader, items: Items, enough_s: float) -> Sample:
        """Decode images, until there are no more or it has taken so many seconds."""
        watch = Stopwatch()
        if isinstance(reader, FileReader):
            reader = replace(reader, stages=watch.stages(reader.stages))
        pixels: list[Pixels] = []
        kept: list[int] = []
        done = 0
        started = time.perf_counter()
        while done < len(items) and (not kept or time.perf_counter() - started < enough_s):
            read = reader.read(items[done : done + PIECE])
            pixels.append(read.pixels)
            kept += (done + read.kept).tolist()
            done += PIECE
        # what the stages did not take is reading, and putting pixels into place
        watch.seconds["read"] = time.perf_counter() - started - sum(watch.seconds.values())
        seconds = {stage: max(0.0, watch.seconds[stage]) / max(1, len(kept)) for stage in DECODING}
        return cls(np.concatenate(pixels), items[kept], seconds)


def predicting_seconds(
    classifier: Classifier, pixels: Pixels, batch: int, threads: int, enough_s: float
) -> dict[str, float]:
    """What an image costs at each stage of PREDICTING, in seconds of a core.

    Args:
        classifier: with its network in evaluation mode.
        pixels: uint8 (n, height, width, channels), of which batches are made, by repetition if they are too few.
        batch: images at once.
        threads: that torch has been given.
        enough_s: seconds after which no more are scored.
    """
    import torch

    order = np.resize(np.arange(len(pixels)), max(1, len(pixels) // batch) * batch)
    batches = [pixels[rows] for rows in order.reshape(-1, batch)]
    cuda = classifier.device.type == "cuda"

    def finished(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if cuda:
                torch.cuda.synchronize()
            return result

        return call

    preprocessing, device, dtype = classifier.preprocessing, classifier.device, classifier.dtype
    with torch.inference_mode():
        classifier.logits(batches[0])  # the first time is for making plans
        watch, rounds, started = Stopwatch(), 0, time.perf_counter()
        while not rounds or time.perf_counter() - started < enough_s:
            chosen = batches[rounds % len(batches)]
            numbers = watch.timed("to tensor", finished(preprocessing.numbers))(chosen, device, dtype)
            tensor = watch.timed("normalise", finished(preprocessing.normalise))(numbers)
            watch.timed("predict", finished(classifier.forward))(tensor)
            rounds += 1
    cores = 1 if cuda else threads
    return {stage: cores * watch.seconds[stage] / (rounds * batch) for stage in PREDICTING}
