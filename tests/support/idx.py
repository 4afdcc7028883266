"""Files in the format of MNIST."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from numpy.typing import NDArray

from common.data.sources import idx


def write_idx(path: Path, array: NDArray, magic: bytes | None = None) -> None:
    """Write a file, compressed if its name ends with .gz.

    Args:
        path: the file.
        array: uint8, of any shape.
        magic: four bytes in place of the right magic number.
    """
    header = (magic or bytes([0, 0, 8, array.ndim])) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_part(root: Path, to: Path, n_train: int, n_test: int) -> Path:
    """Write a data root with the first images of MNIST's two sets, and return it.

    Args:
        root: the data root with all of MNIST.
        to: a new folder.
        n_train: the number of training images.
        n_test: the number of test images.
    """
    (to / "mnist").mkdir(parents=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        for kind in ("images-idx3", "labels-idx1"):
            path = idx.find(root / "mnist", f"{part}-{kind}-ubyte", "make data")
            array = idx.read_array(path, idx.read_header(path, int(kind[-1])))
            write_idx(to / "mnist" / f"{part}-{kind}-ubyte", array[:n])
    return to
