"""Solvers against NumPy's, on systems that are well, badly and hopelessly conditioned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from common.arrays import Floats
from common.ridge import path
from common.ridge.moments import Moments
from common.ridge.path import ridge_path
from common.ridge.solvers import solve_alone, solve_by_cholesky

RNG = np.random.default_rng(12)


def system(d: int, condition: float) -> Floats:
    """Return a symmetric matrix with eigenvalues from 1 to `condition`."""
    q, _ = np.linalg.qr(RNG.standard_normal((d, d)))
    return np.asarray((q * np.geomspace(1, condition, d)) @ q.T)


@pytest.mark.parametrize("d", [1, 5, 255, 256, 700])
@pytest.mark.parametrize("condition", [1, 1e3, 1e6])
@pytest.mark.parametrize("solve", [solve_alone, solve_by_cholesky])
def test_the_residual_is_small(solve: Callable[[Floats, Floats], Floats], d: int, condition: float) -> None:
    a, b = system(d, condition), RNG.standard_normal((d, 3))
    x = solve(a.copy(), b)
    assert np.abs(a @ x - b).max() <= 1e-10 * np.abs(b).max()
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-6, atol=1e-9 * np.abs(x).max())


def test_a_column_of_zeros_is_solved_by_zeros() -> None:
    b = RNG.standard_normal((40, 3))
    b[:, 1] = 0
    assert (solve_by_cholesky(system(40, 100), b)[:, 1] == 0).all()


def test_a_singular_system_is_told() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        solve_by_cholesky(-np.eye(4), np.ones((4, 1)))


def test_many_features_are_fitted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 256, (900, 10, 10, 1), np.uint8)
    pixels[:, 0, 0] = 7  # a constant feature
    moments = Moments.of(pixels, RNG.integers(0, 3, 900), 3)
    lambdas = [1e-6, 1e-3, 1.0, 1e3]
    expected = ridge_path(moments, lambdas)
    monkeypatch.setattr(path, "MOST_DECOMPOSED", 50)
    found = ridge_path(moments, lambdas)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(found.intercepts, expected.intercepts, rtol=1e-9)
    assert np.abs(found.weights[:, 0]).max() == 0
    none = ridge_path(moments, [0.0])  # λ = 0 is left to the eigendecomposition
    np.testing.assert_allclose(none.weights[0], expected.weights[0], rtol=1e-3, atol=1e-6)
