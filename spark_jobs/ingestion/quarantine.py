"""The quarantine of a table: a file that lists the images that could not be used."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.data.storage import Storage, writing_to
from common.data.table.table import QUARANTINE, QUARANTINED, Table


class QuarantinedImage(NamedTuple):
    """An image that could not be used.

    Attributes:
        name: name of the image.
        reason: why it could not be used.
        source: the source that named it.
    """

    name: str
    reason: str
    source: str


SCHEMA = pa.schema([(field, pa.string()) for field in QuarantinedImage._fields])


def quarantined_by_others(table: Table | None, source: str) -> list[QuarantinedImage]:
    """Return the quarantined images of all sources but `source`, whose images an ingest tries again."""
    if table is None or table.quarantine is None:
        return []
    try:
        rows = pq.read_table(table.storage.open(table.quarantine)).to_pylist()
    except (OSError, pa.ArrowException):
        return []  # an unreadable list of skipped images is no reason to refuse an ingest
    return [QuarantinedImage(**row) for row in rows if row["source"] != source]


def write_quarantine(storage: Storage, images: Sequence[QuarantinedImage]) -> str:
    """Write the list of quarantined images and return the name of its file."""
    columns = {field: [getattr(image, field) for image in images] for field in QuarantinedImage._fields}
    with writing_to(storage), storage.writing(QUARANTINED) as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file.stream)
        file.name = f"{QUARANTINED}/{uuid.uuid4().hex}.parquet"
    return file.name


def remove_other_quarantines(storage: Storage, current: str | None) -> None:
    """Remove the lists that `current`, if there is one, has replaced."""
    for file in storage.names(QUARANTINED):
        if file != current and QUARANTINE.fullmatch(file):
            storage.delete(file)
