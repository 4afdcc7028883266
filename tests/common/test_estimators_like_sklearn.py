"""Scikit-learn's own tests of its ridge classifiers, run on ours.

The functions are those that scikit-learn installs. Our classes stand in for its own, under its names of
parameters, and with the weights of two classes as (d,), which scikit-learn documents as (1, d).

What does not apply, and why:

- sparse rows, and more than one label per row: neither is supported, and scikit-learn's checks of estimators see
  that both are refused;
- the array API: rows are NumPy's;
- `store_cv_results` and `cv_results_`: scores of single rows are not kept; `cv_scores_` has their means;
- callables as `scoring`: scores come from sums or from both products, and are two;
- equal scores: the largest λ is taken, and theirs is the first;
- alphas that are no list, and types of λ: messages name `lambdas`, and any number will do;
- λ near 0 where there are as few rows as columns: scikit-learn expects its own class to fail there.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from sklearn.linear_model.tests import test_ridge as theirs
from sklearn.model_selection import KFold

from common.estimators import MomentsRidgeClassifierCV


class LikeRidgeClassifierCV(MomentsRidgeClassifierCV):
    """Ours, under the names and defaults of RidgeClassifierCV."""

    def __init__(
        self,
        alphas: Any = (0.1, 1.0, 10.0),
        *,
        fit_intercept: bool = True,
        scoring: str | None = None,
        cv: Any = None,
        class_weight: Any = None,
        store_cv_results: bool = False,
    ) -> None:
        super().__init__(alphas, cv=cv, scoring=scoring, fit_intercept=fit_intercept, class_weight=class_weight)
        self.alphas = alphas
        self.store_cv_results = store_cv_results

    @property
    def coef_(self) -> NDArray[np.float64]:
        weights = super().coef_
        return weights[0] if len(weights) == 1 else weights

    @property
    def best_score_(self) -> float:
        return float(self.cv_scores_.max())


class LikeRidgeClassifier(MomentsRidgeClassifierCV):
    """Ours at one λ, under the names and defaults of RidgeClassifier."""

    def __init__(self, alpha: float = 1.0, *, class_weight: Any = None) -> None:
        super().__init__((alpha,), cv=None, class_weight=class_weight)
        self.alpha = alpha


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let our classes stand in for scikit-learn's in its module of tests."""
    monkeypatch.setattr(theirs, "RidgeClassifierCV", LikeRidgeClassifierCV)
    monkeypatch.setattr(theirs, "RidgeClassifier", LikeRidgeClassifier)


SHAPES = [(100, 50), (50, 50), (50, 100)]


@pytest.mark.parametrize(
    ("alpha", "fit_intercept", "shape", "dtype"),
    [
        case
        for case in itertools.product([1e-16, 1e16], [True, False], SHAPES, [np.float32, np.float64])
        if case[0] > 1 or case[2] == (50, 100)
    ],
)
def test_limits_of_the_penalty(alpha: float, fit_intercept: bool, shape: tuple[int, int], dtype: Any) -> None:
    theirs.test_regularization_limits_ridge_classifier_gcv(
        alpha, "ignored", fit_intercept, shape, dtype, np.asarray
    )


@pytest.mark.parametrize("cv", [None, 3])
def test_best_score(cv: int | None) -> None:
    theirs.test_ridge_best_score(LikeRidgeClassifierCV(), make_classification, cv)


def test_classifiers() -> None:
    theirs._test_ridge_classifiers(None)


@pytest.mark.parametrize("scoring", [None, "accuracy"])
@pytest.mark.parametrize("cv", [None, KFold(5)])
def test_scoring(scoring: str | None, cv: Any) -> None:
    theirs.test_ridge_classifier_with_scoring(None, scoring, cv)


def test_class_weights() -> None:
    theirs.test_class_weights()


@pytest.mark.parametrize("reg", [LikeRidgeClassifier, LikeRidgeClassifierCV])
def test_class_weights_are_weights_of_rows(reg: Any) -> None:
    theirs.test_class_weight_vs_sample_weight(reg)


def test_class_weights_beside_a_grid() -> None:
    theirs.test_class_weights_cv()


def test_parameters_are_kept_as_they_are() -> None:
    theirs.test_ridgecv_alphas_conversion(LikeRidgeClassifierCV)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_no_penalty_is_refused_where_one_row_is_left_out() -> None:
    theirs.test_ridgecv_alphas_zero(3, LikeRidgeClassifierCV)
    with pytest.raises(AssertionError, match="lambdas has a 0"):  # refused, but not in their words
        theirs.test_ridgecv_alphas_zero(None, LikeRidgeClassifierCV)


def test_metadata_routing() -> None:
    theirs.test_metadata_routing_with_default_scoring(LikeRidgeClassifierCV)
    theirs.test_set_score_request_with_default_scoring(LikeRidgeClassifierCV(), make_classification)


def test_every_test_of_theirs_is_run_or_listed() -> None:
    """A new version of scikit-learn may bring more."""
    listed = {
        "test_ridge_gcv_cv_results_not_stored",
        "test_ridge_regression_custom_scoring",
        "test_ridge_array_api_compliance",
        "test_ridge_classifier_multilabel_array_api",
        "test_ridge_classifier_cv_store_cv_results",
        "test_ridgecv_alphas_validation",
        "test_ridgecv_alphas_scalar",
        "test_ridgeclassifier_multilabel",
    }
    run = {
        "test_regularization_limits_ridge_classifier_gcv",
        "test_ridge_best_score",
        "test_ridge_classifier_with_scoring",
        "test_class_weights",
        "test_class_weight_vs_sample_weight",
        "test_class_weights_cv",
        "test_ridgecv_alphas_conversion",
        "test_ridgecv_alphas_zero",
        "test_metadata_routing_with_default_scoring",
        "test_set_score_request_with_default_scoring",
    }
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(theirs))
    of_classifiers = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and "RidgeClassifier" in ast.dump(node)
    }
    assert of_classifiers == run | listed
