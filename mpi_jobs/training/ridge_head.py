"""The exact ridge classifier as the starting point of a network's head.

The features are the embeddings of the training images, in evaluation mode and without augmentation. Each rank
sums the float64 moments of its own images. The sums are added up in the order of the ranks, and rank 0 fits every
λ of a grid to them. As in the ridge jobs, the λ with the most correct validation images is chosen. Embeddings have
no unit of their own, so λ is in units of their mean variance. Features are not divided by their own deviations:
those that hardly vary would get weights so large that the first steps of the backbone undo the head.

Targets are ±1, so scores are a few units apart at most, and as logits they would call every image doubtful. They
are multiplied by a scale: the one with the lowest cross-entropy on the validation images. The cross-entropy is a
convex function of the scale, so bisection of its slope finds the lowest point. Targets are smoothed by 1/(n + 1)
for n images, much as in Platt scaling (Platt 1999): where all images are right, the scale would be infinite.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from common.arrays import Floats, Labels, Singles
from common.errors import InputError
from common.nets.classifier import Classifier
from common.nets.heads import Head
from common.ridge.fit import MAX_MOMENTS_BYTES
from common.ridge.moments import Moments
from common.ridge.path import RidgePath, best_lambda, ridge_path, score_rows
from common.ridge.penalty import INTENSITY
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Batch

LAMBDAS = tuple(float(value) for value in np.logspace(-4, 2, 13))
"""The grid of λ, which is multiplied by the mean variance of the embeddings before it weighs on the weights."""

HALVINGS = 12
"""Bisections of the interval of the scale."""

LARGEST_SCALE = 2.0**20
"""Beyond any scale of use: scores that differ at all differ by enough then."""


class RidgeHead(NamedTuple):
    """A ridge classifier, as the head of a network.

    Attributes:
        weight: float64 (n_classes, d).
        bias: float64 (n_classes,).
        figures: "lambda", "scale", and "validation_accuracy" and "validation_loss" of the head.
    """

    weight: Floats
    bias: Floats
    figures: dict[str, float]


def check_head(layer: nn.Linear) -> None:
    """Refuse heads that a ridge classifier cannot become.

    Raises:
        InputError: the layer has no bias, or the moments or the weights at all λ would be too large.
    """
    d, n_classes = layer.in_features, layer.out_features
    if layer.bias is None:
        raise InputError(
            "--head ridge: the linear layer at the end of this network has no bias; leave the flag out"
        )
    size = 8 * d * max(d + n_classes, len(LAMBDAS) * n_classes)
    if size > MAX_MOMENTS_BYTES:
        raise InputError(
            f"--head ridge: {d:,} values per image and {n_classes:,} classes would take matrices of "
            f"{size / 2**30:.1f} GiB, of {MAX_MOMENTS_BYTES / 2**30:g} GiB allowed; leave the flag out"
        )


def fit_ridge_head(
    world: World, classifier: Classifier, head: Head, training: Iterable[Batch], validation: Iterable[Batch]
) -> RidgeHead:
    """Fit the head to the training images on all ranks, all of which call this and get the same.

    The embeddings of a rank's validation images are kept in memory, in float32.

    Args:
        world: the ranks.
        classifier: the same network on all ranks.
        head: the head of that network, which stays as it is.
        training: this rank's training images.
        validation: this rank's validation images.

    Raises:
        AgreedError: no training image or no validation image could be used, or embeddings are not finite.
    """
    moments = world.reduce(_moments(classifier, head, training), add)
    path = world.at_root(lambda: _fit(moments))
    x, labels = _embeddings(classifier, head, validation)
    n_bad = int((~np.isfinite(x).all(axis=1)).sum())
    counts = np.array([len(labels), n_bad, *_count_correct(path, x, labels)])
    world.sum(counts)
    world.at_root(lambda: _check_images(int(counts[0]), "validation"))
    world.at_root(lambda: _check_finite(not counts[1]))
    correct = counts[2:]
    best = best_lambda(correct, LAMBDAS)
    weights, intercepts = path.weights[best] / INTENSITY, path.intercepts[best]
    images = _Scored(world, x @ weights + intercepts, labels, int(counts[0]))
    scale = images.best_scale()
    figures = {
        "lambda": LAMBDAS[best],
        "scale": scale,
        "validation_accuracy": int(correct[best]) / images.n,
        "validation_loss": images.loss(scale),
    }
    return RidgeHead(scale * weights.T, scale * intercepts, figures)


def _moments(classifier: Classifier, head: Head, batches: Iterable[Batch]) -> Moments:
    """Sum the moments of this rank's training images."""
    d, n_classes, device = head.layer.in_features, head.layer.out_features, classifier.device
    gram = torch.zeros(d, d, dtype=torch.float64, device=device)
    class_sums = torch.zeros(n_classes, d, dtype=torch.float64, device=device)
    class_counts = np.zeros(n_classes)
    for batch in batches:
        if len(batch.labels):
            x = head.embed(classifier, batch.pixels).double()
            gram.addmm_(x.T, x)
            class_sums.index_add_(0, torch.from_numpy(batch.labels).to(device), x)
            class_counts += np.bincount(batch.labels, minlength=n_classes)
    sums, n = class_sums.cpu().numpy(), int(class_counts.sum())
    sum_x = sums.sum(axis=0)
    # an image has the target +1 for its class, and −1 for the others
    return Moments(n, sum_x, 2 * class_counts - n, gram.cpu().numpy(), (2 * sums - sum_x).T)


