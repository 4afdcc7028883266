"""The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn: real images, nothing to download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources.arrays import ArrayReader
from common.data.sources.source import NamedSource, Splits

FULL_INTENSITY = 16
"""The set's own scale is 0 to 16."""


class Digits(NamedSource):
    """The bundled digits, without a test set."""

    kind = "digits"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the digits, wherever the data root is."""
        # imported here, because workers that read other sources need no scikit-learn
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.rint(bunch.images * (255 / FULL_INTENSITY)).astype(np.uint8)[..., None]
        # pixels.shape = (1797, 8, 8, 1)
        labels = bunch.target.astype(np.int64)
        reader = ArrayReader.of(self.kind, pixels, pixel_format)
        return Splits(Catalogue(reader, np.arange(len(labels)), labels, tuple(str(d) for d in range(10))), None)
