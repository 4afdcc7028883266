"""Fitted models for use from Python: `load` a run, and predict files, arrays or Pillow's images."""

from common.models.loaded import ImagesLike, LoadedModel, load

__all__ = ["ImagesLike", "LoadedModel", "load"]
"""Names for other programs."""
