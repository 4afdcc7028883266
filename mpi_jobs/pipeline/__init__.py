"""Prediction as a pipeline over ranks: source, preprocessors, predictors, sink."""
