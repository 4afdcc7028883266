"""Fitted models as ONNX files: from pixels to scores, whatever features are in between."""
