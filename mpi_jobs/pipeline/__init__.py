"""Prediction as a pipeline over ranks: source, preprocessors, predictors, sink."""

from common.buffers import keep_buffers

keep_buffers()  # here, because it has to come before numpy and torch start their threads
