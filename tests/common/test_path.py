from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.arrays import Labels, Pixels
from common.features.pixels import PIXELS
from common.ridge.moments import Moments
from common.ridge.path import RidgePath, Spectrum, best_lambda, ridge_fit, ridge_fits, ridge_path, with_intercepts
from common.ridge.penalty import penalty_weight

RNG = np.random.default_rng(3)
LAMBDAS = [float(v) for v in np.logspace(-5, 5, 10)]


def images(n: int = 600, n_classes: int = 4) -> tuple[Pixels, Labels]:
    """Correlated pixels, two that never change and two that are equal: a singular Gram matrix."""
    labels = RNG.integers(0, n_classes, n)
    values = RNG.normal(size=(n, 8)) @ RNG.normal(size=(8, 40)) * 20 + 10 * labels[:, None] + 120
    pixels = np.clip(values + RNG.normal(size=values.shape) * 10, 0, 255).astype(np.uint8)
    pixels[:, [3, 17]] = 0, 255
    pixels[:, 5] = pixels[:, 6]
    return pixels.reshape(n, 8, 5, 1), labels


def reference(pixels: Pixels, labels: Labels, lambda_: float, n_classes: int = 4) -> Ridge:
    x = pixels.reshape(len(pixels), -1) / 255
    return Ridge(alpha=lambda_, solver="svd").fit(x, np.where(labels[:, None] == np.arange(n_classes), 1.0, -1.0))


def relative_error(weights: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(weights - truth).max() / np.abs(truth).max())


@pytest.mark.parametrize("n", [600, 30])  # also with fewer images than pixels
def test_path_and_fit_and_inverse_agree_with_scikit_learn_at_every_lambda(n: int) -> None:
    pixels, labels = images(n)
    moments = Moments.of(pixels, labels, 4)
    path = ridge_path(moments, LAMBDAS)
    spectrum = Spectrum.of(*moments.centred())
    for i, lambda_ in enumerate(LAMBDAS):
        truth = reference(pixels, labels, lambda_)
        assert relative_error(path.weights[i], truth.coef_.T) < 1e-8
        np.testing.assert_allclose(path.intercepts[i], truth.intercept_, rtol=1e-7, atol=1e-7)
        assert relative_error(ridge_fit(moments, lambda_).weights[0], truth.coef_.T) < 1e-8
        weight = penalty_weight(lambda_, "sum", moments.n)
        rows = [spectrum.inverse_rows(weight, part) for part in (slice(0, 7), slice(7, 40))]
        by_rows = with_intercepts(moments, (np.concatenate(rows) @ spectrum.cross)[None])
        assert relative_error(by_rows.weights[0], truth.coef_.T) < 1e-6


def test_lambda_zero_gives_the_least_squares_solution_of_least_norm() -> None:
    pixels, labels = images()
    moments = Moments.of(pixels, labels, 4)
    x = pixels.reshape(600, -1) / 255
    y = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    truth = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=1e-9)[0]
    for fitted in (ridge_path(moments, [0.0]), ridge_fit(moments, 0.0)):
        assert relative_error(fitted.weights[0], truth) < 1e-6


def test_the_mean_penalty_is_the_sum_at_n_times_lambda() -> None:
    pixels, labels = images()
    moments = Moments.of(pixels, labels, 4)
    a = ridge_path(moments, [0.5], "mean").weights
    assert relative_error(a, ridge_path(moments, [0.5 * 600], "sum").weights) < 1e-12
    assert relative_error(ridge_fit(moments, 0.5, "mean").weights, a) < 1e-9


@pytest.mark.parametrize("n", [600, 30])
def test_the_scaled_penalty_is_the_mean_of_standardised_features(n: int) -> None:
    pixels, labels = images(n)
    moments = Moments.of(pixels, labels, 4)
    y = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    lambdas = [1e-4, 0.01, 3.0]
    path = ridge_path(moments, lambdas, "scaled")
    for i, lambda_ in enumerate(lambdas):
        truth = make_pipeline(StandardScaler(), Ridge(alpha=n * lambda_, solver="svd"))
        truth.fit(pixels.reshape(n, -1) / 255, y)
        weights = (truth[1].coef_ / truth[0].scale_).T
        assert relative_error(path.weights[i], weights) < 1e-8
        assert relative_error(ridge_fit(moments, lambda_, "scaled").weights[0], weights) < 1e-8
        scores = truth.predict(pixels.reshape(n, -1) / 255)
        np.testing.assert_allclose(path.scores(PIXELS(pixels))[:, i], scores, atol=1e-7)


