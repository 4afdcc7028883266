"""How images are usually brought into the form that networks trained on ImageNet take."""

from __future__ import annotations

COLOUR_MEAN, COLOUR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's intensities in [0, 1], which torchvision's networks were trained on."""
GREY_MEAN, GREY_DEVIATION = (0.459,), (0.226,)
"""Mean and deviation of the luminance of the same images."""

PHOTOGRAPH_SIDE = 224
"""Side in pixels to which photographs are resized and cropped by default."""


def usual_normalisation(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of intensities in [0, 1] for networks of 1 or 3 channels, a number per channel."""
    return (GREY_MEAN, GREY_DEVIATION) if channels == 1 else (COLOUR_MEAN, COLOUR_DEVIATION)