def _fit(moments: Moments | None) -> RidgePath:
    """Fit every λ to the moments of all training images, on rank 0, which has them.

    Raises:
        InputError: no training image could be used, or embeddings are not finite.
    """
    if moments is None:
        raise ValueError("rank 0 has no moments")
    _check_images(moments.n, "training")
    _check_finite(bool(np.isfinite(moments.gram).all()))
    spread = float(np.trace(moments.gram) - moments.sum_x @ moments.sum_x / moments.n)
    # the path takes λ for features divided by INTENSITY
    unit = spread / (moments.n * len(moments.sum_x) * INTENSITY**2)
    return ridge_path(moments, [lambda_ * unit for lambda_ in LAMBDAS], "mean")


def _check_finite(finite: bool) -> None:
    """Raise InputError if embeddings are not finite."""
    if not finite:
        raise InputError(
            "--head ridge: the network makes numbers of these images that are not finite; mend its weights"
        )


def _check_images(n: int, what: str) -> None:
    """Raise InputError if no image of a kind could be used."""
    if not n:
        raise InputError(f"--head ridge: no usable {what} image is left; mend the images, or leave the flag out")


def _embeddings(classifier: Classifier, head: Head, batches: Iterable[Batch]) -> tuple[Singles, Labels]:
    """Return the embeddings of this rank's validation images, float32 (n, d), and their labels, int64 (n,)."""
    found = [np.empty((0, head.layer.in_features), np.float32)]
    labels = [np.empty(0, np.int64)]
    for batch in batches:
        if len(batch.labels):
            found.append(head.embed(classifier, batch.pixels).float().cpu().numpy())
            labels.append(batch.labels)
    return np.concatenate(found), np.concatenate(labels)


def _count_correct(path: RidgePath, x: Singles, labels: Labels) -> Labels:
    """Count the images that each λ classifies correctly: embeddings (n, d) to int64 (n_lambdas,)."""
    n_lambdas, n_classes = path.intercepts.shape
    stacked = np.moveaxis(path.weights, 1, 0).reshape(x.shape[1], -1) / INTENSITY
    correct = np.zeros(n_lambdas, np.int64)
    rows = score_rows(path.intercepts.size)
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        scores = (x[block] @ stacked).reshape(-1, n_lambdas, n_classes) + path.intercepts
        correct += (scores.argmax(axis=2) == labels[block, None]).sum(axis=0)
    return correct


class _Scored(NamedTuple):
    """Scores of validation images on all ranks, all of which call every method and get the same.

    Attributes:
        world: the ranks.
        scores: of this rank's images, float64 (n of this rank, n_classes).
        labels: int64 (n of this rank,).
        n: the number of images of all ranks.
    """

    world: World
    scores: Floats
    labels: Labels
    n: int

    def best_scale(self) -> float:
        """Return the scale of the scores at which the smoothed cross-entropy is lowest."""
        low, high = 0.0, 1.0
        while high < LARGEST_SCALE and self._slope(high) < 0:
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._slope(middle) < 0 else (low, middle)
        return (low + high) / 2

    def loss(self, scale: float) -> float:
        """Return the mean cross-entropy of scaled scores."""
        logits = scale * self.scores
        highest = logits.max(axis=1)
        total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
        return self._mean(float((total - logits[np.arange(len(logits)), self.labels]).sum()))

    def _slope(self, scale: float) -> float:
        """Return the derivative of the mean smoothed cross-entropy by the scale."""
        smoothing = 1 / (self.n + 1)
        shares = np.exp(scale * (self.scores - self.scores.max(axis=1, keepdims=True)))
        shares /= shares.sum(axis=1, keepdims=True)
        expected = np.einsum("nc,nc->n", shares, self.scores)
        true = self.scores[np.arange(len(self.scores)), self.labels]
        targets = (1 - smoothing) * true + smoothing * self.scores.mean(axis=1)
        return self._mean(float((expected - targets).sum()))

    def _mean(self, own: float) -> float:
        """Return the mean over the images of all ranks: the same bits on every rank."""
        return sum(self.world.all_gather(own)) / self.n
