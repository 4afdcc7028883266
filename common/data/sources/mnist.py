"""MNIST: four IDX files under <data root>/mnist."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources import idx
from common.data.sources.source import Download, LocalFiles, NamedSource, Splits
from common.errors import InputError

CLASS_NAMES = tuple(str(d) for d in range(10))
STEMS = {"train": "train", "test": "t10k"}
FOLDER = "mnist"


class Mnist(NamedSource):
    """MNIST's training and test set."""

    kind = "mnist"
    download = Download(
        title="MNIST",
        megabytes=11,
        folder=FOLDER,
        files={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
    )

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the training and the test set.

        Raises:
            InputError: a file is missing or damaged, or images and labels do not belong together.
        """
        if not location.is_dir():
            raise InputError(
                f"{location.absolute()}: no such data root; `make data` downloads MNIST to data/, --data-root or "
                "$IMAGE_DATA_ROOT names another, --data digits needs none"
            )
        folder = location / FOLDER
        return Splits(_open_split(folder, "train", pixel_format), _open_split(folder, "test", pixel_format))

    def local_files(self, location: Path) -> LocalFiles:
        """Return the folder of the IDX files, below the data root."""
        remedy = "`make data` downloads it, and --data-root or $IMAGE_DATA_ROOT say where it is"
        return LocalFiles("data", location, [location / FOLDER], remedy=remedy)


def _open_split(folder: Path, split: str, pixel_format: PixelFormat) -> Catalogue:
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
    reader = idx.IdxReader(images, f"mnist/{split}", lengths, pixel_format)
    return Catalogue(reader, np.arange(len(labels)), labels, CLASS_NAMES)
