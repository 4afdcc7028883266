"""MNIST: four IDX files under <data root>/mnist."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.shipped import seen_by_workers
from common.data.sources import idx
from common.errors import InputError

CLASS_NAMES = tuple(str(d) for d in range(10))
STEMS = {"train": "train", "test": "t10k"}


def open_mnist(data_root: Path, form: PixelFormat) -> tuple[Catalogue, Catalogue]:
    """Open the training and the test set.

    Raises:
        InputError: a file is missing or damaged, or images and labels do not go together.
    """
    if not data_root.is_dir():
        raise InputError(
            f"{data_root.absolute()}: no such data root; `make data` downloads MNIST to data/, --data-root or "
            "$IMAGE_DATA_ROOT names another, --data digits needs none"
        )
    folder = seen_by_workers(data_root / "mnist")
    return _open_split(folder, "train", form), _open_split(folder, "test", form)


def _open_split(folder: Path, split: str, form: PixelFormat) -> Catalogue:
    images = idx.find(folder, f"{STEMS[split]}-images-idx3-ubyte")
    labels_path = idx.find(folder, f"{STEMS[split]}-labels-idx1-ubyte")
    lengths = idx.read_header(images, 3)
    label_lengths = idx.read_header(labels_path, 1)
    if lengths[0] != label_lengths[0]:
        raise InputError(
            f"{images} holds {lengths[0]:,} images and {labels_path.name} {label_lengths[0]:,} labels; "
            "the two files do not belong together"
        )
    labels = idx.read_array(labels_path, label_lengths).astype(np.int64)
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise InputError(f"{labels_path}: label {labels.max()}, but the digits end at 9; download it again")
    reader = idx.IdxReader(images, f"mnist/{split}", lengths, form)
    return Catalogue(reader, np.arange(len(labels)), labels, CLASS_NAMES)
