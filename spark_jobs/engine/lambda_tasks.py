"""The tasks of outer: what a Spark worker process does with one λ, and what it keeps between tasks.

Functions of a job script are shipped to workers by value, anew for every task, with the variables of their module.
This module is imported on workers instead, so its variables live as long as the worker process.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pyspark import Broadcast

from common.data.images import Block
from common.features.augmentation import Augmentation
from common.features.feature_map import FeatureMap
from common.ridge.kept import with_features
from common.ridge.moments import FoldMoments, FoldSums, total, training_moments
from common.ridge.path import RidgePath, ridge_fit
from common.ridge.scoring import validate
from spark_jobs.engine.worker_setup import settle

if TYPE_CHECKING:  # workers need not import what a problem is made of
    from common.ridge.fit import Problem


@dataclass(frozen=True)
class Training:
    """The images as uint8 and how to fit them: what is broadcast, once.

    Attributes:
        images: training and validation images.
        n_classes: the number of classes.
        features: computes the features of images.
        augmentation: the variants of each image that are fitted with it.
        penalty: "sum", "mean" or "scaled".
        keeps: True if workers keep the features of images that validate.
        token: names this broadcast.
    """

    images: Block
    n_classes: int
    features: FeatureMap
    augmentation: Augmentation
    penalty: str
    keeps: bool
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, problem: Problem, images: Block) -> Training:
        """Return what workers need of a problem whose images were read."""
        features, augmentation = problem.features, problem.augmentation
        return cls(images, problem.n_classes, features, augmentation, problem.penalty, problem.keeps())


class LambdaOutcome(NamedTuple):
    """The result of a task.

    Attributes:
        correct: the number of correct validation images at one λ.
        seconds: how long it took.
        products: the names of what multiplied features to moments.
    """

    correct: int
    seconds: float
    products: frozenset[str]


class WorkerState(NamedTuple):
    """The part of the work that a worker process does once, for all of its tasks.

    Attributes:
        images: the broadcast images, with the features of those that validate if they are kept.
        moments: by fold.
        products: the names of what multiplied.
    """

    images: Block
    moments: FoldMoments
    products: frozenset[str]


_states: dict[str, WorkerState] = {}
"""The state of this process, by the token of the broadcast; one entry at most."""


def worker_state(training: Training) -> WorkerState:
    """Return the broadcast images and their moments, which each worker process sums once and keeps."""
    if training.token not in _states:
        _states.clear()
        images = with_features(training.images, training.features) if training.keeps else training.images
        sums = FoldSums(training.n_classes, training.features, training.augmentation)
        sums.add_block(images)
        _states[training.token] = WorkerState(images, sums.result(), sums.products)
    return _states[training.token]


def try_lambda(shared: Broadcast[Training], lambda_: float) -> LambdaOutcome:
    """Fit one λ without each fold in turn, and score it on that fold."""
    settle()
    started = time.perf_counter()
    training, correct = shared.value, 0
    images, moments, products = worker_state(training)
    for fold, others in training_moments(moments).items():
        path = ridge_fit(others, lambda_, training.penalty)
        correct += int(validate({fold: path}, training.features, [images])[1][0])
    return LambdaOutcome(correct, time.perf_counter() - started, products)


def refit(shared: Broadcast[Training], lambda_: float) -> RidgePath:
    """Fit the chosen λ to training and validation images together."""
    return ridge_fit(total(worker_state(shared.value).moments), lambda_, shared.value.penalty)
