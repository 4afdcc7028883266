"""Estimators for scikit-learn: the ridge classifier on moments, and feature maps as transformers."""

from common.estimators.feature_map import FeatureMapTransformer
from common.estimators.ridge import MomentsRidgeClassifierCV

__all__ = ["FeatureMapTransformer", "MomentsRidgeClassifierCV"]
