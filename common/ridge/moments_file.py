"""Moments in a file: sums over images that need not be read again.

Sums of moments are exact. So a fit to old and new moments equals a fit to all images at once, to the last bit, and
images whose moments are subtracted leave no trace.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from common.arrays import Floats, Labels
from common.atomic import write_atomically
from common.data.catalogue import Classes
from common.data.decode import PixelFormat
from common.data.splits import FoldRule
from common.errors import InputError, RunError
from common.features.augmentation import AS_IT_IS, NONE, Augmentation
from common.features.feature_map import FeatureMap
from common.features.pixels import PIXELS
from common.features.registry import saved_arrays, saved_map
from common.ridge.moments import FoldMoments, Moments, merge, pack, unpack
from common.ridge.penalty import INTENSITY

if TYPE_CHECKING:
    from common.data.storage import Storage

FORMAT = "moments of images, version 1"

ARRAYS = ("n", "sum_x", "sum_y", "gram", "cross")


@dataclass(frozen=True)
class Basis:
    """The properties that moments must share to be added: pixels, features and folds, and classes of the run.

    Attributes:
        shape: (height, width, channels) of the images.
        pixel_format: what files are decoded into.
        class_names: one name per class.
        rule: how images are held out.
        split: what else decides the split and fold of an image: a seed, or the hash of its name.
        features: computes the features of images.
        augmentation: the variants of each image that were summed with it.
        class_ids: the source's own identifiers of the classes; None if those are the names.
    """

    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    rule: FoldRule
    split: str
    features: FeatureMap = PIXELS
    augmentation: Augmentation = AS_IT_IS
    class_ids: tuple[str, ...] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the basis as JSON."""
        return {
            "shape": self.shape,
            "pixel_format": self.pixel_format.described(),
            "class_names": self.class_names,
            **({"class_ids": self.class_ids} if self.class_ids else {}),
            "rule": asdict(self.rule),
            "split": self.split,
            "features": self.features.describe(),
            **({"augmentation": str(self.augmentation)} if self.augmentation != AS_IT_IS else {}),
        }

    @classmethod
    def of(cls, described: Mapping[str, Any], arrays: Mapping[str, Any]) -> Basis:
        """Rebuild what `describe` described; files of versions that knew no features but pixels name none.

        `arrays` has what the feature map has learnt.

        Raises:
            KeyError, TypeError, ValueError: it describes no basis.
        """
        height, width, channels = described["shape"]
        return cls(
            (height, width, channels),
            PixelFormat.of(described["pixel_format"]),
            tuple(described["class_names"]),
            FoldRule(**described["rule"]),
            str(described["split"]),
            saved_map(described["features"], arrays) if "features" in described else PIXELS,
            Augmentation.parse(described.get("augmentation", NONE)),
            tuple(described["class_ids"]) if "class_ids" in described else None,
        )

    def check_equal(self, path: Path | str, other: Basis) -> None:
        """Make sure that moments of this basis, from a file, can be added to the moments of a run.

        Args:
            path: the file.
            other: the basis of the run.

        Raises:
            InputError: they differ; the message says how.
        """
        for what, mine, theirs in (
            ("images of shape", self.shape, other.shape),
            ("images", self.pixel_format, other.pixel_format),
            ("a hold-out of", self.rule, other.rule),
            ("splits by", self.split, other.split),
            ("variants", str(self.augmentation), str(other.augmentation)),
        ):
            if mine != theirs:
                raise InputError(
                    f"{path}: moments of {what} {mine}, and this run has {theirs}; they cannot be added"
                )
        if self.features.digest != other.features.digest:
            mine, theirs = (f"{b.features.describe()['kind']} {b.features.digest[:8]}" for b in (self, other))
            raise InputError(
                f"{path}: moments of the features {mine}, and this run has {theirs}, which cannot be added; "
                f"--features from:{path} takes those of the file"
            )
        unknown = np.flatnonzero(self.positions_in(other) < 0)
        if len(unknown):
            raise InputError(
                f"{path}: moments of {len(self.class_names)} classes, of which this run has not "
                f"{self.classes.names[unknown[0]]!r}; `ingest.py --classes` takes those of another table, and "
                f"--drop-class drops one"
            )

    @property
    def classes(self) -> Classes:
        """Names and ids of the classes."""
        return Classes(self.class_names, self.class_ids)

    def positions_in(self, other: Basis) -> Labels:
        """Return where each class of this basis is among those of another, int64 (n_classes,); −1 if it is not."""
        if self.class_names == other.class_names and (
            self.class_ids == other.class_ids or None in (self.class_ids, other.class_ids)
        ):
            return np.arange(len(self.class_names))
        return other.classes.positions(self.classes)


