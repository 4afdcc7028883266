"""Measurement of what it costs to decode images and to predict them, step by step.

Importing this module does not import torch, for which ranks that only write need not wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import PixelReader
from common.data.decode import DecodingSteps, PixelFormat
from common.data.sources.files import FileReader

if TYPE_CHECKING:
    from common.nets.classifier import Classifier

DECODING = ("read", "decode", "resize", "crop", "to bytes")
"""The steps of decoding: reading the file, and the decoding steps."""
PREDICTING = ("to tensor", "normalise", "predict")
"""The steps of predicting."""

PIECE = 4
"""Images that are read together when decoding is measured."""


class Stopwatch:
    """Adds up the time that functions take.

    Attributes:
        seconds: seconds by step.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*DECODING, *PREDICTING), 0.0)

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, whose time is added to a step."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds[step] += time.perf_counter() - started

        return call

    def timed_steps(self, steps: DecodingSteps) -> DecodingSteps:
        """Return the same decoding steps, timed."""

        def timed(name: str, step: Callable[[Any, PixelFormat], Any]) -> Callable[[Any, PixelFormat], Any]:
            return self.timed(name, step)

        return {name: timed(name, step) for name, step in steps.items()}


class DecodedSample(NamedTuple):
    """Images whose decoding was measured.

    Attributes:
        pixels: uint8 (m, height, width, channels), the images that could be decoded.
        items: (m,), their items.
        seconds: seconds per image for each step of DECODING.
    """

    pixels: Pixels
    items: Items
    seconds: dict[str, float]

    @classmethod
    def of(cls, reader: PixelReader, items: Items, enough_s: float) -> DecodedSample:
        """Decode images until there are no more, or until `enough_s` seconds have passed and one was decoded."""
        watch = Stopwatch()
        if isinstance(reader, FileReader):
            reader = replace(reader, steps=watch.timed_steps(reader.steps))
        pixels: list[Pixels] = []
        kept: list[int] = []
        done = 0
        started = time.perf_counter()
        while done < len(items) and (not kept or time.perf_counter() - started < enough_s):
            read = reader.read(items[done : done + PIECE])
            pixels.append(read.pixels)
            kept += (done + read.kept).tolist()
            done += PIECE
        # what is left is the time for reading files and for copying pixels into place
        watch.seconds["read"] = time.perf_counter() - started - sum(watch.seconds.values())
        seconds = {step: max(0.0, watch.seconds[step]) / max(1, len(kept)) for step in DECODING}
        return cls(np.concatenate(pixels), items[kept], seconds)


def predicting_seconds(
    classifier: Classifier, pixels: Pixels, batch: int, threads: int, enough_s: float
) -> dict[str, float]:
    """Measure prediction; return seconds of a core per image for each step of PREDICTING.

    Args:
        classifier: a classifier whose network is in evaluation mode.
        pixels: uint8 (n, height, width, channels), which are repeated if they do not fill a batch.
        batch: the number of images per batch.
        threads: the number of threads that torch uses.
        enough_s: seconds after which no further batch is scored.
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
        classifier.logits(batches[0])  # not measured: the first batch includes planning
        watch, rounds, started = Stopwatch(), 0, time.perf_counter()
        while not rounds or time.perf_counter() - started < enough_s:
            chosen = batches[rounds % len(batches)]
            numbers = watch.timed("to tensor", finished(preprocessing.numbers))(chosen, device, dtype)
            tensor = watch.timed("normalise", finished(preprocessing.normalise))(numbers)
            watch.timed("predict", finished(classifier.forward))(tensor)
            rounds += 1
    cores = 1 if cuda else threads
    return {step: cores * watch.seconds[step] / (rounds * batch) for step in PREDICTING}
