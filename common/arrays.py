"""Names of array types, by their contents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (n, height, width, channels)
Features = NDArray[np.uint8]  # (n, d)
Labels = NDArray[np.int64]  # positions in a list of class names, or counts per class
Folds = NDArray[np.int16]  # the fold that each image validates
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Hashes = NDArray[np.uint32]  # (n, splits.HASHES), hashes of names
Keys = NDArray[np.uint64]  # 64-bit hashes by which names are compared
Groups = NDArray[Any]  # names of the groups that images belong to, text
Items = NDArray[Any]  # row numbers in a file of many images, or file names
