"""MNIST and the sets that come in files like its own: four IDX files in a folder of the data root."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

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
        check_root(root, self.remedy)
        train, test = (self._split(root / self.kind, split, pixel_format) for split in STEMS)
        return Splits(train, test)

    def local_files(self, location: Path) -> LocalFiles:
        """Return the folder of the IDX files."""
        root = self._root(location)
        return LocalFiles("data", root, [root / self.kind], remedy=remedy_elsewhere(self.remedy))

    def _root(self, location: Path) -> Path:
        """Return the folder that holds the folder of this set."""
        if self.elsewhere is not None and not (location / self.kind).is_dir():
            return self.elsewhere if (self.elsewhere / self.kind).is_dir() else location
        return location

    def _split(self, folder: Path, split: str, pixel_format: PixelFormat) -> Catalogue:
        images, labels = (
            idx.find(folder, f"{STEMS[split]}-{what}-ubyte", self.remedy)
            for what in ("images-idx3", "labels-idx1")
        )
        classes = dict(enumerate(self.class_names))
        return idx.open_pair(images, labels, f"{self.kind}/{split}", classes, pixel_format, transposed=False)


def check_root(root: Path, remedy: str) -> None:
    """Make sure that there is a data root.

    Raises:
        InputError: there is none; the message says how to get the files that belong there.
    """
    if not root.is_dir():
        raise InputError(
            f"{root.absolute()}: no such data root; {remedy}, --data-root or $IMAGE_DATA_ROOT names "
            "another, --data digits needs none"
        )


def remedy_elsewhere(remedy: str) -> str:
    """Return how to get files of the data root, or to say that they are elsewhere."""
    return f"{remedy}, and --data-root or $IMAGE_DATA_ROOT say where it is"


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
