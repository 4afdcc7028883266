"""Table: the description of an image table, dataset.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Labels
from common.atomic import READABLE
from common.data.catalogue import Classes
from common.data.decode import PixelFormat
from common.data.storage import Storage, writing_to
from common.errors import InputError

FORMAT = "image table, version 1"
MANIFEST = "dataset.json"
REPORT = "report.html"
FEATURES = "features.npz"
"""The arrays of the feature map, in a table of features."""
IMAGES, QUARANTINED = "images", "quarantine"

FILE = re.compile(rf"{IMAGES}/(?P<split>train|test)-(?P<identity>[0-9a-f]{{32}})\.parquet")
QUARANTINE = re.compile(rf"{QUARANTINED}/[0-9a-f]{{32}}\.parquet")
"""The names of a table's files. No other file is ever read or removed."""

SPLITS = ("train", "test")

THUMBNAIL = "thumbnail"
"""The column of thumbnails, in a table of features."""

COLUMNS = {
    "pixels": "fixed-size binary, uint8 in the order height, width, channel",
    "label": "int32, position in class_names",
    "name": "string, unique in the table",
    "split": "string, train or test",
    "fold": "int16, 0 to 5039 by the hash of the name, or of the group; K folds and hold-outs are ranges of it",
}

IN_A_THUMBNAIL = "binary, the image as a JPEG file of 64 by 64 pixels at most; files of earlier versions lack it"


class TableFile(NamedTuple):
    """A file of the table.

    Attributes:
        file: its name in the table's folder, which ends in the split and a hash of its images.
        split: "train" or "test".
        rows: the number of images.
        group_rows: images per row group; the last one may have fewer.
    """

    file: str
    split: str
    rows: int
    group_rows: int


@dataclass(frozen=True)
class Table:
    """An image table.

    Attributes:
        storage: its folder.
        shape: (height, width, channels) of every image.
        pixel_format: what images were decoded into.
        class_names: one name per class.
        test_fraction: the fraction of names held out for the test if the source had no test set.
        files: its files.
        class_counts: by split, int64 (n_classes,): images per class.
        quarantine: the file that lists skipped images, or None.
        quarantined: the number of images it lists.
        sources: the sources that it was made from.
        class_ids: the sources' own identifiers of the classes; None if those are the names.
        ignored: by source, the number of files beside the images that are none, by kind.
        features: in a table of features, what computed them; see common.features.table.described_map.
        grouped: True if split and fold follow from the hashes of groups, and not of names.
    """

    storage: Storage
    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    class_names: tuple[str, ...]
    test_fraction: float
    files: tuple[TableFile, ...]
    class_counts: dict[str, Labels]
    quarantine: str | None
    quarantined: int
    sources: tuple[str, ...]
    class_ids: tuple[str, ...] | None = None
    ignored: dict[str, dict[str, int]] = field(default_factory=dict)
    features: dict[str, Any] | None = None
    grouped: bool = False

    @property
    def classes(self) -> Classes:
        """Names and ids of the classes."""
        return Classes(self.class_names, self.class_ids)

    @property
    def n_ignored(self) -> int:
        """The number of files beside the images of all sources."""
        return sum(sum(kinds.values()) for kinds in self.ignored.values())

    def save(self) -> None:
        """Write dataset.json, atomically: this commits everything else."""
        described: dict[str, Any] = {
            "format": FORMAT,
            "shape": self.shape,
            "pixel_format": self.pixel_format.described(),
            "class_names": self.class_names,
            **({"class_ids": self.class_ids} if self.class_ids else {}),
            **({"features": self.features} if self.features else {}),
            **({"grouped": True} if self.grouped else {}),
            "test_fraction": self.test_fraction,
            "images": {split: int(counts.sum()) for split, counts in self.class_counts.items()},
            "quarantined": self.quarantined,
            "quarantine": self.quarantine,
            "ignored": self.ignored,
            "sources": self.sources,
            "columns": COLUMNS | ({THUMBNAIL: IN_A_THUMBNAIL} if self.features else {}),
            "class_counts": {split: counts.tolist() for split, counts in self.class_counts.items()},
            "files": [file._asdict() for file in self.files],
        }
        with writing_to(self.storage):
            self.storage.write(MANIFEST, json.dumps(described, indent=1, ensure_ascii=False).encode(*READABLE))

    @classmethod
    def exists(cls, storage: Storage) -> bool:
        """Return True if there is a finished table.

        Raises:
            InputError: the location cannot be reached.
        """
        try:
            storage.open(MANIFEST).close()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InputError(f"{storage}: cannot be read ({str(error).splitlines()[0]})") from error
        return True

    @classmethod
    def open(cls, storage: Storage) -> Table:
        """Read dataset.json.

        Raises:
            InputError: the description is missing or invalid.
        """
        try:
            described = json.loads(storage.read(MANIFEST))
        except FileNotFoundError as error:
            raise InputError(
                f"{storage}: no {MANIFEST} there, so it is no image table, or one whose ingest did not finish; "
                "`spark-submit spark_jobs/ingest.py SOURCE DEST` makes and completes tables"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{storage}/{MANIFEST}: cannot be read ({error}); ingest again") from error
        try:
            if described["format"] != FORMAT:
                raise InputError(f"{storage}/{MANIFEST}: format {described['format']!r}, not {FORMAT!r}")
            height, width, channels = (int(length) for length in described["shape"])
            table = cls(
                storage=storage,
                shape=(height, width, channels),
                pixel_format=PixelFormat.of(described["pixel_format"]),
                class_names=tuple(described["class_names"]),
                test_fraction=float(described["test_fraction"]),
                files=tuple(TableFile(**file) for file in described["files"]),
                class_counts={s: np.array(described["class_counts"][s], np.int64) for s in SPLITS},
                quarantine=described["quarantine"],
                quarantined=int(described["quarantined"]),
                sources=tuple(described["sources"]),
                class_ids=tuple(described["class_ids"]) if "class_ids" in described else None,
                ignored=described.get("ignored", {}),
                features=described.get("features"),
                grouped=bool(described.get("grouped", False)),
            )
            table._check()
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{storage}/{MANIFEST}: not a whole description ({what}); ingest again") from error
        return table

    def _check(self) -> None:
        """Refuse a description that contradicts itself or leads out of its folder.

        Raises:
            InputError: the description is refused.
        """
        where = f"{self.storage}/{MANIFEST}"
        if not self.class_names or not all(isinstance(name, str) for name in self.class_names):
            raise InputError(f"{where}: no list of class names; ingest again")
        if self.class_ids and len(set(self.class_ids)) != len(self.class_names):
            raise InputError(f"{where}: the ids of classes do not fit their names; ingest again")
        if min(self.shape) < 1:
            raise InputError(f"{where}: shape {self.shape} is none an image can have; ingest again")
        for file in self.files:
            named = FILE.fullmatch(file.file)
            if not named or named["split"] != file.split or file.rows < 1 or file.group_rows < 1:
                raise InputError(f"{where}: {file.file!r} is no file of a table; refused")
        if len({file.file for file in self.files}) < len(self.files):
            raise InputError(f"{where}: names a file twice; ingest again")
        if self.quarantine is not None and not QUARANTINE.fullmatch(self.quarantine):
            raise InputError(f"{where}: {self.quarantine!r} is no quarantine of a table; refused")
        for split, counts in self.class_counts.items():
            rows = sum(file.rows for file in self.files if file.split == split)
            if counts.shape != (len(self.class_names),) or counts.min() < 0 or counts.sum() != rows:
                raise InputError(f"{where}: the {split} counts do not fit classes and files; ingest again")
