"""The options of an ingest, and how they are reconciled with a table that exists already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.decode import PixelFormat
from common.data.storage import Storage
from common.data.table.table import Table
from common.data.table.writing import TableSettings
from common.errors import InputError
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
        class_names: the classes of the table, or None to take those of the source.
    """

    data_root: Path = Path("data")
    pixel_format: PixelFormat = field(default_factory=PixelFormat)
    test_fraction: float | None = None
    class_names: tuple[str, ...] | None = None

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

    def settings_for(self, source: str, listing: Listing, before: Table | None) -> TableSettings:
        """Return how the files of the table are made: as before, if there is a table already.

        Raises:
            InputError: the source does not fit the table, or its classes do not fit the table's.
        """
        pixel_format = self.pixel_format_for(before)
        classes = joined_classes(listing.class_names, before, self.class_names)
        if before is None:
            return TableSettings(listing.shape, pixel_format, classes, self.test_fraction or TEST_FRACTION, source)
        if before.shape != listing.shape:
            raise InputError(
                f"{before.storage}: holds images of {before.shape}, and the source has {listing.shape}; use --size"
            )
        return TableSettings(listing.shape, pixel_format, classes, before.test_fraction, source)


def joined_classes(found: Sequence[str], before: Table | None, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the table's classes: those chosen, or those it has followed by new ones of the source.

    Args:
        found: classes of the source.
        before: the table as it is, or None.
        chosen: classes that the user has chosen, or None.

    Raises:
        InputError: they contradict each other, or are fewer than two.
    """
    if chosen is not None:
        if before is not None and before.class_names != chosen:
            raise InputError("--classes: the table has other classes; leave --classes out, or name another DEST")
        unknown = [name for name in found if name not in set(chosen)]
        if unknown:
            raise InputError(f"class {unknown[0]!r} of the source is not among --classes ({len(unknown)} are not)")
        return chosen
    present = before.class_names if before else ()
    classes = (*present, *(name for name in found if name not in set(present)))
    if len(classes) < 2:
        only = f"only one class, {classes[0]!r}" if classes else "no class"
        raise InputError(f"{only}; a classifier needs two (--classes names classes whose images come later)")
    return classes


def class_names_of(location: str) -> tuple[str, ...]:
    """Read the class names of a table, of a run folder, or of a text file with one name per line.

    Raises:
        InputError: the location is none of these.
    """
    path = Path(location).expanduser()
    if path.is_file():
        try:
            names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, ValueError) as error:
            raise InputError(f"--classes {location}: cannot be read as UTF-8 text ({error})") from error
        if len(set(names)) != len(names) or len(names) < 2:
            raise InputError(f"--classes {location}: needs two or more different class names, one per line")
        return names
    if (path / "model.json").is_file():
        return RidgeModel.load(path).class_names
    return Table.open(Storage.at(location.removeprefix("parquet:"))).class_names
