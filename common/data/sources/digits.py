"""The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn: real images, nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources.arrays import ArrayReader

FULL_INTENSITY = 16  # the set's own scale is 0 to 16


def open_digits(_data_root: Path, form: PixelFormat) -> tuple[Catalogue, None]:
    """Open the bundled digits; they bring no test set."""
    # imported here, because workers that read other sources need no scikit-learn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / FULL_INTENSITY)).astype(np.uint8)[..., None]
    # pixels.shape = (1797, 8, 8, 1)
    labels = bunch.target.astype(np.int64)
    reader = ArrayReader.of("digits", pixels, form)
    return Catalogue(reader, np.arange(len(labels)), labels, tuple(str(d) for d in range(10))), None
