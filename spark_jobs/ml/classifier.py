"""RidgeClassifierCV: the ridge classifier as an estimator of Spark ML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from common.estimators.row_sums import FoldedMoments
from common.estimators.solution import Grid
from spark_jobs.ml.columns import FeaturesColumn, check_session
from spark_jobs.ml.labels import RowColumns, labels_of
from spark_jobs.ml.model import FittedRidge, RidgeClassifierCVModel
from spark_jobs.ml.params import FitParams, PredictionParams
from spark_jobs.ml.sums import RowsPlan, sum_rows

MOST_FOLDS = 10_000
"""Folds whose moments a task may keep apart."""


class RidgeClassifierCV(
    PredictionParams,
    FitParams,
    Estimator["RidgeClassifierCVModel"],
    DefaultParamsReadable["RidgeClassifierCV"],
    DefaultParamsWritable,
):
    """One-vs-all ridge classifier whose λ is chosen by cross-validation, fitted in one pass over a DataFrame.

    Executors sum rows and send sums: all folds and all λ share them, and so do all the `ParamMap`s of a search
    that differ in λ and penalty. λ is chosen by the squared error of held-out rows, which sums tell. Bytes are
    summed exactly, whatever the partitions; other numbers in float64, right up to rounding.

    Features are vectors, arrays of numbers, or bytes, each of which is a number from 0 to 255. Labels are numbers
    or text, and predictions are of the same kind: there is no need of a StringIndexer.

    Args:
        featuresCol: see above.
        labelCol: labels; null and NaN are refused.
        predictionCol: predicted labels; "" for none.
        rawPredictionCol: scores as vectors, in the order of `model.labels`; "" for none.
        weightCol: weights of rows, not negative; None if all are 1.
        foldCol: the fold that a row validates, from 0 to numFolds − 1; None for folds that follow from the
            contents of rows.
        lambdas: the grid of λ, each finite and not negative, for features as they are.
        numFolds: the number of folds.
        penalty: "sum" minimises ‖Xw − y‖² + λ‖w‖², "mean" ‖Xw − y‖²/n + λ‖w‖², and "scaled" is "mean" for columns
            divided by their standard deviations.

    Examples:
        >>> from pyspark.ml.linalg import Vectors
        >>> rows = [(Vectors.dense(x, 1 - x), "low" if x < 0.5 else "high") for x in (0.1, 0.2, 0.7, 0.9)]
        >>> frame = spark.createDataFrame(rows, ["features", "label"])
        >>> model = RidgeClassifierCV(lambdas=[0.1], numFolds=2).fit(frame)
        >>> [row.prediction for row in model.transform(frame).collect()]
        ['low', 'low', 'high', 'high']
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        rawPredictionCol: str = "rawPrediction",
        weightCol: str | None = None,
        foldCol: str | None = None,
        lambdas: Sequence[float] = (0.1, 1.0, 10.0),
        numFolds: int = 5,
        penalty: str = "sum",
    ) -> None:
        super().__init__()
        self._setDefault(labelCol="label", lambdas=[0.1, 1.0, 10.0], numFolds=5, penalty="sum")
        self._set(**{name: value for name, value in self._input_kwargs.items() if value is not None})

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[dict[Any, Any]]
    ) -> Iterator[tuple[int, RidgeClassifierCVModel]]:
        """Fit each of several ParamMaps; those that differ in λ and penalty alone share one pass over the rows.

        Raises:
            ValueError: a Param or a column cannot be used; see `fit`.
        """
        estimators = [self.copy(params) for params in paramMaps]
        by_rows: dict[tuple[Any, ...], list[int]] = {}
        for i, estimator in enumerate(estimators):
            by_rows.setdefault((estimator._columns(), estimator.getNumFolds()), []).append(i)
        models: dict[int, RidgeClassifierCVModel] = {}
        for members in by_rows.values():
            found = _fit_together([estimators[i] for i in members], dataset)
            models.update(zip(members, found, strict=True))
        return iter(sorted(models.items()))

    def _fit(self, dataset: DataFrame) -> RidgeClassifierCVModel:
        return _fit_together([self], dataset)[0]

    def _columns(self) -> RowColumns:
        def named(param: Any) -> str | None:
            return self.getOrDefault(param) if self.isDefined(param) else None

        return RowColumns(self.getFeaturesCol(), self.getLabelCol(), named(self.weightCol), named(self.foldCol))


def _fit_together(estimators: Sequence[RidgeClassifierCV], dataset: DataFrame) -> list[RidgeClassifierCVModel]:
    """Fit estimators that read the same columns in the same folds."""
    first = estimators[0]
    grids = [Grid.checked(estimator.getLambdas(), estimator.getPenalty()) for estimator in estimators]
    chooses = any(len(grid.lambdas) > 1 for grid in grids)
    if chooses and not 2 <= first.getNumFolds() <= MOST_FOLDS:
        raise ValueError(f"numFolds={first.getNumFolds()}: to choose between λ takes 2 to {MOST_FOLDS:,} folds")
    check_session(dataset)
    columns = first._columns() if chooses else first._columns()._replace(fold=None)
    FeaturesColumn.of(dataset, columns.features)  # before any work begins
    classes = labels_of(dataset, columns, first.getNumFolds())
    plan = RowsPlan.of(dataset, columns, classes, first.getNumFolds() if chooses else 1)
    moments = {fold: own for fold, own in sum_rows(dataset, plan).items() if own.n}
    _check(moments, columns, chooses)
    models = []
    for estimator, grid in zip(estimators, grids, strict=True):
        solution = grid.chosen_by_moments(moments, plan.shift)
        model = RidgeClassifierCVModel(FittedRidge(solution, classes, plan.exact))
        models.append(estimator._copyValues(model._resetUid(estimator.uid)))
    return models


def _check(moments: FoldedMoments, columns: RowColumns, chooses: bool) -> None:
    """Refuse rows that weigh nothing, and folds that cannot choose.

    Raises:
        ValueError: all weights are 0, or all rows validate one fold.
    """
    if not moments:
        raise ValueError(f"the column {columns.weight!r} has no weight above 0")
    if chooses and len(moments) < 2:
        why = "there are too few rows"
        if columns.fold is not None:
            why = f"the column {columns.fold!r} has one fold only"
        if columns.weight is not None:
            why = f"the column {columns.weight!r} leaves rows of one fold only"
        raise ValueError(f"{why}, and so nothing to choose λ by; give one λ")
