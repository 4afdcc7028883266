"""Measurement of what it costs to decode images and to predict them, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Items, Pixels
from common.data.catalogue import PixelReader
from common.data.decode import DecodingSteps, PixelFormat
from common.data.sources.files import FileReader

DECODING = ("read", "decode", "resize", "crop", "to bytes")
"""The steps of decoding: reading the file, and the decoding steps."""

PIECE = 4
"""Images that are read together when decoding is measured."""


class Stopwatch:
    """Adds up the time that functions take.

    Args:
        steps: the names of the steps.

    Attributes:
        seconds: seconds by step.
    """

    def __init__(self, steps: Iterable[str]) -> None:
        self.seconds = dict.fromkeys(steps, 0.0)

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
        watch = Stopwatch(DECODING)
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


def seconds_of_steps(
    steps: Mapping[str, Callable[[Any], Any]], pixels: Pixels, batch: int, enough_s: float
) -> dict[str, float]:
    """Predict images, batch by batch; return seconds per image by step.

    Args:
        steps: functions by name and in order; the first takes the pixels of a batch, each of the others the result
            of the one before.
        pixels: uint8 (n, height, width, channels), which are repeated if they do not fill a batch.
        batch: the number of images per batch.
        enough_s: seconds after which no further batch is predicted.
    """
    order = np.resize(np.arange(len(pixels)), max(1, len(pixels) // batch) * batch)
    batches = [pixels[rows] for rows in order.reshape(-1, batch)]
    found: Any = batches[0]
    for function in steps.values():  # not measured: the first batch includes planning
        found = function(found)
    watch, rounds, started = Stopwatch(steps), 0, time.perf_counter()
    timed = [watch.timed(name, function) for name, function in steps.items()]
    while not rounds or time.perf_counter() - started < enough_s:
        found = batches[rounds % len(batches)]
        for function in timed:
            found = function(found)
        rounds += 1
    return {step: seconds / (rounds * batch) for step, seconds in watch.seconds.items()}
