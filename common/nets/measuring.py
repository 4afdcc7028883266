"""Measurement of what it costs to predict images by a network, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common.arrays import Pixels
from common.data.measuring import seconds_of_steps
from common.nets.classifier import Classifier


def predicting_seconds(
    classifier: Classifier, pixels: Pixels, batch: int, threads: int, enough_s: float
) -> dict[str, float]:
    """Measure prediction; return seconds of a core per image for each step, or of a GPU if it computes on one.

    Args:
        classifier: a classifier whose network is in evaluation mode.
        pixels: uint8 (n, height, width, channels), which are repeated if they do not fill a batch.
        batch: the number of images per batch.
        threads: the number of threads that torch uses.
        enough_s: seconds after which no further batch is scored.
    """
    cuda = classifier.device.type == "cuda"

    def finished(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(argument: Any) -> Any:
            result = function(argument)
            if cuda:
                torch.cuda.synchronize()
            return result

        return call

    preprocessing, device, dtype = classifier.preprocessing, classifier.device, classifier.dtype
    steps = {
        "to tensor": finished(lambda chosen: preprocessing.numbers(chosen, device, dtype)),
        "normalise": finished(preprocessing.normalise),
        "predict": finished(classifier.forward),
    }
    with torch.inference_mode():
        seconds = seconds_of_steps(steps, pixels, batch, enough_s)
    cores = 1 if cuda else threads
    return {step: cores * value for step, value in seconds.items()}
