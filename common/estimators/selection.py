"""How λ is chosen: scores of held-out rows, of rows left out one at a time, and of rows that are gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.arrays import Floats, Indices, Labels
from common.estimators.row_sums import RowMoments, Rows, ThroughOrigin, batches, chunks
from common.ridge.path import RidgePath, Spectrum
from common.ridge.penalty import INTENSITY, centred_system, penalty_weight

ACCURACY, SQUARED_ERROR = "accuracy", "neg_mean_squared_error"
"""Scores, by scikit-learn's names. The second is minus the mean of (y − ŷ)² over rows and classes, y being ±1."""


def scores_of_rows(
    path: RidgePath, x: Rows, labels: Labels, rows: Indices, shift: Floats | None, scoring: str
) -> Floats:
    """Return the score of held-out rows at each λ, times their number: float64 (n_lambdas,).

    Args:
        path: fitted to the other rows, minus the shift.
        x: all rows (n, d).
        labels: their classes, int64 (n,).
        rows: positions of the held-out ones.
        shift: see RowSums.
        scoring: ACCURACY or SQUARED_ERROR.
    """
    total = np.zeros(len(path.intercepts))
    if x.dtype == np.uint8 and shift is None and scoring == ACCURACY:
        for some in chunks(rows, x.shape[1]):
            total += path.count_correct(x[some], labels[some])
        return total
    for some, z in batches(x, rows, shift):
        found = np.tensordot(z, path.weights / INTENSITY, (1, 1)) + path.intercepts  # (rows, n_lambdas, n_classes)
        if scoring == ACCURACY:
            scores = _hits(found, labels[some])
        else:
            found -= _targets(labels[some], found.shape[2])[:, None]
            scores = _minus_squares(found)
        total += scores.sum(axis=0)
    return total


def scores_of_moments(path: RidgePath, held_out: RowMoments) -> Floats:
    """Return minus the squared errors of held-out rows that are gone but for their moments: float64 (n_lambdas,).

    Σ(y − wᵀx − b)² = Σy² − 2(wᵀΣxy + bΣy) + wᵀΣxxᵀ w + 2bwᵀΣx + nb², and Σy² = n because y = ±1.
    """
    w, b = path.weights / INTENSITY, path.intercepts  # (n_lambdas, d, n_classes), (n_lambdas, n_classes)
    explained = np.einsum("ldc,dc->lc", w, held_out.cross) + b * held_out.sum_y
    gram_w = np.tensordot(w, held_out.gram, (1, 0)).transpose(0, 2, 1)
    fitted = (w * gram_w).sum(axis=1) + 2 * b * np.einsum("ldc,d->lc", w, held_out.sum_x) + held_out.n * b**2
    errors: Floats = held_out.n - 2 * explained + fitted
    return np.asarray(-errors.mean(axis=1))


def leave_one_out(
    moments: RowMoments | ThroughOrigin,
    x: Rows,
    labels: Labels,
    weights: Floats | None,
    shift: Floats | None,
    lambdas: Sequence[float],
    penalty: str,
    scoring: str,
) -> Floats:
    """Return the sum of all rows' scores at each λ, each row being left out of the fit: float64 (n_lambdas,).

    A row's residual without it is its residual e_i with it over 1 − h_ii, for

        h_ii = w_i (1/n + x̃_iᵀ (X̃ᵀWX̃ + λI)⁻¹ x̃_i)

    with centred rows x̃ (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2nd ed., 7.10).
    One eigendecomposition and a second pass over the rows serve every λ.

    Args:
        moments: of all rows.
        x: rows (n, d).
        labels: int64 (n,).
        weights: float64 (n,), or None if all are 1.
        shift: see RowSums.
        lambdas: for rows divided by 255, as those of paths.
        penalty: "sum", "mean" or "scaled".
        scoring: ACCURACY or SQUARED_ERROR.
    """
    gram, cross, scale = centred_system(moments, penalty)
    spectrum = Spectrum.of(gram, cross)
    added = np.array([penalty_weight(value, penalty, moments.n) for value in lambdas])
    reciprocals = 1 / (spectrum.eigenvalues + added[:, None])  # (n_lambdas, d)
    turned = np.einsum("ld,dc->dlc", reciprocals, spectrum.vectors.T @ cross).reshape(len(gram), -1)
    n_classes, through_origin = cross.shape[1], isinstance(moments, ThroughOrigin)
    mean, mean_y = moments.sum_x / moments.n, moments.sum_y / moments.n
    total = np.zeros(len(lambdas))
    for rows, z in batches(x, np.arange(len(x)), shift):
        z -= mean
        if scale is not None:
            z *= scale
        z = z @ spectrum.vectors
        y = _targets(labels[rows], n_classes)
        errors = (z @ turned).reshape(len(z), len(lambdas), n_classes)
        errors -= (y - mean_y)[:, None]  # with the row, and below without it
        np.square(z, out=z)
        own = 1.0 if weights is None else weights[rows][:, None]
        leverage = own * (z @ reciprocals.T + (0 if through_origin else 1 / moments.n))
        errors /= np.maximum(1 - leverage, np.finfo(float).eps)[:, :, None]
        if scoring == ACCURACY:
            scores = _hits(errors + y[:, None], labels[rows])
        else:
            scores = _minus_squares(errors)
        total += scores.sum(axis=0) if weights is None else weights[rows] @ scores
    return total


def _targets(labels: Labels, n_classes: int) -> Floats:
    y = np.full((len(labels), n_classes), -1.0)
    y[np.arange(len(labels)), labels] = 1
    return y


def _hits(found: Floats, labels: Labels) -> Floats:
    """Return 1 where predictions (rows, n_lambdas, n_classes) name the right class, else 0: (rows, n_lambdas)."""
    return np.asarray(found.argmax(axis=2) == labels[:, None], np.float64)


def _minus_squares(errors: Floats) -> Floats:
    """Return minus the mean square over classes of errors (rows, n_lambdas, n_classes): (rows, n_lambdas)."""
    return np.asarray(-np.einsum("nlc,nlc->nl", errors, errors) / errors.shape[2])
