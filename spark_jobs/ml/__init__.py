"""Spark ML: the ridge classifier and the feature maps as stages of pipelines."""

from spark_jobs.ml.classifier import RidgeClassifierCV
from spark_jobs.ml.feature_map import FeatureMapModel, FeatureMapTransformer
from spark_jobs.ml.model import RidgeClassifierCVModel

__all__ = ["FeatureMapModel", "FeatureMapTransformer", "RidgeClassifierCV", "RidgeClassifierCVModel"]
