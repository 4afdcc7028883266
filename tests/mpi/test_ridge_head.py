"""Heads that begin as the ridge classifier of embeddings, compared with least squares in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common.data.decode import PixelFormat
from common.errors import InputError
from common.nets.classifier import Classifier
from common.nets.heads import Head, head_of
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.training.loading import Batch
from mpi_jobs.training.ridge_head import LAMBDAS, RidgeHead, check_head, fit_ridge_head
from mpi_jobs.training.training_run import TrainingRun

SPEC = NetworkSpec("small", 1, 8, 8, 3)


class Made:
    """A small network in float64, and images that it has not seen: a bright row gives the class away."""

    def __init__(self, n: int, n_validation: int, noise: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(4)
        preprocessing = Preprocessing.for_channels(PixelFormat(), 1)
        network = build(SPEC).to(torch.float64)
        self.classifier = Classifier(SPEC, network, preprocessing, ("a", "b", "c"), torch.device("cpu"))
        head = head_of(network)
        assert head is not None
        self.head: Head = head
        rng = np.random.default_rng(7)
        self.labels = np.arange(n + n_validation) % 3
        self.pixels = rng.integers(0, noise, (n + n_validation, 8, 8, 1)).astype(np.uint8)
        self.pixels[np.arange(len(self.labels)), 2 * self.labels] += np.uint8(255 - noise)
        self.n = n

    def batches(self, world: World, rows: slice) -> list[Batch]:
        """Return this rank's share of some images, in batches of four."""
        own = np.arange(len(self.labels))[rows][world.rank :: world.size]
        parts = [own[start : start + 4] for start in range(0, len(own) + 1, 4)]  # the last one may be empty
        return [Batch(self.pixels[part], self.labels[part], part, []) for part in parts]

    def fit(self, world: World) -> RidgeHead:
        training, validation = (self.batches(world, rows) for rows in (slice(self.n), slice(self.n, None)))
        return fit_ridge_head(world, self.classifier, self.head, training, validation)

    def embeddings(self) -> np.ndarray:
        """Embed all images by the network without its head, float64 (n, d)."""
        body = build(SPEC).to(torch.float64)
        body.load_state_dict(self.classifier.network.state_dict())
        body.set_submodule("classifier.4", nn.Identity())
        with torch.no_grad():
            images = self.classifier.preprocessing.tensor(self.pixels, torch.device("cpu"), torch.float64)
            return np.asarray(body.eval()(images))


def least_squares(x: np.ndarray, labels: np.ndarray, lambda_: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit with a penalty of λn times the mean variance on the squared weights, by extra rows of the system."""
    z = x - x.mean(axis=0)
    y = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    rows = np.vstack([z, np.sqrt(lambda_ * x.var(axis=0).mean() * len(x)) * np.eye(x.shape[1])])
    right = np.vstack([y - y.mean(axis=0), np.zeros((x.shape[1], 3))])
    found = np.linalg.lstsq(rows, right, rcond=None)[0]
    return found, y.mean(axis=0) - x.mean(axis=0) @ found


@pytest.mark.parametrize(("n_validation", "noise"), [(30, 200), (3, 60)], ids=["doubtful", "all right"])
def test_a_head_is_the_ridge_classifier_with_the_best_scale(world: World, n_validation: int, noise: int) -> None:
    made = Made(60, n_validation, noise)
    fitted = made.fit(world)
    assert len(set(world.all_gather(fitted.weight.tobytes() + fitted.bias.tobytes()))) == 1
    x, labels = made.embeddings(), made.labels
    held_out, true = x[60:], labels[60:]
    paths = [least_squares(x[:60], labels[:60], lambda_) for lambda_ in LAMBDAS]
    correct = [int(((held_out @ w + b).argmax(axis=1) == true).sum()) for w, b in paths]
    best = max(range(len(LAMBDAS)), key=lambda i: (correct[i], LAMBDAS[i]))
    assert fitted.figures["lambda"] == LAMBDAS[best]
    assert fitted.figures["validation_accuracy"] == correct[best] / n_validation
    scale = fitted.figures["scale"]
    weight, bias = paths[best]
    assert np.allclose(fitted.weight, scale * weight.T, rtol=1e-6, atol=1e-9)
    assert np.allclose(fitted.bias, scale * bias, rtol=1e-6)
    scores, truth = torch.from_numpy(held_out @ weight + bias), torch.from_numpy(true)
    assert fitted.figures["validation_loss"] == pytest.approx(
        float(cross_entropy(scale * scores, truth)), rel=1e-6
    )
    smoothing = 1 / (n_validation + 1)
    losses = [
        float(cross_entropy(factor * scale * scores, truth, label_smoothing=smoothing))
        for factor in (0.98, 1.0, 1.02)
    ]
    assert min(losses) == losses[1]
    assert scale > 1


@pytest.mark.parametrize(("sizes", "what"), [((0, 9, 60), "training"), ((9, 0, 60), "validation")])
def test_without_images_there_is_no_head(world: World, sizes: tuple[int, int, int], what: str) -> None:
    with pytest.raises(AgreedError, match=f"no usable {what} image is left") as caught:
        Made(*sizes).fit(world)
    assert caught.value.exit_code == InputError.exit_code


def test_heads_that_cannot_be_fitted_are_refused() -> None:
    check_head(nn.Linear(1280, 1000, device="meta"))
    with pytest.raises(
        InputError, match=r"1,280 values per image and 64,500 classes would take matrices of 8.0 GiB"
    ):
        check_head(nn.Linear(1280, 64_500, device="meta"))
    with pytest.raises(InputError, match=r"matrices of 5.7 GiB, of 2 GiB allowed"):
        check_head(nn.Linear(27_648, 10, device="meta"))
    with pytest.raises(InputError, match="has no bias; leave the flag out"):
        check_head(nn.Linear(1280, 3, bias=False))


def test_a_run_begins_with_the_head_that_was_fitted(world: World, tmp_path: Path) -> None:
    weights = world.at_root(lambda: tmp_path / "weights.pt")
    if world.is_root:
        torch.manual_seed(2)
        torch.save(build(SPEC).state_dict(), weights)
    world.meet()
    flags = ["--limit", "150", "--weights", str(weights), "--head", "ridge", "--threads", "1", "--quiet"]
    flags += ["--device", "cpu", "--out", str(tmp_path / "run")]
    made = TrainingRun(world, flags)
    figures = made._trainer.progress.ridge_head
    made.validate()
    if world.is_root:
        assert made._validated is not None
        assert made._validated.loss == pytest.approx(figures["validation_loss"], rel=1e-4)
        accuracy = made._validated.evaluation.confusion.accuracy()
        assert accuracy == pytest.approx(figures["validation_accuracy"])
        assert accuracy > 0.8
    world.meet()
