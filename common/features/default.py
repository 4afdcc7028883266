"""The features that --features auto chooses."""

from __future__ import annotations

from common.features.feature_map import Shape

SMALLEST = 6
"""Height or width below which images have no patches worth the name."""

MOST_FILTERS, MOST_LANDMARKS = 512, 4096

MANY = 10_000
"""Images of colour from which filters alone do better than similarities to so few landmarks as are affordable."""


def default_spec(shape: Shape, n: int) -> tuple[str, str]:
    """Choose features by the size of images and their number.

    Args:
        shape: (height, width, channels) of the images.
        n: the number of training images that may be learnt from.

    Returns:
        the spec, and the reason in words.
    """
    height, width, channels = shape
    images = f"{n:,} {'grey' if channels == 1 else 'colour'} images of {height}x{width}"
    if min(height, width) < SMALLEST:
        return "pixels", f"{images} are too small for patches"
    if channels == 1 or n < MANY:
        landmarks = _power_of_two(n * 4 // 5, 128, MOST_LANDMARKS)
        if n * 4 < 5 * landmarks:
            return "patches:32", f"{images} are too few for landmarks"
        first = "patches:64" if channels == 1 else "patches:128,cells=6"
        return f"{first}+landmarks:{landmarks}", f"{images}: shapes, compared with {landmarks:,} of them"
    filters = _power_of_two(n // 16, 64, MOST_FILTERS)
    return f"patches:{filters},mirror", f"{images}: textures, which {filters} filters respond to"


def _power_of_two(wanted: int, least: int, most: int) -> int:
    """Return the largest power of two up to `wanted`, but no less than `least` and no more than `most`."""
    return min(most, max(least, 1 << max(0, wanted.bit_length() - 1)))
