"""Helpers that tests share: paths, processes, and small sets of images."""
