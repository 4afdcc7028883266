"""The images of a table by row, as networks read them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.data.catalogue import Classes
from common.data.decode import AS_THEY_ARE, DECODING_STEPS, PixelFormat
from common.data.sources.source import Requirements
from common.data.splits import FoldRule
from common.data.table.reading import TableImages
from common.data.table.rows import KEPT_GROUPS, TableReader, listed
from common.data.table.table import Table
from common.errors import InputError
from common.predict.inputs import KnownInputs, absolute, open_inputs
from tests.support.images import CLASSES, write_images
from tests.support.tables import make_table

FORMAT = PixelFormat((12, 10))
RULE = FoldRule(None, 0.3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("made") / "images")


@pytest.fixture(scope="module")
def table(images: Path) -> Table:
    return make_table(images, images.parent / "table", FORMAT)


@pytest.fixture(scope="module")
def pictures(images: Path) -> dict[str, Image.Image]:
    """The pictures of the folder, by name, in the size of the table."""
    files = {path.relative_to(images).as_posix(): Image.open(path) for path in images.rglob("*.png")}
    return {name: image.resize((10, 12), Image.Resampling.BILINEAR) for name, image in files.items()}


def test_all_images_are_listed_with_their_folds(table: Table, images: Path) -> None:
    files = sorted(images.parent.glob("table/images/train-*"))
    stored = [row for path in files for row in pq.read_table(path).to_pylist()]
    found = listed(TableImages(table, RULE, "train"))
    by_name = {row["name"]: row for row in stored}
    assert sorted(found.catalogue.names()) == sorted(by_name)
    for name, label, fold in zip(found.catalogue.names(), found.catalogue.labels, found.folds, strict=True):
        assert found.class_names[label] == name.partition("/")[0] == CLASSES[by_name[name]["label"]]
        assert fold == (0 if by_name[name]["fold"] < 0.3 * 5040 else -1)
    assert found.pixel_format == FORMAT
    some = listed(TableImages(table, RULE, "train", 11)).catalogue
    assert len(some) == 11
    assert set(some.names()) < set(by_name)


def test_images_are_read_in_any_order_and_each_row_group_once(
    table: Table, pictures: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = listed(TableImages(table, RULE)).catalogue
    reader = pickle.loads(pickle.dumps(catalogue.reader))  # noqa: S301 - as ranks get it
    assert isinstance(reader, TableReader)
    assert len(reader.part.ranges) > KEPT_GROUPS
    order = np.random.default_rng(1).permutation(60)
    items = pickle.loads(pickle.dumps(catalogue.items[order]))  # noqa: S301
    read: list[int] = []
    whole = TableReader._row_group

    def counted(self: TableReader, group: int) -> np.ndarray:
        read.append(group)
        return whole(self, group)

    monkeypatch.setattr(TableReader, "_row_group", counted)
    found = reader.read(items)
    assert sorted(read) == list(range(len(reader.part.ranges)))
    assert found.kept.tolist() == list(range(60))
    for item, pixels in zip(items, found.pixels, strict=True):
        assert np.array_equal(pixels, np.asarray(pictures[reader.name(item)]))
    assert reader.read(items[:0]).pixels.shape == (0, 12, 10, 3)


def requirements(pixel_format: PixelFormat, shape: tuple[int, int, int]) -> Requirements:
    return Requirements(pixel_format, shape, Classes(("cedar", "ash")), DECODING_STEPS)


def test_a_network_of_another_size_gets_resized_images(table: Table, pictures: dict[str, Image.Image]) -> None:
    wanted = requirements(PixelFormat((6, 6), grey=True, crop=True), (6, 6, 1))
    inputs = open_inputs(f"parquet:{table.storage}", Path(), None, wanted, Path.cwd())
    assert isinstance(inputs, KnownInputs)
    assert inputs.total == 60
    assert inputs.reader.shape == (6, 6, 1)
    arrived = inputs.take(60)
    label = {"ash": 1, "beech": -1, "cedar": 0}
    assert arrived.labels.tolist() == [label[name.partition("/")[0]] for name in arrived.ids]
    found = inputs.reader.read(arrived.items)
    for name, pixels in zip(arrived.ids, found.pixels, strict=True):
        small = pictures[name].convert("L").resize((6, 7), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels[..., 0], np.asarray(small)[:6])


def test_a_model_whose_images_were_taken_as_they_were_gets_its_own_size_and_colour(table: Table) -> None:
    wanted = requirements(AS_THEY_ARE, (6, 4, 1))
    inputs = open_inputs(f"parquet:{table.storage}", Path(), None, wanted, Path.cwd())
    assert inputs.reader.shape == (6, 4, 1)
    assert inputs.reader.read(inputs.take(3).items).pixels.shape == (3, 6, 4, 1)


def test_splits_and_what_a_table_has_lost(table: Table, images: Path) -> None:
    spec, wanted = f"parquet:{table.storage}", requirements(FORMAT, (12, 10, 3))
    for split in ("train", "test"):
        inputs = open_inputs(spec, Path(), split, wanted, Path.cwd())
        assert inputs.total == int(table.class_counts[split].sum())
        assert not inputs.reader.decodes
    black = make_table(images, images.parent / "black", PixelFormat((12, 10), binarize=0.5))
    with pytest.raises(InputError, match=r"its images are 12x10 binarized at 0.5, and the model's were 12x10$"):
        open_inputs(f"parquet:{black.storage}", Path(), None, wanted, Path.cwd())


def test_a_missing_file_is_one_line(table: Table, images: Path) -> None:
    other = make_table(images, images.parent / "other", FORMAT)
    reader = listed(TableImages(other, RULE)).catalogue
    (images.parent / "other" / other.files[0].file).unlink()
    with pytest.raises(InputError, match="not there, though the table names it; ingest again"):
        reader.reader.read(reader.items)
    with pytest.raises(InputError, match="not there, though the table names it; ingest again"):
        listed(TableImages(other, RULE))


def test_the_name_of_a_table_does_not_depend_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("parquet:tables/t") == f"parquet:{tmp_path}/tables/t"
    assert absolute("parquet:s3://bucket/t") == "parquet:s3://bucket/t"
