"""How λ weighs on the weights: the penalties that ridge regression can add to its squared errors."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from common.arrays import Floats

INTENSITY = 255.0
"""The largest feature: features divided by it lie in [0, 1]."""

PENALTIES = ("sum", "mean", "scaled")


class Sums(Protocol):
    """The moments that intercepts depend on; see Moments."""

    @property
    def n(self) -> float:
        """The number of images, or the sum of their weights."""
        ...

    @property
    def sum_x(self) -> Floats:
        """Σx, float64 (d,)."""
        ...

    @property
    def sum_y(self) -> Floats:
        """Σy, float64 (n_classes,)."""
        ...


class CentredSums(Sums, Protocol):
    """Moments that a system can be made of."""

    def centred(self) -> tuple[Floats, Floats]:
        """Return XᵀX and XᵀY of features and targets whose means have been subtracted, as arrays of their own."""
        ...


def penalty_weight(lambda_: float, penalty: str, n: float) -> float:
    """Return the number to add to the diagonal of the Gram matrix of 0-to-255 features, scaled by `feature_scale`.

    "sum" minimises ‖Xw − y‖² + λ‖w‖². "mean" minimises ‖Xw − y‖²/n + λ‖w‖², which is "sum" at nλ. "scaled" is
    "mean" for features that are divided by their standard deviations.
    """
    if penalty == "scaled":
        return lambda_ * n
    return lambda_ * INTENSITY**2 * {"sum": 1, "mean": n}[penalty]


def feature_scale(diagonal: Floats, penalty: str, n: float) -> Floats | None:
    """Return what to multiply features by before λ weighs on their weights, float64 (d,); None if by nothing.

    Features that never change are multiplied by 0, so that they have no weight.

    Args:
        diagonal: of the centred Gram matrix, float64 (d,).
        penalty: "sum", "mean" or "scaled".
        n: the number of images.
    """
    if penalty != "scaled":
        return None
    return np.sqrt(np.divide(n, diagonal, out=np.zeros(len(diagonal)), where=diagonal > 0))


def centred_system(moments: CentredSums, penalty: str) -> tuple[Floats, Floats, Floats | None]:
    """Return the centred Gram matrix and cross products of scaled features, and their scale.

    Args:
        moments: moments of the training images.
        penalty: "sum", "mean" or "scaled".

    Returns:
        float64 (d, d), float64 (d, n_classes), and what `feature_scale` returns.
    """
    gram, cross = moments.centred()
    scale = feature_scale(gram.diagonal(), penalty, moments.n)
    if scale is not None:
        gram *= scale[:, None]
        gram *= scale
        cross *= scale[:, None]
    return gram, cross, scale


def times_scale(x: Floats, scale: Floats | None) -> Floats:
    """Return x (…, d, k) with each row multiplied by the scale of its feature.

    So weights of scaled features become weights of features as they are: xᵀS w = xᵀ(S w).
    """
    return x if scale is None else x * scale[:, None]
