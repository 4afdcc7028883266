"""Params of the ridge classifier and of its model."""

from __future__ import annotations

from typing import Self

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol, HasPredictionCol, HasRawPredictionCol


class PredictionParams(HasFeaturesCol, HasPredictionCol, HasRawPredictionCol):
    """Params that an estimator and its model share."""

    def setFeaturesCol(self, value: str) -> Self:
        """Set the column of features: vectors, arrays of numbers, or bytes."""
        return self._set(featuresCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the column that predicted labels are written to; "" for none."""
        return self._set(predictionCol=value)

    def setRawPredictionCol(self, value: str) -> Self:
        """Set the column that scores are written to, as vectors; "" for none."""
        return self._set(rawPredictionCol=value)


class FitParams(Params):
    """Params of the estimator alone."""

    labelCol: Param[str] = Param(
        Params._dummy(), "labelCol", "column of labels: numbers or text", typeConverter=TypeConverters.toString
    )
    weightCol: Param[str] = Param(
        Params._dummy(), "weightCol", "column of the rows' weights", typeConverter=TypeConverters.toString
    )
    foldCol: Param[str] = Param(
        Params._dummy(),
        "foldCol",
        "column of the fold, from 0, that a row validates; folds follow from the contents of rows if not set",
        typeConverter=TypeConverters.toString,
    )
    numFolds: Param[int] = Param(
        Params._dummy(), "numFolds", "number of folds that choose λ", typeConverter=TypeConverters.toInt
    )
    lambdas: Param[list[float]] = Param(
        Params._dummy(), "lambdas", "grid of λ, for features as they are", typeConverter=TypeConverters.toListFloat
    )
    penalty: Param[str] = Param(
        Params._dummy(), "penalty", "sum, mean or scaled", typeConverter=TypeConverters.toString
    )

    def setLabelCol(self, value: str) -> Self:
        """Set the column of labels: numbers or text."""
        return self._set(labelCol=value)

    def setWeightCol(self, value: str) -> Self:
        """Set the column of the rows' weights."""
        return self._set(weightCol=value)

    def setFoldCol(self, value: str) -> Self:
        """Set the column of the fold, from 0, that a row validates."""
        return self._set(foldCol=value)

    def setNumFolds(self, value: int) -> Self:
        """Set the number of folds that choose λ."""
        return self._set(numFolds=value)

    def setLambdas(self, value: list[float]) -> Self:
        """Set the grid of λ, for features as they are."""
        return self._set(lambdas=value)

    def setPenalty(self, value: str) -> Self:
        """Set the penalty: "sum", "mean" or "scaled"."""
        return self._set(penalty=value)

    def getLambdas(self) -> list[float]:
        """Return the grid of λ."""
        return self.getOrDefault(self.lambdas)

    def getNumFolds(self) -> int:
        """Return the number of folds."""
        return self.getOrDefault(self.numFolds)

    def getPenalty(self) -> str:
        """Return the penalty."""
        return self.getOrDefault(self.penalty)

    def getLabelCol(self) -> str:
        """Return the column of labels."""
        return self.getOrDefault(self.labelCol)
