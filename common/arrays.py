"""What arrays are called by what is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (n, height, width, channels)
Features = NDArray[np.uint8]  # (n, d)
Labels = NDArray[np.int64]  # positions in a list of class names, and counts by class
Folds = NDArray[np.int16]  # the fold that each image validates
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Hashes = NDArray[np.uint32]  # (n, splits.HASHES) of names
Keys = NDArray[np.uint64]  # by which names are compared
Items = NDArray[Any]  # row numbers of a packed file, or file names