@dataclass(frozen=True)
class SavedMoments:
    """Moments by fold, and the fingerprints of their images.

    Attributes:
        basis: the properties that other moments must share to be added.
        moments: the sums.
        identities: fingerprints of the images; see Images.identities.
        forgotten: names of images that are among these and do not count.
        dropped: by class, the identities whose images of this class do not count; see Classes.written.
    """

    basis: Basis
    moments: FoldMoments
    identities: frozenset[str]
    forgotten: frozenset[str] = frozenset()
    dropped: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def over(self, basis: Basis) -> SavedMoments:
        """Return the moments over the classes of a run, which has those of the file; see Moments.over_classes."""
        positions = self.basis.positions_in(basis)
        if np.array_equal(positions, np.arange(len(basis.class_names))):
            return self
        moments = {fold: own.over_classes(positions, len(basis.class_names)) for fold, own in self.moments.items()}
        return replace(self, basis=basis, moments=moments)

    def save(self, path: Path | str) -> None:
        """Write to a path or an address, atomically. Of each symmetric Gram matrix one half is written.

        Raises:
            RunError: the file cannot be written.
        """
        described = {
            "format": FORMAT,
            "full_intensity": INTENSITY,
            **self.basis.describe(),
            "identities": sorted(self.identities),
            **({"forgotten": sorted(self.forgotten)} if self.forgotten else {}),
            **({"dropped": {name: sorted(of) for name, of in self.dropped.items()}} if self.dropped else {}),
        }
        arrays = {"described": np.array(json.dumps(described)), "folds": np.array(list(self.moments), np.int64)}
        arrays |= saved_arrays(self.basis.features)
        for fold, own in self.moments.items():
            arrays |= {f"{fold}.n": np.array(own.n), f"{fold}.sum_x": own.sum_x, f"{fold}.sum_y": own.sum_y}
            arrays |= {f"{fold}.gram": pack(own.gram), f"{fold}.cross": own.cross}
        try:
            if isinstance(path, str):
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)  # type: ignore[arg-type]
                storage, name = _storage_of(path)
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
                return cls._of(path, arrays)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; gram.py --save-moments writes it") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            reason = "it is no file of arrays" if "pickle" in str(error) else str(error)
            raise InputError(
                f"{path}: no moments can be read there ({reason}); gram.py --save-moments writes them"
            ) from error

    @classmethod
    def _of(cls, path: Path | str, arrays: Mapping[str, Any]) -> SavedMoments:
        described = json.loads(str(arrays["described"]))
        if described["format"] != FORMAT:
            raise InputError(f"{path}: format {described['format']!r}, not {FORMAT!r}")
        if described["full_intensity"] != INTENSITY:
            raise InputError(
                f"{path}: sums of intensities up to {described['full_intensity']:g}, not {INTENSITY:g}; "
                "save them again with this version"
            )
        basis = Basis.of(described, arrays)
        d, n_classes = basis.features.n_features(basis.shape), len(basis.class_names)
        moments = {}
        for fold in arrays["folds"].tolist():
            own = {name: arrays[f"{fold}.{name}"] for name in ARRAYS}
            _check(path, own, d, n_classes)
            gram = unpack(own["gram"], d)
            moments[fold] = Moments(int(own["n"]), own["sum_x"], own["sum_y"], gram, own["cross"])
        return cls(
            basis,
            moments,
            frozenset(described["identities"]),
            frozenset(described.get("forgotten", ())),
            {str(name): frozenset(of) for name, of in described.get("dropped", {}).items()},
        )


def _storage_of(address: str) -> tuple[Storage, str]:
    # Imported here, because files of this machine need no pyarrow.
    from common.data.storage import Storage

    folder, _, name = address.rpartition("/")
    return Storage.at(folder), name


def _opened(path: Path | str) -> Path | io.BytesIO:
    if isinstance(path, Path):
        return path
    storage, name = _storage_of(path)
    return io.BytesIO(storage.read(name))


def _check(path: Path | str, own: dict[str, Floats], d: int, n_classes: int) -> None:
    """Refuse arrays that cannot be the moments of any images.

    Raises:
        InputError: names the array and its fault.
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
    """Return moments that were read plus those added minus those subtracted; folds without images are left out.

    Raises:
        InputError: images are subtracted that are not among the others.
    """
    moments = read
    for saved in added:
        moments = merge(moments, saved.moments)
    for path, saved in subtracted:
        for fold, own in saved.moments.items():
            rest = moments[fold] - own if fold in moments else None
            # sum_y of a class is 2 n_class − n, and a sum of squares is never negative
            if rest is None or (rest.sum_y < -rest.n).any() or (np.diagonal(rest.gram) < 0).any():
                raise InputError(f"{path}: holds images that are not among those it is to be subtracted from")
            moments = {**moments, fold: rest}
    return {fold: own for fold, own in moments.items() if own.n}
