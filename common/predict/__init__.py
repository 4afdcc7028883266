"""Predictions: the images to predict, the rows that are written, and a summary of them."""
