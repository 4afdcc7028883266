from __future__ import annotations

import json
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data.catalogue import Skipped
from common.data.decode import PixelFormat
from common.data.images import Block
from common.data.sources import open_table
from common.data.splits import FOLD_BUCKETS, FoldRule, hashed_buckets, hashed_test, stable_hashes
from common.data.storage import Storage
from common.data.table import writing
from common.data.table.reading import TableImages
from common.data.table.table import MANIFEST, Table
from common.data.table.writing import TableSettings, read_content, write_files
from common.errors import InputError, RunError
from common.ridge.moments import Moments
from common.ridge.tiles import BLOCK_ROWS
from tests.support.moments import assert_identical, moments_by_fold

RNG = np.random.default_rng(8)
SETTINGS = TableSettings((5, 4, 1), PixelFormat(), ("ash", "beech", "cedar"), 0.25, "a test")
HOLD_OUT = FoldRule(None, 0.2)


def a_block(n: int, start: int = 0, skipped: int = 0) -> Block:
    labels = RNG.integers(0, 3, n)
    names = [f"images/{i:05d}" for i in range(start, start + n)]
    unread = [Skipped(f"bad{i}", "damaged") for i in range(skipped)]
    return Block(RNG.integers(0, 256, (n, 5, 4, 1), np.uint8), labels, np.full(n, -1, np.int16), names, unread)


