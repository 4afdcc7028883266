"""Moments in a file: what is known of images that need not be read again.

Sums of sums are exact, so that old and new images together are fitted as if all were read at once, to the last
bit, and images whose own moments are subtracted leave no trace.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from common.arrays import Floats
from common.atomic import write_atomically
from common.data.decode import PixelFormat
from common.data.splits import FoldRule
from common.errors import InputError, RunError
from common.ridge.moments import FoldMoments, Moments, merge, pack, unpack
from common.ridge.path import INTENSITY

if TYPE_CHECKING:
    from common.data.storage import Storage

FORMAT = "moments of images, version 1"


@dataclass(frozen=True)
class Basis:
    """What moments must agree in to be added: the same pixels, the same classes in the same order, the same folds.

    Attributes:
        shape: (height, width, channels).
        pixel_format: what images were turned into.
        class_names: one name a class.
        rule: how images are held out.
        split: what else decides in which split and fold an image is: a seed, or its name's hash.
    """

    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    rule: FoldRule
    split: str


@dataclass(frozen=True)
class SavedMoments:
    """Moments by fold, and which images they are of.

    Attributes:
        basis: what they are sums of.
        moments: the sums.
        identities: what tells the images, as Images.identities has it.
    """

    basis: Basis
    moments: FoldMoments
    identities: frozenset[str]

    def save(self, path: Path | str) -> None:
        """Write them to a path or an address, atomically; half of each symmetric Gram matrix.

        Raises:
            RunError: the file cannot be written.
        """
        described = {
            "format": FORMAT,
            "full_intensity": INTENSITY,
            **asdict(self.basis),
            "identities": sorted(self.identities),
        }
        arrays = {"described": np.array(json.dumps(described)), "folds": np.array(list(self.moments), np.int64)}
        for fold, own in self.moments.items():
            arrays |= {f"{fold}.n": np.array(own.n), f"{fold}.sum_x": own.sum_x, f"{fold}.sum_y": own.sum_y}
            arrays |= {f"{fold}.gram": pack(own.gram), f"{fold}.cross": own.cross}
        try:
            if isinstance(path, str):
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)  # type: ignore[arg-type]
                storage, name = _stored(path)
                storage.write(name, buffer.getvalue())
            else:
                with write_atomically(path) as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise RunError(f"{path}: moments cannot be written there ({error.strerror or error})") from error

    @classmethod
    def load(cls, path: Path | str) -> SavedMoments:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, or it is damaged.
        """
        try:
            with np.load(_opened(path), allow_pickle=False) as arrays:
                described = json.loads(str(arrays["described"]))
                if described["format"] != FORMAT:
                    raise InputError(f"{path}: format {described['format']!r}, not {FORMAT!r}")
                if described["full_intensity"] != INTENSITY:
                    raise InputError(
                        f"{path}: sums of intensities up to {described['full_intensity']:g}, not {INTENSITY:g}; "
                        "save them again with this version"
                    )
                height, width, channels = described["shape"]
                basis = Basis(
                    (height, width, channels),
                    PixelFormat.of(described["pixel_format"]),
                    tuple(described["class_names"]),
                    FoldRule(**described["rule"]),
                    str(described["split"]),
                )
                d, n_classes = height * width * channels, len(basis.class_names)
                moments = {}
                for fold in arrays["folds"].tolist():
                    own = {name: arrays[f"{fold}.{name}"] for name in ("n", "sum_x", "sum_y", "gram", "cross")}
                    _check(path, own, d, n_classes)
                    gram = unpack(own["gram"], d)
                    moments[fold] = Moments(int(own["n"]), own["sum_x"], own["sum_y"], gram, own["cross"])
                return cls(basis, moments, frozenset(described["identities"]))
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; gram.py --save-moments writes it") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: no moments can be read there ({error})") from error

    def check_basis(self, path: Path | str, basis: Basis) -> None:
        """Make sure that these moments and a run's are of one kind.

        Raises:
            InputError: says in what they differ.
        """
        for what, own, wanted in (
            ("images of shape", self.basis.shape, basis.shape),
            ("images", self.basis.pixel_format, basis.pixel_format),
            ("a hold-out of", self.basis.rule, basis.rule),
            ("splits by", self.basis.split, basis.split),
        ):
            if own != wanted:
                raise InputError(
                    f"{path}: moments of {what} {own}, and this run has {wanted}; they cannot be added"
                )
        if self.basis.class_names != basis.class_names:
            mine, theirs = self.basis.class_names, basis.class_names
            differs = next((f"{a!r} and {b!r}" for a, b in zip(mine, theirs, strict=False) if a != b), "")
            raise InputError(
                f"{path}: moments of {len(mine)} classes, and this run has {len(theirs)} "
                f"({differs or 'the first of them the same'}); `ingest.py --classes` takes those of another table"
            )


def _stored(address: str) -> tuple[Storage, str]:
    # imported here, because files of this machine need no pyarrow
    from common.data.storage import Storage

    folder, _, name = address.rpartition("/")
    return Storage.at(folder), name


def _opened(path: Path | str) -> Path | io.BytesIO:
    if isinstance(path, Path):
        return path
    storage, name = _stored(path)
    return io.BytesIO(storage.read(name))


def _check(path: Path | str, own: dict[str, Floats], d: int, n_classes: int) -> None:
    """Refuse what no images can have as moments.

    Raises:
        InputError: says what.
    """
    shapes = {"n": (), "sum_x": (d,), "sum_y": (n_classes,), "gram": (d * (d + 1) // 2,), "cross": (d, n_classes)}
    for name, shape in shapes.items():
        if own[name].shape != shape:
            raise InputError(f"{path}: {name} is {own[name].shape} and should be {shape}; it is damaged")
        if not np.array_equal(own[name], np.rint(own[name])) or not np.isfinite(own[name]).all():
            raise InputError(f"{path}: {name} holds numbers that are no sums of pixels; it is damaged")


def combined(
    read: FoldMoments, added: Iterable[SavedMoments], subtracted: Sequence[tuple[Path | str, SavedMoments]]
) -> FoldMoments:
    """What was read and what was added, less what was subtracted, by fold; folds without images are left out.

    Raises:
        InputError: images are subtracted that are not among the others.
    """
    moments = read
    for saved in added:
        moments = merge(moments, saved.moments)
    for path, saved in subtracted:
        for fold, own in saved.moments.items():
            rest = moments[fold] - own if fold in moments else None
            # sum_y of a class is 2 n_class − n, and no square can be left with a negative sum
            if rest is None or (rest.sum_y < -rest.n).any() or (np.diagonal(rest.gram) < 0).any():
                raise InputError(f"{path}: holds images that are not among those it is to be subtracted from")
            moments = {**moments, fold: rest}
    return {fold: own for fold, own in moments.items() if own.n}
