"""The options of an ingest, and how they are reconciled with a table that exists already."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.atomic import read_text
from common.data.catalogue import Classes, printable
from common.data.decode import PixelFormat
from common.data.shipped import absolute
from common.data.sources.label_file import LabelFile
from common.data.storage import Storage
from common.data.table.table import Table
from common.data.table.writing import TableSettings
from common.errors import InputError
from common.features.feature_map import Shape
from common.features.spec import FeatureSpec
from common.ridge.model import RidgeModel
from spark_jobs.ingestion.listing import Listing

TEST_FRACTION = 0.2
"""Fraction of the names that are test images unless --test says otherwise."""


@dataclass(frozen=True)
class IngestOptions:
    """The options of an ingest.

    Attributes:
        data_root: folder of the named sets.
        pixel_format: what images are decoded into; the default leaves it to the table, if there is one.
        test_fraction: fraction of the names held out for the test, or None for the table's or TEST_FRACTION.
        classes: the classes of the table, or None to take those of the source.
        features: what to store in the place of pixels; None for the table's features, or pixels.
        seed: of the sample that features are learnt from.
        labels: a file with the classes of the images of a folder; None if the source has them.
    """

    data_root: Path = Path("data")
    pixel_format: PixelFormat = field(default_factory=PixelFormat)
    test_fraction: float | None = None
    classes: Classes | None = None
    features: FeatureSpec | None = None
    seed: int = 0
    labels: LabelFile | None = None

    def pixel_format_for(self, before: Table | None) -> PixelFormat:
        """Return the pixel format of the table, or the chosen one if there is no table.

        Raises:
            InputError: the options contradict the table.
        """
        if before is None:
            return self.pixel_format
        if self.pixel_format not in (PixelFormat(), before.pixel_format):
            formats = f"its images are {before.pixel_format}, not {self.pixel_format}"
            raise InputError(f"{before.storage}: {formats}; name another DEST")
        if self.test_fraction not in (None, before.test_fraction):
            raise InputError(f"{before.storage}: was made with --test {before.test_fraction:g}; name another DEST")
        return before.pixel_format

    def settings_for(
        self, source: str, listing: Listing, before: Table | None, shape: Shape | None
    ) -> TableSettings:
        """Return how the files of a table of images are made: as before, if there is a table already.

        Args:
            source: the source, as typed.
            listing: its images.
            before: the table, if there is one.
            shape: the shape of the images of that table.

        Raises:
            InputError: the source does not fit the table, or its classes do not fit the table's.
        """
        pixel_format = self.pixel_format_for(before)
        classes = joined_classes(listing.classes, before, self.classes)
        if before is None:
            fraction = self.test_fraction or TEST_FRACTION
            settings = TableSettings(listing.shape, pixel_format, classes.names, fraction, source, classes.ids)
            return replace(settings, grouped=listing.grouped)
        if before.grouped != listing.grouped:
            has, wants = ("" if grouped else "no " for grouped in (before.grouped, listing.grouped))
            mend = "give --group-column as before" if before.grouped else "leave out --group-column"
            raise InputError(
                f"{before.storage}: its images have {has}groups, and these have {wants}groups, so that a group "
                f"could be split; name another DEST, or {mend}"
            )
        if shape != listing.shape:
            raise InputError(
                f"{before.storage}: holds images of {shape}, and the source has {listing.shape}; use --size"
            )
        settings = TableSettings(
            listing.shape, pixel_format, classes.names, before.test_fraction, source, classes.ids
        )
        return replace(settings, grouped=before.grouped)


def joined_classes(found: Classes, before: Table | None, chosen: Classes | None) -> Classes:
    """Return the table's classes: those chosen, or those it has followed by new ones of the source.

    Args:
        found: classes of the source.
        before: the table as it is, or None.
        chosen: classes that the user has chosen, or None.

    Raises:
        InputError: they contradict each other, or a new table would have fewer than two.
    """
    if before is not None and chosen is not None and before.classes != chosen:
        raise InputError("--classes: the table has other classes; leave --classes out, or name another DEST")
    present = chosen or (before.classes if before else None)
    if present is None:
        if len(found.names) < 2:
            only = f"only one class, {found.names[0]!r}" if found.names else "no class"
            raise InputError(f"{only}; a classifier needs two (--classes names classes whose images come later)")
        return found
    at = present.positions(found)
    unknown = np.flatnonzero(at < 0)
    new = Classes(
        tuple(found.names[i] for i in unknown),
        tuple(found.ids[i] for i in unknown) if found.ids else None,
    )
    if chosen is not None and new.names:
        raise InputError(
            f"class {new.names[0]!r} of the source is not among --classes ({len(new.names)} such classes); "
            "let --classes name a text file with all classes"
        )
    return joined(present, new)


def joined(present: Classes, new: Classes) -> Classes:
    """Return classes followed by new ones.

    Raises:
        InputError: only ids could tell them apart, and one side has none.
    """
    if not new.names:
        return present
    ids = present.ids + new.ids if present.ids and new.ids else None
    names = present.names + new.names
    if ids is None and len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise InputError(
            f"two classes are called {twice!r}, and the table or the source has no ids to tell them apart; "
            "name another DEST"
        )
    return Classes(names, ids)


def classes_of(location: str) -> Classes:
    """Read the classes of a table, of a run folder, or of a text file with one name per line.

    Raises:
        InputError: the location is none of these.
    """
    path = absolute(Path(location))
    if path.is_file():
        lines = read_text(path, f"--classes {location}").splitlines()
        names = tuple(printable(line.strip()) for line in lines if line.strip())
        if len(set(names)) != len(names) or len(names) < 2:
            raise InputError(f"--classes {location}: needs two or more different class names, one per line")
        return Classes(names)
    if "://" not in location and not location.startswith("parquet:") and not path.exists():
        raise InputError(f"--classes {location}: no such file, run folder or table")
    if (path / "model.json").is_file():
        return RidgeModel.load(path).classes
    return Table.open(Storage.at(location.removeprefix("parquet:"))).classes
