"""MomentsRidgeClassifierCV: the ridge classifier as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import check_cv
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from common.arrays import Floats, Labels
from common.estimators.folds import added, classes_of, folds_of, partition, taken_away, total
from common.estimators.row_sums import (
    ExactSums,
    FloatSums,
    FoldedMoments,
    Rows,
    RowSums,
)
from common.estimators.selection import ACCURACY, SQUARED_ERROR, leave_one_out, scores_of_rows
from common.estimators.solution import Grid, Solution

SHIFTED_BY = 1000
"""Rows whose mean is subtracted from all rows that are no bytes, before they are summed."""


def _counts_folds(estimator: MomentsRidgeClassifierCV) -> bool:
    """Return True if rows can be added and taken away: a row's fold has to follow from its contents alone."""
    if not isinstance(estimator.cv, int) or estimator.cv < 2:
        raise AttributeError(f"cv={estimator.cv!r}: rows come and go with a number of folds from 2 on")
    return True


class MomentsRidgeClassifierCV(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One-vs-all ridge classifier whose λ is chosen by cross-validation, fitted from sums over rows.

    All folds and all λ share one pass over the rows: the sums of a fold, subtracted from those of all, leave the
    sums of the others. Nothing is as large as the rows but the rows themselves, which may be mapped from a file.
    Rows of uint8 are summed exactly, whatever their order; others in float64, right up to rounding.

    `partial_fit` adds rows and `partial_unfit` takes rows away again, without reading the others; `fit_batches`
    does the first for each batch of an iterator. What they keep of the rows are their sums. So they choose λ by
    the squared error, which sums determine, in folds that follow from the contents of rows.

    Args:
        lambdas: the grid of λ, each finite and not negative, for rows as they are.
        cv: the number of folds, a splitter or an iterable of splits, as anywhere in scikit-learn; or None to leave
            out one row at a time, which takes a second pass.
        penalty: "sum" minimises ‖Xw − y‖² + λ‖w‖², as scikit-learn does; "mean" minimises ‖Xw − y‖²/n + λ‖w‖²;
            "scaled" is "mean" for columns divided by their standard deviations.
        scoring: "accuracy", "neg_mean_squared_error", or None for the latter if rows are left out one at a time or
            are gone, and for the accuracy otherwise.
        fit_intercept: False for a model without intercepts.
        class_weight: weights of the classes, by label, or "balanced"; see scikit-learn.

    Attributes:
        classes_: the labels, in order.
        coef_: float64 (n_classes, d), or (1, d) of two classes.
        intercept_: float64 (n_classes,), or (1,) of two classes.
        lambda_: the chosen λ; of equal scores, the largest.
        cv_scores_: the mean score of held-out rows at each λ, float64 (n_lambdas,).
        n_features_in_: the number of columns, d.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> model = MomentsRidgeClassifierCV(lambdas=(1, 100, 10_000)).fit(X, y)
        >>> model.lambda_
        100.0
    """

    def __init__(
        self,
        lambdas: Sequence[float] = (0.1, 1.0, 10.0),
        *,
        cv: Any = 5,
        penalty: str = "sum",
        scoring: str | None = None,
        fit_intercept: bool = True,
        class_weight: Any = None,
    ) -> None:
        self.lambdas = lambdas
        self.cv = cv
        self.penalty = penalty
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight

    # fitting

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows.

        Args:
            X: (n, d), numbers.
            y: labels (n,): text, whole numbers or truth values.
            sample_weight: weights of rows, (n,), not negative; None if all are 1.

        Raises:
            ValueError: a parameter, a number, a label or a weight is unusable.
        """
        grid = self._grid()
        self._forget()
        x, labels = self._labelled(X, y, reset=True)
        self.classes_, labels = classes_of(labels)
        weights = self._weights(sample_weight, labels, self.classes_)
        self._start(x, weights)
        self._solution: Solution | None = self._fitted(x, labels, weights, grid)
        return self

    @available_if(_counts_folds)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Add rows to those that earlier calls have added; the first call after `fit` starts anew.

        Args:
            X: (n, d), of the same type in every call.
            y: labels (n,).
            classes: all labels there will be; the first call needs it unless its own labels are all.
            sample_weight: weights of rows; None in every call, or in none.

        Raises:
            ValueError: as `fit`, or a label is new.
        """
        return self._update(X, y, classes, sample_weight, add=True)

    @available_if(_counts_folds)  # type: ignore[untyped-decorator]
    def partial_unfit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Take rows away that were added before, with the weights that they were added with.

        The model is that of the other rows: to the last bit for uint8, up to rounding otherwise.

        Raises:
            ValueError: as `partial_fit`, or more rows than there are would be taken away.
        """
        return self._update(X, y, None, sample_weight, add=False)

    @available_if(_counts_folds)  # type: ignore[untyped-decorator]
    def fit_batches(self, batches: Iterable[Sequence[Any]], classes: ArrayLike | None = None) -> Self:
        """Fit to the batches of an iterator, each of which is (X, y) or (X, y, sample_weight).

        Args:
            batches: read once.
            classes: all labels; None if the first batch has them.

        Raises:
            ValueError: as `partial_fit`, or there is no batch.
        """
        self._forget()
        empty = True
        for x, y, *weight in batches:
            self.partial_fit(x, y, classes if empty else None, *weight)
            empty = False
        if empty:
            raise ValueError("there is no batch to fit to")
        return self

    # results

    @property
    def coef_(self) -> Floats:
        """Weights, float64 (n_classes, d), or (1, d) of two classes."""
        weights = self._solved().weights.T
        return weights[1:] if len(self.classes_) == 2 else weights

    @property
    def intercept_(self) -> Floats:
        """Intercepts, float64 (n_classes,), or (1,) of two classes."""
        intercept = self._solved().intercept
        return intercept[1:] if len(self.classes_) == 2 else intercept

    @property
    def lambda_(self) -> float:
        """The chosen λ."""
        return self._solved().lambda_

    @property
    def cv_scores_(self) -> Floats:
        """The mean score of held-out rows at each λ, float64 (n_lambdas,)."""
        return self._solved().scores

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return scores of rows: float64 (n, n_classes), or (n,) of two classes."""
        scores = self._scores(self._new_rows(X))
        return scores[:, 1] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label with the highest score of each row, (n,)."""
        x = self._new_rows(X)
        if self._is_exact(x):  # in float32 where that decides
            best = self._solved().path.best_classes(x)[0][:, 0]
        else:
            best = self._scores(x).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    # how

    def _forget(self) -> None:
        for name in ("classes_", "_sums", "_moments", "_solution"):
            self.__dict__.pop(name, None)

    def _new_rows(self, X: ArrayLike) -> Rows:
        check_is_fitted(self, "_solution")
        rows: Rows = validate_data(self, X, reset=False)
        return rows

    def _is_exact(self, x: Rows) -> bool:
        return x.dtype == np.uint8 and self._sums.shift is None

    def _scores(self, x: Rows) -> Floats:
        """Return scores of rows, float64 (n, n_classes)."""
        return self._solved().scores_of(x, self._is_exact(x))

    def _grid(self) -> Grid:
        grid = Grid.checked(self.lambdas, self.penalty, self.fit_intercept)
        if self.cv is None and not grid.lambdas.all():
            raise ValueError("lambdas has a 0, at which no row can be left out of the fit; use cv=5 or larger λ")
        if self.scoring not in (None, ACCURACY, SQUARED_ERROR):
            raise ValueError(f"scoring={self.scoring!r} is none of {ACCURACY}, {SQUARED_ERROR} and None")
        return grid

    def _labelled(self, X: ArrayLike, y: ArrayLike, reset: bool) -> tuple[Rows, NDArray[Any]]:
        x, labels = validate_data(self, X, y, reset=reset)
        check_classification_targets(labels)
        return x, column_or_1d(labels, warn=True)

    def _weights(self, sample_weight: ArrayLike | None, labels: Labels, classes: NDArray[Any]) -> Floats | None:
        """Return the weights of rows, float64 (n,); None if all are 1."""
        if sample_weight is None and self.class_weight is None:
            return None
        weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if weights.ndim == 0:
            weights = np.full(len(labels), float(weights))
        if weights.shape != labels.shape:
            raise ValueError(f"sample_weight has shape {weights.shape}, and there are {len(labels)} rows")
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("sample_weight has weights that are negative or not finite")
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, classes[labels])
        if not weights.any():
            raise ValueError("all weights are zero: sample_weight and class_weight leave no row to fit to")
        return weights

    def _start(self, x: Rows, weights: Floats | None) -> None:
        """Choose how rows are summed."""
        n_classes = len(self.classes_)
        if x.dtype == np.uint8 and weights is None:
            self._sums: RowSums = ExactSums(x.shape[1], n_classes)
        else:
            shift = x[:SHIFTED_BY].astype(np.float64).mean(axis=0) if self.fit_intercept else None
            self._sums = FloatSums(shift, n_classes)

    def _fitted(self, x: Rows, labels: Labels, weights: Floats | None, grid: Grid) -> Solution:
        of, shift = self._sums.of, self._sums.shift
        if self.cv is None:
            everything = of(x, labels, np.zeros(len(x), np.int16), weights)[0]
            scoring, system = self.scoring or SQUARED_ERROR, grid.system(everything)
            summed = leave_one_out(system, x, labels, weights, shift, grid.in_units, self.penalty, scoring)
            return grid.best(everything, summed / everything.n, shift)
        splits = list(check_cv(self.cv, labels, classifier=True).split(x, labels))
        scoring = self.scoring or ACCURACY
        scores = np.zeros((len(splits), len(grid.lambdas)))
        folds = partition(splits, len(x))
        moments = of(x, labels, np.zeros(len(x), np.int16) if folds is None else folds, weights)
        everything = total(moments)
        for fold, (train, test) in enumerate(splits):
            if folds is None:
                own = None if weights is None else weights[train]
                training = of(x[train], labels[train], np.zeros(len(train), np.int16), own)[0]
            else:
                training = everything - moments[fold]
            scores[fold] = scores_of_rows(grid.path(training), x, labels, test, shift, scoring) / len(test)
        return grid.best(everything, scores.mean(axis=0), shift)

    def _update(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, sample_weight: ArrayLike | None, add: bool
    ) -> Self:
        self._grid()
        if self.scoring == ACCURACY:
            raise ValueError(f"scoring={ACCURACY!r} needs the rows again; sums of them have {SQUARED_ERROR}")
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight={self.class_weight!r} needs all rows at once; give weights by label")
        first = "_moments" not in self.__dict__
        if first and not add:
            raise ValueError("there are no rows to take away; partial_fit adds some")
        x, y = self._labelled(X, y, reset=first)
        if first:
            self._forget()
            self.classes_, _ = classes_of(y if classes is None else np.asarray(classes))
        labels = self._known(y)
        weights = self._weights(sample_weight, labels, self.classes_)
        if first:
            self._start(x, weights)
            self._moments: FoldedMoments = {}
        if isinstance(self._sums, ExactSums) and (x.dtype != np.uint8 or weights is not None):
            raise ValueError("the first rows were uint8 without weights, and so all have to be")
        changed = self._sums.of(x, labels, folds_of(x, self.cv), weights)
        self._moments = added(self._moments, changed) if add else taken_away(self._moments, changed)
        self._solution = None
        return self

    def _known(self, y: NDArray[Any]) -> Labels:
        """Return the positions of labels among the classes."""
        found = np.searchsorted(self.classes_, y)
        found[found == len(self.classes_)] = 0
        strange = y[self.classes_[found] != y]
        if len(strange):
            raise ValueError(f"y has the label {strange[0]}, which is none of the classes; name it in `classes`")
        return found.astype(np.int64)

    def _solved(self) -> Solution:
        """Solve, if rows were added or taken away since."""
        check_is_fitted(self, "_solution")
        if self._solution is None:
            if not self._moments:
                raise ValueError("all rows were taken away; partial_fit adds some")
            self._solution = self._grid().chosen_by_moments(self._moments, self._sums.shift)
        return self._solution
