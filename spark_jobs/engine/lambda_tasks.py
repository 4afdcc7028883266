"""What a Spark worker process does with one λ, and what it keeps from one task to the next.

A job script is shipped to workers by value, anew for every task, and its module variables with it. This module
is imported there instead, so what it holds lives as long as the worker process.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pyspark import Broadcast

from common.data.images import Block
from common.ridge.moments import FoldMoments, moments_by_fold, total, training_moments
from common.ridge.path import RidgePath, ridge_fit
from spark_jobs.engine.worker_setup import settle


@dataclass(frozen=True)
class Training:
    """What is broadcast, once: the images as uint8, and how to fit them.

    Attributes:
        images: training and validation images.
        n_classes: how many classes there are.
        penalty: "sum" or "mean".
        token: names this broadcast.
    """

    images: Block
    n_classes: int
    penalty: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Outcome(NamedTuple):
    """What comes back from the task of one λ: validation images correct, and how long it took."""

    correct: int
    seconds: float


_moments: dict[str, FoldMoments] = {}
"""The moments that this process built, by the token of the broadcast; one entry at most."""


def worker_moments(training: Training) -> FoldMoments:
    """The moments of the broadcast images, built once a worker process and kept."""
    if training.token not in _moments:
        _moments.clear()
        images = training.images
        _moments[training.token] = moments_by_fold(images.pixels, images.labels, images.folds, training.n_classes)
    return _moments[training.token]


def try_lambda(shared: Broadcast[Training], lambda_: float) -> Outcome:
    """Fit one λ without each fold in turn, and score it on that fold."""
    settle()
    started = time.perf_counter()
    training = shared.value
    images, correct = training.images, 0
    for fold, others in training_moments(worker_moments(training)).items():
        held_out = np.flatnonzero(images.folds == fold)
        path = ridge_fit(others, lambda_, training.penalty)
        correct += int(path.count_correct(images.pixels[held_out], images.labels[held_out])[0])
    return Outcome(correct, time.perf_counter() - started)


def refit(shared: Broadcast[Training], lambda_: float) -> RidgePath:
    """Fit the chosen λ on training and validation images together."""
    return ridge_fit(total(worker_moments(shared.value)), lambda_, shared.value.penalty)
