"""Image tables made in this process, and folders that are split as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.data.decode import PixelFormat
from common.data.images import CatalogueImages
from common.data.sources import open_labelled
from common.data.splits import FOLD_BUCKETS
from common.data.storage import Storage
from common.data.table import writing
from common.data.table.table import SPLITS, Table
from common.data.table.writing import TableSettings, write_files


def make_table(images: Path, folder: Path, pixel_format: PixelFormat, group_rows: int = 7) -> Table:
    """Decode a folder of images into a table, of two files per split, and return it."""
    spec = f"folder:{images}"
    found = CatalogueImages(open_labelled(spec, images, pixel_format).everything, pixel_format=pixel_format)
    settings = TableSettings(found.shape, pixel_format, found.class_names, 0.25, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "GROUP_BYTES", group_rows * found.n_pixels)
        written = [
            write_files(Storage.at(str(folder)), settings, part.blocks(names=True), None, 0)
            for part in found.parts(2)
        ]
    counts = {split: np.zeros(len(found.class_names), np.int64) for split in SPLITS}
    for part in written:
        for split, by_label in part.class_counts.items():
            for label, n in by_label.items():
                counts[split][label] += n
    files = tuple(file for part in written for file in part.files)
    skipped = sum(len(part.skipped) for part in written)
    table = Table(
        Storage.at(str(folder)),
        found.shape,
        pixel_format,
        found.class_names,
        0.25,
        files,
        counts,
        None,
        skipped,
        (spec,),
    )
    table.save()
    return table


def split_as(table: Path, images: Path, folder: Path, validation: float = 0.2) -> Path:
    """Lay out a folder of images in train/, valid/ and test/, as a table splits them; return that folder."""
    for path in sorted(table.glob("images/*.parquet")):
        read = pq.read_table(path, columns=["name", "split", "fold"]).to_pylist()
        for name, split, fold in (row.values() for row in read):
            held_out = split == "train" and fold < validation * FOLD_BUCKETS
            target = folder / ("valid" if held_out else split) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(images / name)
    return folder
