"""EMNIST (Cohen, Afshar, Tapson, van Schaik, arXiv:1702.05373): letters and digits, in files like MNIST's."""

from __future__ import annotations

import string
from pathlib import Path

from common.atomic import read_text
from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.sources import idx
from common.data.sources.mnist import check_root, remedy_elsewhere
from common.data.sources.source import LocalFiles, NamedSource, Splits
from common.errors import InputError

DIGITS, CAPITALS = string.digits, string.ascii_uppercase
MERGED = DIGITS + CAPITALS + "abdefghnqrt"
"""Characters of the sets in which small letters that look like their capitals are one class with these."""

CLASSES = {
    "byclass": DIGITS + CAPITALS + string.ascii_lowercase,
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": CAPITALS,
    "digits": DIGITS,
    "mnist": DIGITS,
}
"""The classes of each set, unless its mapping names others."""

FIRST_LABEL = {"letters": 1}
"""The label of the first class, where it is not 0."""

REMEDY = "put the files of this set into the folder emnist of the data root"


class Emnist(NamedSource):
    """EMNIST's sets, all of them in the folder emnist of the data root."""

    kind = "emnist"

    @property
    def spec(self) -> str:
        """The kind and SET."""
        return f"{self.kind}-SET"

    def location(self, spec: str, data_root: Path) -> Path | None:
        """Return the name of the set below the data root, though its files are elsewhere there."""
        return data_root / spec if spec.partition("-")[0] == self.kind else None

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        """Open the training and the test set.

        Raises:
            InputError: there is no such set, a file is missing or damaged, or files do not belong together.
        """
        root, chosen = _root_and_set(location)
        check_root(root, REMEDY)
        train, test = (_split(root / self.kind, chosen, split, pixel_format) for split in ("train", "test"))
        return Splits(train, test)

    def local_files(self, location: Path) -> LocalFiles:
        """Return the files of the set."""
        root, chosen = _root_and_set(location)
        files = sorted((root / self.kind).glob(f"{self.kind}-{chosen}-*"))
        return LocalFiles("data", root, files, remedy=remedy_elsewhere(REMEDY))


def _root_and_set(location: Path) -> tuple[Path, str]:
    """Return the data root and the set.

    Raises:
        InputError: EMNIST has no such set.
    """
    chosen = location.name.removeprefix("emnist").removeprefix("-")
    if chosen not in CLASSES:
        sets = ", ".join(f"emnist-{each}" for each in CLASSES)
        raise InputError(f"--data {location.name}: no set of EMNIST; use one of {sets}")
    return location.parent, chosen


def _split(folder: Path, chosen: str, split: str, pixel_format: PixelFormat) -> Catalogue:
    images, labels = (
        idx.find(folder, f"emnist-{chosen}-{split}-{what}-ubyte", REMEDY)
        for what in ("images-idx3", "labels-idx1")
    )
    name = f"emnist-{chosen}/{split}"
    return idx.open_pair(images, labels, name, _classes(folder, chosen), pixel_format, transposed=True)


def _classes(folder: Path, chosen: str) -> dict[int, str]:
    """Return the names of the classes by their labels: those of the set's mapping, if that is there.

    Each line of a mapping is a label and the codes of the characters of its class. The first one names the class.

    Raises:
        InputError: a line of the mapping is invalid.
    """
    mapping = folder / f"emnist-{chosen}-mapping.txt"
    if not mapping.is_file():
        return dict(enumerate(CLASSES[chosen], FIRST_LABEL.get(chosen, 0)))
    lines = [line.split() for line in read_text(mapping, str(mapping)).splitlines() if line.strip()]
    try:
        classes = {int(label): chr(int(code)) for label, code, *_ in lines}
    except (ValueError, OverflowError) as error:
        raise InputError(f"{mapping}: a line is no label with codes of characters ({error}); remove it") from error
    if not classes or len(set(classes.values())) < len(lines) or not all(0 <= label < 256 for label in classes):
        raise InputError(f"{mapping}: names no label, or one twice, or labels that no byte can be; remove it")
    return classes
