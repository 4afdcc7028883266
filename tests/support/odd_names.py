"""A folder of images with every kind of name that has ever been lost on the way."""

from __future__ import annotations

import io
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class OddTree(NamedTuple):
    """A folder of images of 12×10 pixels.

    Attributes:
        root: the folder; its sub-folders are classes.
        images: the number of images that can be decoded.
        unusable: the names, relative to the root, of files that look like images and cannot be decoded.
        ignored: the number of other files.
        classes: the names of the classes.
    """

    root: Path
    images: int
    unusable: set[str]
    ignored: int
    classes: tuple[str, ...]

    @property
    def files(self) -> int:
        """The number of all files."""
        return self.images + len(self.unusable) + self.ignored


ACCENTED = "Érable à sucre"
NAMES = (
    b"_DSC0001.JPG",
    b"12:30:00.png",
    b"gr\xe9.png",
    b"no suffix",
    b"scan.jfif",
    b"scan.jpe",
    b"SCAN.JPEG",
    b"IMG.001",
    b"a b.png",
    b"new\nline.png",
    b"back\\slash.png",
    b"[1].png",
    b"{1,2}.png",
    b"what?.png",
    b'it\'s "it".png',
    b"100%25.png",
    b"#1;2&3=4+5.png",
    b"-n.png",
    b"x" * 240 + b".png",
    "🌲 árbol.png".encode(),
)


def encoded(kind: str, number: int) -> bytes:
    """Return an image file whose brightness and pattern follow from a number."""
    pixels = np.random.default_rng(number).integers(0, 200, (12, 10, 3), np.uint8)
    pixels[:, : 2 + number % 8] += 55
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def odd_tree(folder: Path) -> OddTree:
    """Make a tree below a folder, beside another that it links to."""
    root = folder / "odd"
    number = 0
    composed, decomposed = (unicodedata.normalize(form, ACCENTED) for form in ("NFC", "NFD"))
    places = [os.fsencode(root / name) for name in (composed, decomposed, "_plain", "oak")]
    places.append(os.path.join(os.fsencode(root), b"ch\xeane"))  # noqa: PTH118  # bytes, no UTF-8
    for place in places:
        os.makedirs(place)  # noqa: PTH103
        for name in NAMES:
            kind = "JPEG" if name.lower().endswith((b"jpg", b"jpeg", b"jfif", b"jpe")) else "PNG"
            Path(os.fsdecode(os.path.join(place, name))).write_bytes(encoded(kind, number))  # noqa: PTH118
            number += 1
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for i in range(3):
        (elsewhere / f"{i}.png").write_bytes(encoded("PNG", number + i))
    oak = root / "oak"
    (oak / "linked").symlink_to(elsewhere)
    (oak / "loop").symlink_to(root)
    (oak / "to itself.png").symlink_to("to itself.png")
    (oak / "gone.png").symlink_to("nowhere")
    (oak / "cut.png").write_bytes(encoded("PNG", 1)[:60])
    (oak / "empty.jpg").write_bytes(b"")
    ignored = [oak / name for name in ("notes.txt", "more.TXT", ".DS_Store", "Thumbs.db", "LIESMICH", "video.mp4")]
    (oak / ".hidden").mkdir()
    for path in [*ignored, oak / ".hidden" / "copy.png", root / "labels.csv", root / "outside.png"]:
        path.write_bytes(encoded("PNG", 2) if path.suffix == ".png" else b"text")
    unusable = {f"oak/{name}" for name in ("to itself.png", "gone.png", "cut.png", "empty.jpg")}
    classes = tuple(sorted((composed, "_plain", "oak", r"ch\udceane")))
    return OddTree(root, number + 3, unusable, len(ignored) + 3, classes)
