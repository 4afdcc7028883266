"""Problem and Fit: the input and the output of every ridge fit, whatever engine computes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.arrays import Labels
from common.console import Console
from common.data.catalogue import Skipped
from common.data.images import Block, Images
from common.data.labelled import HOLD_OUT, check_skipped
from common.data.splits import ALWAYS_TRAINING, FoldRule
from common.errors import InputError
from common.features.augmentation import AS_IT_IS, Augmentation
from common.features.feature_map import FeatureMap, Shape
from common.features.pixels import PIXELS, RawPixels
from common.features.stored import StoredFeatures
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments, Moments, fingerprint, packed_bytes
from common.ridge.path import RidgePath, best_lambda

MAX_MOMENTS_BYTES = 2 << 30
"""The largest size of all moments: they travel between processes as one record, which engines cap at 2 GiB."""

MAX_KEPT_BYTES = 256 << 20
"""The largest size of the features that a process keeps from the moments to the validation, unless set."""

MAX_PACKED_BYTES = MAX_MOMENTS_BYTES // 2
"""The largest size of all moments as they travel, half of each symmetric matrix; see moments.packed_bytes."""

DEFAULT_LAMBDAS = tuple(float(value) for value in np.logspace(-5, 5, 10))
"""The grid of λ unless another is given."""


@dataclass(frozen=True)
class Problem:
    """A one-vs-all ridge classifier to fit at every λ of a grid, λ being chosen on held-out images.

    Attributes:
        images: training and validation images, each with the fold that it validates.
        rule: how images are held out.
        lambdas: the grid, for features in [0, 1].
        penalty: "sum", "mean" or "scaled"; see penalty.penalty_weight.
        features: computes the features of images.
        augmentation: the variants of each image that are fitted with it; none of them validates.
        max_skipped: the share of images that may be skipped.
        most_kept: the largest size, in bytes, of the features of images that validate that a process keeps.
        most_moments: the largest size of all moments in bytes; an engine that spreads them over processes sets it.
    """

    images: Images
    rule: FoldRule = HOLD_OUT
    lambdas: tuple[float, ...] = DEFAULT_LAMBDAS
    penalty: str = "sum"
    features: FeatureMap = PIXELS
    augmentation: Augmentation = AS_IT_IS
    max_skipped: float = 0.01
    most_kept: int = MAX_KEPT_BYTES
    most_moments: int = MAX_MOMENTS_BYTES

    @property
    def stored(self) -> StoredFeatures | None:
        """The map, if the images are features that were stored in their place."""
        return self.features if isinstance(self.features, StoredFeatures) else None

    @property
    def image_shape(self) -> Shape:
        """(height, width, channels) of the images, also if only their features are there."""
        return self.images.shape if self.stored is None else self.stored.image_shape

    @property
    def names_wanted(self) -> bool:
        """True if blocks should have names: a network may fail on an image, which the error then names."""
        return not self.features.exact

    @property
    def n_features(self) -> int:
        """The number of features of an image, d."""
        return self.features.n_features(self.images.shape)

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self.images.class_names)

    @property
    def folds(self) -> tuple[int, ...]:
        """The numbers of all folds, ALWAYS_TRAINING included if some images validate none."""
        return tuple(range(self.rule.k)) if self.rule.k else (ALWAYS_TRAINING, 0)

    @property
    def moments_bytes(self) -> int:
        """The size of the moments of all folds when they travel between processes."""
        return len(self.folds) * packed_bytes(self.n_features, self.n_classes)

    def keeps(self, processes: int = 1) -> bool:
        """Return whether processes that share the images keep the features of those that validate.

        They do if the features fit, and are computed: keeping them costs less than computing them again.
        """
        if isinstance(self.features, RawPixels | StoredFeatures):
            return False
        n_held_out = len(self.images) - (0 if self.rule.k else self.images.n_sampled)
        return n_held_out * self.n_features <= self.most_kept * processes

    def n_fitted(self, moments: Moments) -> int:
        """Return the number of images that were summed, not counting their variants."""
        return moments.n // self.augmentation.n_variants

    def check_size(self) -> None:
        """Refuse matrices that no driver can hold.

        Raises:
            InputError: says how large they would be.
        """
        self.check_width(self.n_features)

    def check_width(self, d: int) -> None:
        """Refuse d features as `check_size` does, before a map of so many is learnt.

        Raises:
            InputError: says how large the matrices would be.
        """
        n_classes, n_lambdas, n_paths = self.n_classes, len(self.lambdas), self.rule.k or 1
        moments = 8 * d * (d + n_classes) * len(self.folds)
        path = 8 * d * n_classes * n_lambdas * n_paths
        if moments > self.most_moments or path > MAX_MOMENTS_BYTES:
            height, width, channels = self.image_shape
            elsewhere = ", or gram.py or ridge_data_parallel.py, which lay moments out in tiles"
            raise InputError(
                f"images of {height}x{width}x{channels} have {d:,} features: their moments would "
                f"take {moments / 2**30:.1f} GiB, of {self.most_moments / 2**30:.3g} GiB allowed, and the weights "
                f"of {n_lambdas} λ for {n_classes:,} classes {path / 2**30:.1f} GiB, of "
                f"{MAX_MOMENTS_BYTES / 2**30:g} GiB; use fewer --features, --size, --grey, fewer --folds or "
                f"--lambdas{elsewhere if self.most_moments == MAX_MOMENTS_BYTES else ''}"
            )

    def load(self, console: Console) -> Block:
        """Read all images into this process, with a progress bar.

        Raises:
            InputError: too many images had to be skipped.
        """
        with console.bar(len(self.images), "img") as advance:
            loaded = self.images.load(advance, self.names_wanted)
        self.check_skipped(loaded.skipped)
        return loaded

    def check_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Make sure that not too many images were skipped.

        Raises:
            InputError: there are more than max_skipped allows; the message lists them.
        """
        check_skipped(skipped, len(self.images), "training", self.max_skipped)

    def check_folds(self, readable: Iterable[int]) -> None:
        """Make sure that every fold kept images to train on or to validate with.

        Args:
            readable: the fold numbers of images that could be read.

        Raises:
            InputError: a fold lost all of its images.
        """
        if set(readable) != set(self.folds):
            raise InputError(
                "no usable image is left in one of the folds; use fewer --folds or more images, or mend them"
            )

    def best_lambda(self, correct: Labels) -> float:
        """Return the λ to choose, given the number of held-out images that each λ gets right, (n_lambdas,)."""
        return self.lambdas[best_lambda(correct, self.lambdas)]

    def model(self, fitted: RidgePath, lambda_: float) -> RidgeModel:
        """Make a classifier of a path of length one."""
        return RidgeModel(
            weights=fitted.weights[0],
            intercept=fitted.intercepts[0],
            class_names=self.images.class_names,
            class_ids=self.images.class_ids,
            shape=self.image_shape,
            pixel_format=self.images.pixel_format,
            lambda_=lambda_,
            penalty=self.penalty,
            features=self._image_features,
        )

    def scoring(self, model: RidgeModel) -> RidgeModel:
        """Return a model of this problem as it scores this problem's images, which may be stored features."""
        return model if self.stored is None else model.of_stored(self.stored)

    @property
    def _image_features(self) -> FeatureMap:
        """The map that computes features of images."""
        return self.features if self.stored is None else self.stored.computed_by


@dataclass(frozen=True)
class Fit:
    """A fitted classifier, and how its λ was chosen.

    Attributes:
        model: fitted at the chosen λ to training and validation images together.
        n_fitted: the number of images that the model was fitted to.
        n_validation: the number of held-out images scored to choose λ.
        correct: the number of them that each λ classifies correctly, int64 (n_lambdas,).
        moments: the moments of the images, by fold; None if the engine keeps them on its workers.
        products: the names of what multiplied features to moments; see gram.GramProduct.
        skipped: images that could not be used.
        details: further results of the engine, as entries of metrics.json.
        exact: the exact fit to the same problem, if this one is an approximation.
        moments_sha256: the fingerprint of the moments, if the engine has that and not the moments.
    """

    model: RidgeModel
    n_fitted: int
    n_validation: int
    correct: Labels
    moments: FoldMoments | None = None
    products: frozenset[str] = frozenset()
    skipped: Sequence[Skipped] = ()
    details: dict[str, Any] = field(default_factory=dict)
    exact: Fit | None = None
    moments_sha256: str | None = None

    def fingerprint(self) -> str | None:
        """Return the fingerprint of the moments; None if the engine keeps them on its workers."""
        return self.moments_sha256 if self.moments is None else fingerprint(self.moments)
