"""The estimators of scikit-learn: against scikit-learn's own, exact sums, and its checks of estimators."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from common.estimators import FeatureMapTransformer, MomentsRidgeClassifierCV

LAMBDAS = np.logspace(-3, 4, 8)
RNG = np.random.default_rng(19)


@parametrize_with_checks(
    [MomentsRidgeClassifierCV(), MomentsRidgeClassifierCV(cv=None), FeatureMapTransformer("random:20")]
)
def test_scikit_learn_finds_nothing_to_complain_about(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    X, y = load_digits(return_X_y=True)
    return X.astype(np.uint8), y


def problems() -> list[Any]:
    X, y = make_classification(600, 20, n_informative=8, n_classes=4, random_state=0)
    two = make_classification(300, 12, random_state=1)
    return [
        pytest.param(X, y, id="floats"),
        pytest.param(X + 1e4, y, id="floats far from 0"),
        pytest.param(X.astype(np.float32), np.array(list("abcd"))[y], id="float32, text"),
        pytest.param(two[0], two[1].astype(bool), id="two classes"),
        pytest.param(load_digits().data.astype(np.uint8), load_digits().target, id="bytes"),
        pytest.param(load_digits().data.astype(np.int64), load_digits().target, id="whole numbers"),
    ]


@pytest.mark.parametrize(("X", "y"), problems())
@pytest.mark.parametrize("lambda_", [0.01, 10.0, 1e4])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_weights_are_those_of_scikit_learn(X: Any, y: Any, lambda_: float, fit_intercept: bool) -> None:
    ours = MomentsRidgeClassifierCV([lambda_], fit_intercept=fit_intercept).fit(X, y)
    exact = X.astype(np.float64)
    theirs = RidgeClassifier(lambda_, fit_intercept=fit_intercept, solver="svd").fit(exact, y)
    scale = np.abs(theirs.coef_).max()
    far = abs(exact.mean()) > 1000
    if fit_intercept or not far:
        np.testing.assert_allclose(ours.coef_, np.atleast_2d(theirs.coef_), atol=(1e-7 if far else 1e-9) * scale)
        np.testing.assert_allclose(
            ours.decision_function(X), theirs.decision_function(exact), atol=1e-5 if far else 1e-8
        )
    assert (ours.predict(X) == theirs.predict(exact)).mean() > 0.999


@pytest.mark.parametrize(("X", "y"), problems())
def test_leaving_one_out_scores_as_scikit_learn_does(X: Any, y: Any) -> None:
    ours = MomentsRidgeClassifierCV(LAMBDAS, cv=None).fit(X, y)
    theirs = RidgeClassifierCV(LAMBDAS).fit(X.astype(np.float64), y)
    assert ours.lambda_ == theirs.alpha_
    assert ours.cv_scores_.max() == pytest.approx(theirs.best_score_, rel=1e-5)


@pytest.mark.parametrize(("X", "y"), problems())
def test_folds_score_as_a_search_does(X: Any, y: Any) -> None:
    for cv in (4, KFold(3, shuffle=True, random_state=0), ShuffleSplit(3, random_state=0)):
        ours = MomentsRidgeClassifierCV(LAMBDAS, cv=cv).fit(X, y)
        theirs = GridSearchCV(RidgeClassifier(solver="svd"), {"alpha": LAMBDAS}, cv=cv).fit(
            X.astype(np.float64), y
        )
        np.testing.assert_allclose(ours.cv_scores_, theirs.cv_results_["mean_test_score"], atol=0.003)
        tied = np.isclose(theirs.cv_results_["mean_test_score"], theirs.best_score_, atol=0.003)
        assert ours.lambda_ in LAMBDAS[tied]


def test_leaving_one_out_is_what_it_says(digits: Any) -> None:
    X, y = digits[0][:60] / 16, digits[1][:60] % 3
    for penalty in ("sum", "mean", "scaled"):
        for scoring in ("accuracy", "neg_mean_squared_error"):
            fast = MomentsRidgeClassifierCV([0.5], cv=None, scoring=scoring, penalty=penalty).fit(X, y)
            found = cross_val_predict(
                MomentsRidgeClassifierCV([0.5], penalty=penalty),
                X,
                y,
                cv=LeaveOneOut(),
                method="decision_function",
            )
            targets = np.where(y[:, None] == np.arange(3), 1.0, -1.0)
            error = -np.square(found - targets).mean()
            score = (found.argmax(axis=1) == y).mean() if scoring == "accuracy" else error
            exact = penalty == "sum"  # leaving out a row changes n, and the deviations, of the others
            assert fast.cv_scores_[0] == pytest.approx(score, rel=1e-9 if exact else 0.05)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_rows_are_added_and_taken_away(kind: str, digits: Any) -> None:
    X, y = digits
    X = X if kind == "bytes" else X / 16
    close: dict[str, Any] = {"rtol": 0, "atol": 0} if kind == "bytes" else {"rtol": 1e-9, "atol": 1e-12}
    whole = MomentsRidgeClassifierCV(LAMBDAS).partial_fit(X, y)
    order = RNG.permutation(len(X))
    parts = MomentsRidgeClassifierCV(LAMBDAS)
    for rows in np.array_split(order, 9):
        parts.partial_fit(X[rows], y[rows], classes=np.arange(10))
    np.testing.assert_allclose(parts.coef_, whole.coef_, **close)
    np.testing.assert_allclose(parts.cv_scores_, whole.cv_scores_, **close)
    left = order[300:]
    parts.partial_unfit(X[order[:300]], y[order[:300]])
    never = MomentsRidgeClassifierCV(LAMBDAS).fit_batches(
        [(X[left[:700]], y[left[:700]]), (X[left[700:]], y[left[700:]])]
    )
    np.testing.assert_allclose(parts.coef_, never.coef_, **close)
    assert parts.lambda_ == never.lambda_
    np.testing.assert_allclose(parts.decision_function(X), never.decision_function(X), **close)


def test_scores_of_sums_are_those_of_rows(digits: Any) -> None:
    from common.estimators.folds import folds_of

    X, y = digits
    folds = folds_of(X, 5)
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(5)]
    sums = MomentsRidgeClassifierCV(LAMBDAS).partial_fit(X, y)
    rows = MomentsRidgeClassifierCV(LAMBDAS, cv=splits, scoring="neg_mean_squared_error").fit(X, y)
    np.testing.assert_allclose(sums.cv_scores_, rows.cv_scores_, rtol=0.01)  # of all rows, and of folds
    assert sums.lambda_ == rows.lambda_
    np.testing.assert_array_equal(sums.coef_, rows.coef_)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layout_of_rows_does_not_matter(order: Any, digits: Any, tmp_path: Any) -> None:
    X, y = digits
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", X.dtype, X.shape, fortran_order=order == "F")
    mapped[...] = X
    expected = MomentsRidgeClassifierCV(LAMBDAS).fit(X, y)
    for rows, labels in ((mapped, y), (np.asarray(X, order=order), y), (X[::-1], y[::-1])):
        found = MomentsRidgeClassifierCV(LAMBDAS, cv=StratifiedKFold(5)).fit(rows, labels)
        assert found.lambda_ == expected.lambda_
        np.testing.assert_array_equal(found.coef_, expected.coef_)


def test_splits_that_repeat_rows_are_fitted_as_they_are(digits: Any) -> None:
    X, y = digits
    order = RNG.permutation(len(X))
    test, train = order[:300], np.repeat(order[300:1049], 2)[: len(X) - 300]
    found = MomentsRidgeClassifierCV(LAMBDAS, cv=[(train, test), (test, order[300:])]).fit(X, y)
    expected = [
        [MomentsRidgeClassifierCV([value]).fit(X[own], y[own]).score(X[held], y[held]) for value in LAMBDAS]
        for own, held in ((train, test), (test, order[300:]))
    ]
    np.testing.assert_allclose(found.cv_scores_, np.mean(expected, axis=0))


def test_a_refused_update_changes_nothing(digits: Any) -> None:
    X, y = digits
    model = MomentsRidgeClassifierCV(LAMBDAS).partial_fit(X[:500], y[:500])
    before = model.coef_
    for rows in (slice(400, 600), slice(500, 510)):
        with pytest.raises(ValueError, match="that were not added"):
            model.partial_unfit(np.tile(X[rows], (6, 1)), np.tile(y[rows], 6))
    np.testing.assert_array_equal(
        model.partial_fit(X[500:510], y[500:510]).partial_unfit(X[500:510], y[500:510]).coef_, before
    )
    with pytest.raises(NotFittedError):
        MomentsRidgeClassifierCV(class_weight="balanced").coef_  # noqa: B018
    weighted, weights = MomentsRidgeClassifierCV(LAMBDAS), np.full(500, 0.1)
    weighted.partial_fit(X[:500] / 16, y[:500], sample_weight=weights)
    weighted.partial_unfit(X[:500] / 16, y[:500], sample_weight=weights)
    with pytest.raises(ValueError, match="all rows were taken away"):
        weighted.predict(X / 16)


def test_weights_of_rows_are_repetitions(digits: Any) -> None:
    X, y = digits[0] / 16, digits[1]
    times = RNG.integers(0, 4, len(X))
    repeated = MomentsRidgeClassifierCV([1.0]).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    weighted = MomentsRidgeClassifierCV([1.0]).fit(X, y, sample_weight=times)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-8, atol=1e-10)
    by_class = MomentsRidgeClassifierCV([1.0], class_weight={3: 2.5}).fit(X, y)
    by_row = MomentsRidgeClassifierCV([1.0]).fit(X, y, sample_weight=np.where(y == 3, 2.5, 1))
    np.testing.assert_array_equal(by_class.coef_, by_row.coef_)
    theirs = RidgeClassifier(1.0, class_weight="balanced", solver="svd").fit(X, y)
    ours = MomentsRidgeClassifierCV([1.0], class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-7, atol=1e-9)


def test_pipelines_clones_and_pickles(digits: Any) -> None:
    X, y = digits
    model = make_pipeline(
        FeatureMapTransformer("patches:8+random:100", shape=(8, 8)), MomentsRidgeClassifierCV((1e3, 1e5))
    ).fit(X[:1000], y[:1000])
    assert model.score(X[1000:], y[1000:]) > 0.9
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(clone(model).fit(X[:1000], y[:1000]).predict(X), model.predict(X))
    assert list(model[0].get_feature_names_out()[:2]) == ["featuremaptransformer0", "featuremaptransformer1"]
    batches = [model[0].transform(part) for part in np.array_split(X, 50)]
    np.testing.assert_array_equal(np.concatenate(batches), model[0].transform(X))
    scaled = make_pipeline(StandardScaler(), MomentsRidgeClassifierCV(LAMBDAS)).fit(X, y)
    assert scaled.score(X, y) > 0.93


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambdas": []}, "a list of numbers"),
        ({"lambdas": [-1]}, "not negative"),
        ({"lambdas": [np.nan]}, "finite"),
        ({"lambdas": [0, 1], "cv": None}, "has a 0"),
        ({"penalty": "max"}, "penalty='max' is none of sum, mean, scaled"),
        ({"scoring": "roc_auc"}, "scoring='roc_auc' is none of accuracy"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str, digits: Any) -> None:
    with pytest.raises(ValueError, match=message):
        MomentsRidgeClassifierCV(**settings).fit(*digits)


def test_updates_that_make_no_sense_are_refused(digits: Any) -> None:
    X, y = digits
    with pytest.raises(ValueError, match="there are no rows to take away"):
        MomentsRidgeClassifierCV().partial_unfit(X, y)
    model = MomentsRidgeClassifierCV().partial_fit(X[:500], y[:500])
    with pytest.raises(ValueError, match="that were not added"):
        model.partial_unfit(np.tile(X, (2, 1)), np.tile(y, 2))
    with pytest.raises(ValueError, match="label 77"):
        model.partial_fit(X[:2], [1, 77])
    with pytest.raises(ValueError, match="have to be"):
        model.partial_fit(X[:2] / 2, y[:2])
    model.partial_unfit(X[:500], y[:500])
    with pytest.raises(ValueError, match="all rows were taken away"):
        model.predict(X)
    for settings, message in (
        ({"scoring": "accuracy"}, "needs the rows again"),
        ({"class_weight": "balanced"}, "all rows at once"),
    ):
        with pytest.raises(ValueError, match=message):
            MomentsRidgeClassifierCV(**settings).partial_fit(X, y)
    for cv in (None, 1, KFold(3)):
        assert not hasattr(MomentsRidgeClassifierCV(cv=cv), "partial_fit")
        with pytest.raises(AttributeError):
            MomentsRidgeClassifierCV(cv=cv).fit_batches([(X, y)])
    with pytest.raises(ValueError, match="no batch"):
        MomentsRidgeClassifierCV().fit_batches(iter(()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "circles:3"}, "is none of pixels"),
        ({"features": "random:5", "shape": (3, 3)}, "has 9 values, and a row 64"),
        ({"features": "patches:4", "shape": (64, 1)}, "do not fit images of 64×1"),
    ],
)
def test_maps_are_checked(settings: dict[str, Any], message: str, digits: Any) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureMapTransformer(**settings).fit(digits[0])
