"""The names of inputs and outputs of exported files."""

IMAGES, SCORES, LABEL = "images", "scores", "label"
"""The input, uint8 (n, height, width, channels), and the outputs: floats (n, n_classes), and int64 (n,)."""