def test_the_scaled_penalty_does_not_depend_on_the_units_of_a_feature() -> None:
    pixels, labels = images()
    halved = pixels // 2
    mixed = halved.copy()
    mixed[:, ::2] *= 2  # every other row in other units
    one, other = (ridge_path(Moments.of(x, labels, 4), [0.01], "scaled") for x in (halved, mixed))
    np.testing.assert_allclose(one.scores(PIXELS(halved)), other.scores(PIXELS(mixed)), atol=1e-9)
    one, other = (ridge_path(Moments.of(x, labels, 4), [0.01], "mean") for x in (halved, mixed))
    assert np.abs(one.scores(PIXELS(halved)) - other.scores(PIXELS(mixed))).max() > 1e-3


def test_without_lambda_the_scaled_penalty_is_least_squares() -> None:
    pixels, labels = images()
    pixels[:, 0] //= 16
    moments = Moments.of(pixels, labels, 4)
    one, other = (ridge_path(moments, [0.0], penalty) for penalty in ("sum", "scaled"))
    np.testing.assert_allclose(one.scores(PIXELS(pixels)), other.scores(PIXELS(pixels)), atol=1e-6)


def test_every_image_twice_at_twice_lambda_is_the_same_model() -> None:
    pixels, labels = images()
    moments = Moments.of(pixels, labels, 4)
    once, twice = ridge_path(moments, [3.0]), ridge_path(moments + moments, [6.0])
    assert relative_error(twice.weights, once.weights) < 1e-10
    np.testing.assert_allclose(once.intercepts, twice.intercepts, rtol=1e-9)


def test_a_pixel_more_that_never_changes_is_no_difference() -> None:
    pixels, labels = images()
    wider = np.concatenate([pixels, np.full((600, 1, 5, 1), 77, np.uint8)], axis=1)
    a = ridge_fit(Moments.of(pixels, labels, 4), 1.0)
    b = ridge_fit(Moments.of(wider, labels, 4), 1.0)
    np.testing.assert_allclose(b.weights[0, :40], a.weights[0], rtol=1e-9, atol=1e-12)
    assert np.abs(b.weights[0, 40:]).max() < 1e-12
    np.testing.assert_allclose(b.intercepts, a.intercepts, rtol=1e-9)


def test_scores_and_counts_are_those_of_the_definition() -> None:
    pixels, labels = images(2500)  # more than one block of scores
    path = ridge_path(Moments.of(pixels, labels, 4), LAMBDAS)
    x = pixels.reshape(2500, -1) / 255
    scores = np.stack([x @ w + b for w, b in zip(path.weights, path.intercepts, strict=True)], axis=1)
    np.testing.assert_allclose(path.scores(PIXELS(pixels)), scores, atol=1e-9)
    expected = (scores.argmax(axis=2) == labels[:, None]).sum(axis=0)
    assert path.count_correct(PIXELS(pixels), labels).tolist() == expected.tolist()


def test_an_image_has_the_same_scores_in_any_batch_and_order_of_summation() -> None:
    rng = np.random.default_rng(12)
    d, n_classes = 3000, 3
    x = rng.integers(0, 256, (300, d), np.uint8)
    weights = rng.normal(size=(2, d, n_classes)) * np.array([1.0, 1e-250])[:, None, None]
    weights *= 10.0 ** rng.integers(-9, 1, (d, n_classes))
    intercepts = rng.normal(size=(2, n_classes))
    path = RidgePath(weights, intercepts)
    scores = path.scores(x)
    shuffled = rng.permutation(d)
    other = RidgePath(weights[:, shuffled], intercepts).scores(np.ascontiguousarray(x[:, shuffled]))
    assert np.array_equal(other, scores)
    for rows in (1, 2, 7, 64):
        assert np.array_equal(np.concatenate([path.scores(x[i : i + rows]) for i in range(0, 300, rows)]), scores)
    for image, row in zip(x[:5], scores[:5, 0], strict=True):
        for c in range(n_classes):
            exact = math.fsum((image * (weights[0, :, c] / 255)).tolist()) + intercepts[0, c]
            assert row[c] == pytest.approx(exact, abs=1e-11)


