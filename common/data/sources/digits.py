"""The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn: real images, nothing to download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources.arrays import ArrayReader
from common.data.sources.source import NamedSource, Splits
from common.errors import InputError

FULL_INTENSITY = 16
"""The set's own scale is 0 to 16."""


class Digits(NamedSource):
    """The bundled digits, without a test set."""

    kind = "digits"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the digits, wherever the data root is."""
        rows = np.loadtxt(self._file(), np.uint8, delimiter=",")  # (1797, 65): pixels row by row, then the digit
        pixels = np.rint(rows[:, :-1] * (255 / FULL_INTENSITY)).astype(np.uint8).reshape(-1, 8, 8, 1)
        labels = rows[:, -1].astype(np.int64)
        reader = ArrayReader.of(self.kind, pixels, pixel_format)
        return Splits(Catalogue(reader, np.arange(len(labels)), labels, tuple(str(d) for d in range(10))), None)

    def _file(self) -> Path:
        """Return the file in scikit-learn's package. Importing the package itself would take a second."""
        package = find_spec("sklearn")
        for folder in (package.submodule_search_locations or []) if package else []:
            path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
            if path.is_file():
                return path
        raise InputError(
            "--data digits: scikit-learn, with which the digits come, is not installed; run: make setup"
        )