def a_table(folder: Path, blocks: list[Block], split: str | None = None) -> Table:
    storage = Storage.at(str(folder))
    written = [write_files(storage, SETTINGS, [block], split, 30) for block in blocks]
    counts = {name: np.zeros(3, np.int64) for name in ("train", "test")}
    for part in written:
        for name, by_label in part.class_counts.items():
            for label, n in by_label.items():
                counts[name][label] += n
    table = Table(
        storage,
        SETTINGS.shape,
        SETTINGS.pixel_format,
        SETTINGS.class_names,
        SETTINGS.test_fraction,
        tuple(file for part in written for file in part.files),
        counts,
        None,
        0,
        ("a test",),
    )
    table.save()
    return Table.open(storage)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 16 images of 20 features, two of which are sorted together."""
    monkeypatch.setattr(writing, "GROUP_BYTES", 16 * 20)
    monkeypatch.setattr(writing, "SORTED_GROUPS", 2)


def by_name(block: Block) -> dict[str, tuple[bytes, int]]:
    assert block.names is not None
    return {
        str(name): (pixels.tobytes(), int(label))
        for name, pixels, label in zip(block.names, block.pixels, block.labels, strict=True)
    }


# names ---------------------------------------------------------------------------------------------------------


def test_hashes_of_names_are_those_they_have_always_had() -> None:
    expected = [[2387216527, 2956178653, 202818124], [1513230173, 3877406418, 1804466928]]
    assert stable_hashes(["mnist/train/00000", "ash/żółw.png"]).tolist() == expected


def test_splits_and_folds_have_the_sizes_asked_for() -> None:
    hashes = stable_hashes([f"image {i}" for i in range(40_000)])
    assert abs(hashed_test(hashes, 0.2).mean() - 0.2) < 0.01
    buckets = hashed_buckets(hashes)
    assert buckets.min() >= 0
    assert buckets.max() < FOLD_BUCKETS
    assert abs((FoldRule(None, 0.3).of_buckets(buckets) == 0).mean() - 0.3) < 0.01
    for k in (2, 5, 7, 11):
        folds = FoldRule(k, 0).of_buckets(buckets)
        assert sorted(np.unique(folds)) == list(range(k))
        assert np.abs(np.bincount(folds) / 40_000 * k - 1).max() < 0.1
    # which split a name is in says nothing of its fold
    assert abs((buckets[hashed_test(hashes, 0.2)] < FOLD_BUCKETS / 2).mean() - 0.5) < 0.02


# storage -------------------------------------------------------------------------------------------------------


def test_a_stored_file_is_whole_or_not_there(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "table"))
    with pytest.raises(TypeError), storage.writing("images") as file:
        file.stream.write(None)
    assert storage.names("images") == []
    storage.write("images/b", b"whole")
    storage.write("images/a", b"first")
    storage.write("images/a", b"again")
    assert storage.names("images") == ["images/a", "images/b"]
    assert storage.read("images/a") == b"again"
    assert storage.entries() == {"images"}
    assert storage.names("nowhere") == []


def test_a_storage_is_named_by_path_or_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.at("a/b/").location == str(tmp_path / "a" / "b")
    assert Storage.at("file:/a/b").location == "/a/b"
    assert Storage.at("s3://bucket/a/").location == "s3://bucket/a"
    assert pickle.loads(pickle.dumps(Storage.at("a"))) == Storage.at("a")  # noqa: S301
    with pytest.raises(InputError, match=r"nonsense://x: cannot be reached"):
        Storage.at("nonsense://x").read("a")


# writing and reading -------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path: Path, small_groups: None) -> None:
    blocks = [a_block(100), a_block(37, 100, skipped=2), a_block(1, 137)]
    table = a_table(tmp_path, blocks)
    expected: dict[str, tuple[bytes, int]] = {}
    for block in blocks:
        expected |= by_name(block)
    found = {split: by_name(TableImages(table, HOLD_OUT, split).load(names=True)) for split in ("train", "test")}
    assert found["train"] | found["test"] == expected
    assert not set(found["train"]) & set(found["test"])
    in_test = hashed_test(stable_hashes(list(expected)), 0.25)
    assert set(found["test"]) == {name for name, test in zip(expected, in_test, strict=True) if test}
    assert by_name(TableImages(table, HOLD_OUT).load(names=True)) == expected
    assert len(TableImages(table, HOLD_OUT)) == 138
    train = TableImages(table, HOLD_OUT, "train")
    assert train.class_counts.tolist() == np.bincount(train.load().labels, minlength=3).tolist()


def test_a_source_may_say_itself_what_is_for_the_test(tmp_path: Path) -> None:
    table = a_table(tmp_path, [a_block(50)], "test")
    assert len(TableImages(table, HOLD_OUT, "test")) == 50
    assert len(TableImages(table, HOLD_OUT, "train")) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000])
def test_parts_hold_every_image_once(tmp_path: Path, small_groups: None, count: int) -> None:
    table = a_table(tmp_path, [a_block(200), a_block(100, 200)])
    images = TableImages(table, FoldRule(4, 0), "train")
    parts = pickle.loads(pickle.dumps(images.parts(count)))  # noqa: S301
    assert len(parts) <= count
    blocks = [block for part in parts for block in part.blocks(names=True)]
    assert max(len(block.labels) for block in blocks) <= 16
    names = [str(name) for block in blocks for name in block.names or ()]
    assert len(set(names)) == len(names) == len(images)
    sizes = [sum(len(block.labels) for block in part.blocks()) for part in parts]
    assert max(sizes) - min(sizes) <= 32
    whole = images.load()
    expected = moments_by_fold(whole.pixels, whole.labels, whole.folds, 3)
    assert sorted(expected) == [0, 1, 2, 3]
    buckets = hashed_buckets(stable_hashes(names))
    assert np.array_equal(np.concatenate([block.folds for block in blocks]), FoldRule(4, 0).of_buckets(buckets))


@pytest.mark.parametrize("limit", [1, 15, 16, 100, 226, 10_000])
def test_a_limit_takes_so_many_from_all_files(tmp_path: Path, small_groups: None, limit: int) -> None:
    table = a_table(tmp_path, [a_block(200), a_block(100, 200)], "train")
    images = TableImages(table, HOLD_OUT, "train", limit)
    loaded = images.load(names=True)
    assert len(images) == len(loaded.labels) == len(by_name(loaded)) == min(limit, 300)
    if 100 <= limit <= 226:
        assert len(set(map(str, loaded.names or ()))) == limit
        from_first = sum(int(str(name)[-5:]) < 200 for name in loaded.names or ())
        assert abs(from_first - limit * 2 / 3) <= 1


def test_images_of_known_files_can_be_left_out(tmp_path: Path) -> None:
    table = a_table(tmp_path, [a_block(30), a_block(20, 30)], "train")
    images = TableImages(table, HOLD_OUT, "train")
    first, second = sorted(images.identities)
    rest = images.without(frozenset({first, "another"}))
    assert rest.identities == {second}
    assert len(rest) in (20, 30)
    assert len(rest.without(frozenset({second}))) == 0
    assert TableImages(table, HOLD_OUT, "train", 40).identities.isdisjoint(images.identities)


def test_a_files_name_is_a_hash_of_what_is_in_it(tmp_path: Path) -> None:
    block = a_block(40)
    other = block._replace(pixels=block.pixels ^ np.uint8(1))
    files = [
        write_files(Storage.at(str(tmp_path / folder)), SETTINGS, [images], "train", 0).files[0].file
        for folder, images in (("a", block), ("b", block), ("c", other))
    ]
    assert files[0] == files[1] != files[2]
    first = next((tmp_path / "a" / "images").iterdir())
    assert first.read_bytes() == next((tmp_path / "b" / "images").iterdir()).read_bytes()


def test_names_of_bytes_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    block = a_block(2)._replace(names=["caf\udce9.png", "日本.png"])
    table = a_table(tmp_path, [block], "train")
    assert set(by_name(TableImages(table, HOLD_OUT).load(names=True))) == {"caf\\udce9.png", "日本.png"}


def test_moments_of_a_table_are_exact_across_row_groups(tmp_path: Path, small_groups: None) -> None:
    block = a_block(3 * BLOCK_ROWS + 5)
    table = a_table(tmp_path, [block])
    whole = TableImages(table, HOLD_OUT).load()
    assert_identical(
        Moments.of(whole.pixels, whole.labels, 3), Moments.of(block.pixels, np.asarray(block.labels), 3)
    )


def test_what_is_known_of_a_file_that_was_written_before(tmp_path: Path) -> None:
    table = a_table(tmp_path, [a_block(30)], "train")
    (file,) = table.files
    content = read_content(table.storage, file.file)
    assert content.file == file
    assert len(np.unique(content.hashes)) == 30
    assert content.made_with(SETTINGS)
    for other in (replace(SETTINGS, class_names=("ash", "beech", "oak")), replace(SETTINGS, source="another")):
        assert not content.made_with(other)
    with pytest.raises(FileNotFoundError):
        read_content(table.storage, "images/nothing")


# what is wrong -------------------------------------------------------------------------------------------------


def described(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return read


def edit_file(folder: Path, **changes: object) -> None:
    (file,) = described(folder)["files"]
    edit(folder, files=[{**file, **changes}])


def edit(folder: Path, **changes: object) -> None:
    described = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**described, **changes}))


def remove(folder: Path, key: str) -> None:
    described = json.loads((folder / MANIFEST).read_text())
    del described[key]
    (folder / MANIFEST).write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no dataset.json there.*ingest.py"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "not a whole description"),
        (lambda folder: remove(folder, "class_names"), "no 'class_names'"),
        (lambda folder: edit(folder, class_names=[]), "no list of class names"),
        (lambda folder: edit(folder, class_names=["a", "b"]), "counts do not fit"),
        (lambda folder: edit(folder, format="another"), "format 'another'"),
        (lambda folder: edit(folder, shape=[0, 4, 1]), "shape"),
        (lambda folder: edit(folder, files=[]), "counts do not fit"),
        (
            lambda folder: edit(
                folder, files=[{"file": "../x.parquet", "split": "train", "rows": 30, "group_rows": 9}]
            ),
            "'../x.parquet' is no file of a table",
        ),
        (lambda folder: edit(folder, quarantine="../precious.parquet"), "no quarantine of a table"),
        (lambda folder: edit_file(folder, rows="30"), "not a whole description"),
        (lambda folder: edit_file(folder, file=3), "not a whole description"),
        (lambda folder: edit_file(folder, split="test"), "no file of a table"),
        (lambda folder: edit(folder, files=2 * described(folder)["files"]), "names a file twice"),
    ],
)
def test_a_folder_that_is_no_table_is_refused_in_one_line(tmp_path: Path, damage, message: str) -> None:
    a_table(tmp_path, [a_block(30)], "train")
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_table(f"parquet:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def only_file(folder: Path) -> Path:
    (file,) = (folder / "images").iterdir()
    return file


def _other_shape(folder: Path) -> None:
    file = only_file(folder)
    read = pq.read_table(file)
    pixels = pa.array([b"x" * 7] * len(read), pa.binary(7))
    pq.write_table(read.set_column(0, "pixels", pixels), file)


def _other_labels(folder: Path) -> None:
    file = only_file(folder)
    read = pq.read_table(file)
    pq.write_table(read.set_column(1, "label", pa.array([3] * len(read), pa.int32())), file)


def _fewer_rows(folder: Path) -> None:
    read = pq.read_table(only_file(folder))
    pq.write_table(read.slice(0, len(read) - 1), only_file(folder))


def _no_pixels(folder: Path) -> None:
    read = pq.read_table(only_file(folder))
    pq.write_table(read.drop_columns("pixels"), only_file(folder))


def _damaged(folder: Path) -> None:
    data = bytearray(only_file(folder).read_bytes())
    data[200:300] = bytes(100)
    only_file(folder).write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: only_file(folder).unlink(), "not there, though the table names it"),
        (lambda folder: only_file(folder).write_bytes(b"PAR1"), "cannot be read"),
        (_damaged, "row group 0: cannot be read"),
        (_other_shape, "not of this table's shape"),
        (_other_labels, "not of this table's shape and classes"),
        (_fewer_rows, "lacks rows or columns"),
        (_no_pixels, "lacks rows or columns"),
    ],
)
def test_a_damaged_file_is_told_from_pixels(tmp_path: Path, damage, message: str) -> None:
    table = a_table(tmp_path, [a_block(300)], "train")
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        TableImages(table, HOLD_OUT, "train").load()
    assert "\n" not in str(caught.value)
    assert "images/train-" in str(caught.value)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let writes beyond so many bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_in_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "table"))
    with full_disk(1000), pytest.raises(RunError, match="table: cannot be written") as caught:
        write_files(storage, SETTINGS, [a_block(500)], None, 0)
    assert "\n" not in str(caught.value)
    assert storage.names("images") == []
    table = a_table(tmp_path / "other", [a_block(20)])
    before = (tmp_path / "other" / MANIFEST).read_bytes()
    with full_disk(10), pytest.raises(RunError, match="other: cannot be written"):
        table.save()
    assert (tmp_path / "other" / MANIFEST).read_bytes() == before


def test_images_that_cannot_be_read_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def blocks() -> Iterator[Block]:
        yield a_block(5)
        raise FileNotFoundError(2, "No such file or directory", "gone.parquet")

    with pytest.raises(InputError, match=r"gone.parquet: images cannot be read \(No such file or directory\)"):
        write_files(Storage.at(str(tmp_path / "table")), SETTINGS, blocks(), None, 0)
