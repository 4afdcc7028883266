"""The thumbnails of some images of a table, looked up by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.arrays import Pixels
from common.data.pillow import UndecodableImageError
from common.data.storage import Storage
from common.data.table.table import THUMBNAIL
from common.data.thumbnails import picture_of


def thumbnails(storage: Storage, files: Iterable[str], names: Collection[str]) -> dict[str, Pixels | None]:
    """Return the thumbnails of the images of some names, uint8 (h, w, 3); None for those that cannot be read.

    Names are read file by file, and thumbnails in those row groups alone that hold one of the names. Images of
    files without thumbnails, which earlier versions wrote, are left out.

    Args:
        storage: the table's folder.
        files: the files to look in.
        names: names of images.
    """
    found: dict[str, Pixels | None] = {}
    for file in files:
        if all(found.get(name) is not None for name in names):
            break
        try:
            with pq.ParquetFile(storage.open(file), page_checksum_verification=True) as opened:
                if THUMBNAIL in opened.schema_arrow.names:
                    for group in range(opened.num_row_groups):
                        found |= _of_group(opened, group, names)
        except (OSError, pa.ArrowException):  # a report goes without a picture
            found = dict.fromkeys(names) | found
    return found


def _of_group(opened: pq.ParquetFile, group: int, names: Collection[str]) -> Iterator[tuple[str, Pixels | None]]:
    held = opened.read_row_group(group, ["name"]).column("name")
    wanted = np.flatnonzero(pc.is_in(held, value_set=pa.array(sorted(names), pa.string())).to_numpy())
    if not len(wanted):
        return
    own = held.take(pa.array(wanted)).to_pylist()
    try:
        data = opened.read_row_group(group, [THUMBNAIL]).column(THUMBNAIL).take(pa.array(wanted)).to_pylist()
    except (OSError, pa.ArrowException):
        data = [b""] * len(own)
    for name, thumbnail in zip(own, data, strict=True):
        try:
            yield name, picture_of(thumbnail)
        except UndecodableImageError:
            yield name, None
