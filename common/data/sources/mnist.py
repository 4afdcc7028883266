"""MNIST and the sets that come in files like its own: four IDX files in a folder of the data root."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources import idx
from common.data.sources.source import Download, LocalFiles, NamedSource, Splits
from common.errors import InputError

STEMS = {"train": "train", "test": "t10k"}


class IdxSet(NamedSource):
    """A training and a test set of grey images in the folder of the data root that is called as they are.

    Attributes:
        class_names: the names of the classes, in the order of their labels.
        elsewhere: a folder that holds such folders too, for those that the data root lacks; or None.
        remedy: how to get the files.
    """

    class_names: ClassVar[tuple[str, ...]]
    elsewhere: ClassVar[Path | None] = None
    remedy: ClassVar[str]

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the training and the test set.

        Raises:
            InputError: a file is missing or damaged, or images and labels do not belong together.
        """
        root = self._root(location)
        if not root.is_dir():
            raise InputError(
                f"{root.absolute()}: no such data root; {self.remedy}, --data-root or $IMAGE_DATA_ROOT names "
                "another, --data digits needs none"
            )
        train, test = (self._split(root / self.kind, split, pixel_format) for split in STEMS)
        return Splits(train, test)

    def local_files(self, location: Path) -> LocalFiles:
        """Return the folder of the IDX files."""
        root = self._root(location)
        remedy = f"{self.remedy}, and --data-root or $IMAGE_DATA_ROOT say where it is"
        return LocalFiles("data", root, [root / self.kind], remedy=remedy)

    def _root(self, location: Path) -> Path:
        """Return the folder that holds the folder of this set."""
        if self.elsewhere is not None and not (location / self.kind).is_dir():
            return self.elsewhere if (self.elsewhere / self.kind).is_dir() else location
        return location

    def _split(self, folder: Path, split: str, pixel_format: PixelFormat) -> Catalogue:
        images, labels_path = (
            idx.find(folder, f"{STEMS[split]}-{what}-ubyte", self.remedy)
            for what in ("images-idx3", "labels-idx1")
        )
        lengths = idx.read_header(images, 3)
        label_lengths = idx.read_header(labels_path, 1)
        if lengths[0] != label_lengths[0]:
            raise InputError(
                f"{images} holds {lengths[0]:,} images and {labels_path.name} {label_lengths[0]:,} labels; "
                "the two files do not belong together"
            )
        labels = idx.read_array(labels_path, label_lengths).astype(np.int64)
        last = len(self.class_names) - 1
        if labels.max(initial=0) > last:
            raise InputError(
                f"{labels_path}: label {labels.max()}, but those of {self.kind} end at {last}; get it again"
            )
        reader = idx.IdxReader(images, f"{self.kind}/{split}", lengths, pixel_format)
        return Catalogue(reader, np.arange(len(labels)), labels, self.class_names)


class Mnist(IdxSet):
    """Handwritten digits (LeCun, Cortes, Burges)."""

    kind = "mnist"
    class_names = tuple(str(digit) for digit in range(10))
    remedy = "`make data` downloads it"
    download = Download(
        title="MNIST",
        megabytes=11,
        folder=kind,
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


class FashionMnist(IdxSet):
    """Clothes, in the format of MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747)."""

    kind = "fashion-mnist"
    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    elsewhere = Path("/usr/share/datasets")
    remedy = "on Debian, `apt-get install dataset-fashion-mnist` brings it"


class Kmnist(IdxSet):
    """Cursive hiragana, in the format of MNIST (Clanuwat and others, arXiv:1812.01718)."""

    kind = "kmnist"
    class_names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    remedy = "put its four IDX files into the folder kmnist of the data root"