def adversarial(n: int = 3000) -> tuple[RidgePath, Pixels]:
    """Weights whose classes tie but for the last digits of float64: float32 tells none of them apart."""
    weights = np.repeat(RNG.normal(size=(3, 40, 1)), 4, axis=2) * np.array([1e-3, 1.0, 300.0])[:, None, None]
    weights[:, :, 1] *= 1 + 1e-9
    weights[:, :, 2] *= 1 - 1e-10
    intercepts = np.repeat(RNG.normal(size=(3, 1)), 4, axis=1)
    intercepts[:, 3] += 1e-7
    return RidgePath(weights, intercepts), RNG.integers(0, 256, (n, 8, 5, 1), np.uint8)


def test_classes_and_counts_are_those_of_float64_however_close_the_scores() -> None:
    path, pixels = adversarial()
    scores = path.scores(PIXELS(pixels))
    single = scores.astype(np.float32).argmax(axis=2)
    best = scores.argmax(axis=2)
    assert (single != best).mean() > 0.3  # float32 alone would be wrong
    classes, _ = path.best_classes(PIXELS(pixels))
    assert np.array_equal(classes, best)
    labels = RNG.integers(0, 4, len(pixels))
    assert path.count_correct(PIXELS(pixels), labels).tolist() == (best == labels[:, None]).sum(axis=0).tolist()


@pytest.mark.parametrize("scale", [1e-44, 1e-39, 1e39, 1e60])
def test_weights_beyond_float32_are_scored_as_float64_scores_them(scale: float) -> None:
    pixels = RNG.integers(0, 256, (400, 8, 5, 1), np.uint8)
    path = RidgePath(RNG.normal(size=(1, 40, 4)) * scale, np.zeros((1, 4)))
    best = path.scores(PIXELS(pixels)).argmax(axis=2)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(path.best_classes(PIXELS(pixels))[0], best)
        assert path.count_correct(PIXELS(pixels), best[:, 0]).tolist() == [400]


def test_how_sure_a_class_is() -> None:
    pixels, labels = images(500)
    path = ridge_path(Moments.of(pixels, labels, 4), LAMBDAS)
    ranked = np.sort(path.scores(PIXELS(pixels)), axis=2)
    np.testing.assert_allclose(
        path.best_classes(PIXELS(pixels))[1], ranked[:, :, -1] - ranked[:, :, -2], atol=1e-3
    )


def test_no_image_has_no_class() -> None:
    path, pixels = adversarial(0)
    assert path.best_classes(PIXELS(pixels))[0].shape == (0, 3)
    assert path.count_correct(PIXELS(pixels), np.empty(0, np.int64)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("correct", "lambdas", "best"),
    [([1, 3, 2], [1, 2, 3], 1), ([3, 3, 2], [1, 2, 3], 1), ([3, 3, 3], [9, 2, 3], 0), ([0], [5], 0)],
)
def test_of_equals_the_largest_lambda_wins(correct: list[int], lambdas: list[float], best: int) -> None:
    assert best_lambda(np.array(correct), lambdas) == best


def test_fits_one_by_one_are_the_path_also_where_lambda_drowns() -> None:
    pixels, labels = images()
    moments = Moments.of(pixels, labels, 4)
    lambdas = [0.0, 1e-30, *LAMBDAS]
    found, expected = ridge_fits(moments, lambdas), ridge_path(moments, lambdas)
    for a, b in zip(found.weights, expected.weights, strict=True):
        assert relative_error(a, b) < 1e-8
    np.testing.assert_allclose(found.intercepts, expected.intercepts, rtol=1e-7, atol=1e-7)


def test_a_solver_that_gives_up_is_replaced() -> None:
    pixels, labels = images()
    moments = Moments.of(pixels, labels, 4)
    asked = []

    def refuse(system: np.ndarray, right: np.ndarray) -> np.ndarray:
        asked.append((system.shape, right.shape))
        np.testing.assert_allclose(system, system.T, rtol=1e-14)
        assert (system.diagonal() == 1).all()
        raise np.linalg.LinAlgError

    found = ridge_fits(moments, [1.0, 10.0], solve=refuse)
    assert asked == [((40, 40), (40, 4))] * 2
    assert relative_error(found.weights, ridge_path(moments, [1.0, 10.0]).weights) < 1e-12
