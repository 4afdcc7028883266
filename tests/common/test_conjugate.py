from __future__ import annotations

import numpy as np
import pytest

from common.ridge import conjugate
from common.ridge.conjugate import TOLERANCE, Nystrom, solve_by_gradients

RNG = np.random.default_rng(5)


def matrix(d: int) -> np.ndarray:
    x = RNG.normal(size=(2 * d, d)) * np.geomspace(1, 100, d)
    return np.asarray(x.T @ x)


@pytest.mark.parametrize("weights", [[1.0], [1e-2, 1.0, 1e4]])
def test_all_systems_are_solved_with_one_product_a_pass(weights: list[float]) -> None:
    gram, right = matrix(40), RNG.normal(size=(40, 3))
    widths = []

    def multiply(x: np.ndarray) -> np.ndarray:
        widths.append(x.shape[1])
        return np.asarray(gram @ x)

    solved = solve_by_gradients(multiply, right, weights)
    for weight, found in zip(weights, solved.weights, strict=True):
        expected = np.linalg.solve(gram + weight * np.eye(40), right)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())
    assert solved.residuals.shape == (len(weights), 3)
    assert solved.residuals.max() <= 2 * TOLERANCE
    assert solved.passes == len(widths)
    assert widths[0] == 10  # the first pass looks for large eigenvalues
    assert widths[1] == widths[-1] == 3 * len(weights)  # and the last one checks all systems
    assert widths[-2] <= widths[1]  # systems that have converged take part no more


def test_features_that_never_change_have_no_weight_even_without_a_penalty() -> None:
    gram = matrix(6)
    gram[2], gram[:, 2] = 0, 0
    right = np.where(np.arange(6)[:, None] == 2, 0, RNG.normal(size=(6, 2)))
    solved = solve_by_gradients(lambda x: gram @ x, right, [0.0])
    kept = np.delete(np.arange(6), 2)
    expected = np.linalg.solve(gram[np.ix_(kept, kept)], right[kept])
    np.testing.assert_allclose(solved.weights[0][kept], expected, rtol=1e-6)
    assert (solved.weights[0][2] == 0).all()


def test_what_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conjugate, "MOST_PASSES", 4)
    gram = matrix(40)
    solved = solve_by_gradients(lambda x: gram @ x, np.ones((40, 1)), [1e-6])
    assert solved.residuals.max() > 1e-3
    assert solved.passes == 5


def test_large_eigenvalues_are_found_and_no_longer_cost_passes() -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    eigenvalues = np.concatenate([np.geomspace(1e8, 10, 60), np.linspace(10, 1, 340)])
    gram, right = (basis * eigenvalues) @ basis.T, rng.normal(size=(400, 2))
    found = Nystrom.of(lambda x: gram @ x, 400)
    np.testing.assert_allclose(found.eigenvalues[:20], eigenvalues[:20], rtol=1e-3)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(100), atol=1e-10)
    solved = solve_by_gradients(lambda x: gram @ x, right, [1.0])
    assert solved.residuals.max() <= 2 * TOLERANCE
    assert solved.passes < 60
    np.testing.assert_allclose(solved.weights[0], np.linalg.solve(gram + np.eye(400), right), rtol=1e-5, atol=1e-7)


def test_a_matrix_of_zeros_leaves_the_penalty_alone() -> None:
    right = RNG.normal(size=(12, 2))
    solved = solve_by_gradients(np.zeros_like, right, [2.0])
    np.testing.assert_allclose(solved.weights[0], right / 2)
