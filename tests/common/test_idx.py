"""Files in the format of MNIST, and the sets that come in them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.data.catalogue import Catalogue
from common.data.decode import PixelFormat
from common.data.images import Block, CatalogueImages
from common.data.sources import idx, open_labelled
from common.data.sources.mnist import FashionMnist
from common.errors import InputError
from tests.support.idx import write_idx

RNG = np.random.default_rng(6)
AS_THEY_ARE = PixelFormat()


def load(catalogue: Catalogue) -> Block:
    return CatalogueImages(catalogue).load()


@pytest.fixture(params=["", ".gz"])
def small_mnist(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    arrays = {}
    for stem, n in (("train", 30), ("t10k", 10)):
        arrays[f"{stem}-images-idx3-ubyte"] = RNG.integers(0, 256, (n, 6, 5), np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        write_idx(folder / f"{name}{request.param}", array)
    return tmp_path / "data", arrays


def test_idx_files_are_read_compressed_or_not(small_mnist: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, arrays = small_mnist
    train, test = open_labelled("mnist", root, AS_THEY_ARE)[:2]
    assert np.array_equal(load(train).pixels[..., 0], arrays["train-images-idx3-ubyte"])
    assert test is not None
    assert np.array_equal(load(test).labels, arrays["t10k-labels-idx1-ubyte"])
    some = train.take(np.array([7, 3, 3]))
    assert np.array_equal(load(some).pixels[..., 0], arrays["train-images-idx3-ubyte"][[7, 3, 3]])
    assert some.names()[0] == "mnist/train/00007"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_found_as_kaggle_names_them_and_others_are_told(tmp_path: Path, suffix: str) -> None:
    dotted = tmp_path / f"train-images.idx3-ubyte{suffix}"
    dotted.write_bytes(b"")
    assert idx.find(tmp_path, "train-images-idx3-ubyte", "get it") == dotted
    dotted.rename(tmp_path / f"emnist-digits-train-images-idx3-ubyte{suffix}")
    with pytest.raises(InputError, match=r"there is emnist-digits-train-images-idx3-ubyte.*: rename the files"):
        idx.find(tmp_path, "train-images-idx3-ubyte", "get it")


def test_an_idx_file_that_changed_since_it_was_opened_is_refused(
    small_mnist: tuple[Path, dict[str, np.ndarray]],
) -> None:
    train, _ = open_labelled("mnist", small_mnist[0], AS_THEY_ARE)[:2]
    _truncate(small_mnist[0])
    with pytest.raises(InputError, match=r"train-images.*cannot be read any more"):
        load(train)
    next((small_mnist[0] / "mnist").glob("train-images*")).unlink()
    with pytest.raises(InputError, match=r"train-images.*No such file"):
        load(train)


@pytest.mark.parametrize("kind", ["fashion-mnist", "kmnist"])
def test_sets_in_the_format_of_mnist_have_their_own_folder_and_classes(
    small_mnist: tuple[Path, dict[str, np.ndarray]], kind: str
) -> None:
    root, arrays = small_mnist
    (root / "mnist").rename(root / kind)
    train, test = open_labelled(kind, root, AS_THEY_ARE)[:2]
    assert test is not None
    assert np.array_equal(load(test).pixels[..., 0], arrays["t10k-images-idx3-ubyte"])
    assert train.names()[0] == f"{kind}/train/00000"
    assert len(set(train.class_names)) == 10
    next((root / kind).glob("t10k-labels*")).unlink()
    with pytest.raises(InputError, match=rf"{kind}/t10k-labels-idx1-ubyte\[.gz\]: not found"):
        open_labelled(kind, root, AS_THEY_ARE)


def test_fashion_mnist_is_found_where_debian_puts_it_unless_the_data_root_has_it(
    small_mnist: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMnist, "elsewhere", tmp_path / "debian")
    root = small_mnist[0]
    source = FashionMnist()
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        source.open(root, AS_THEY_ARE)
    (tmp_path / "debian").mkdir()
    (root / "mnist").rename(tmp_path / "debian" / "fashion-mnist")
    assert source.open(root, AS_THEY_ARE).train.reader.path.parent == tmp_path / "debian" / "fashion-mnist"
    assert source.local_files(root).tops == [tmp_path / "debian" / "fashion-mnist"]
    (root / "fashion-mnist").mkdir()
    assert source.local_files(root).tops == [root / "fashion-mnist"]


def write_emnist(folder: Path, chosen: str, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Write images of a set of EMNIST, whose training and test images have the same labels, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {split: RNG.integers(0, 256, (len(labels), 6, 5), np.uint8) for split in ("train", "test")}
    for split, array in images.items():
        stem = folder / f"emnist-{chosen}-{split}"
        write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte.gz"), array.swapaxes(1, 2))
        write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), labels.astype(np.uint8))
    return images


@pytest.mark.parametrize(
    ("chosen", "n_classes", "first", "names"),
    [
        ("balanced", 47, 0, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        ("letters", 26, 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ("byclass", 62, 0, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_sets_of_emnist_are_turned_upright_and_have_their_classes(
    tmp_path: Path, chosen: str, n_classes: int, first: int, names: str
) -> None:
    labels = np.arange(first, first + n_classes)
    truth = write_emnist(tmp_path / "emnist", chosen, labels)
    train, test = open_labelled(f"emnist-{chosen}", tmp_path, AS_THEY_ARE)[:2]
    assert test is not None
    assert train.class_names == tuple(names)
    assert train.shape == (6, 5, 1)
    assert np.array_equal(load(train).pixels[..., 0], truth["train"])
    assert np.array_equal(load(test).pixels[..., 0], truth["test"])
    assert load(test).labels.tolist() == list(range(n_classes))
    assert test.names()[3] == f"emnist-{chosen}/test/00003"
    resized = open_labelled(f"emnist-{chosen}", tmp_path, PixelFormat((12, 10))).train
    assert load(resized).pixels.shape == (n_classes, 12, 10, 1)
    mapping = tmp_path / "emnist" / f"emnist-{chosen}-mapping.txt"
    mapping.write_text("".join(f"{label} {1000 + label} 97\n" for label in labels))
    named = open_labelled(f"emnist-{chosen}", tmp_path, AS_THEY_ARE).train
    assert named.class_names == tuple(chr(1000 + label) for label in labels)
    mapping.write_text("".join(f"{label} {1000 + label}\n" for label in labels[:-1]))
    with pytest.raises(InputError, match=rf"label {labels[-1]}, but those of emnist-{chosen} are {first} to"):
        open_labelled(f"emnist-{chosen}", tmp_path, AS_THEY_ARE)
    mapping.write_text("0\n")
    with pytest.raises(InputError, match=r"mapping.txt: a line is no label with codes"):
        open_labelled(f"emnist-{chosen}", tmp_path, AS_THEY_ARE)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("emnist", "--data emnist: no set of EMNIST; use one of emnist-byclass, emnist-bymerge, emnist-balanced"),
        ("emnist-fashion", "--data emnist-fashion: no set of EMNIST"),
        (
            "emnist-digits",
            r"emnist/emnist-digits-train-images-idx3-ubyte\[.gz\]: not found; put the files of this set",
        ),
    ],
)
def test_a_set_of_emnist_that_is_not_there(tmp_path: Path, spec: str, message: str) -> None:
    write_emnist(tmp_path / "emnist", "mnist", np.arange(10))
    with pytest.raises(InputError, match=message):
        open_labelled(spec, tmp_path, AS_THEY_ARE)


@pytest.mark.mnist
def test_mnist_is_mnist(data_root: Path) -> None:
    train, test = open_labelled("mnist", data_root, AS_THEY_ARE)[:2]
    assert test is not None
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (28, 28, 1))
    images = load(train)
    assert images.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert int(images.pixels.sum(dtype=np.int64)) == 1_567_298_545


def _no_root(root: Path) -> None:
    (root / "mnist").rename(root.parent / "away")
    root.rmdir()


def _truncate(root: Path) -> None:
    path = next((root / "mnist").glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-200])


def _damage(root: Path) -> None:
    path = next((root / "mnist").glob("train-images*"))
    data = bytearray(path.read_bytes())
    data[-4:] = b"\0\0\0\0" if path.suffix == ".gz" else b""
    path.write_bytes(bytes(data))


def _other_magic(root: Path) -> None:
    path = next((root / "mnist").glob("train-images*"))
    write_idx(path, np.zeros((30, 6, 5), np.uint8), b"\0\0\x0d\x03")


def _other_count(root: Path) -> None:
    path = next((root / "mnist").glob("train-labels*"))
    write_idx(path, np.zeros(29, np.uint8))


def _no_images(root: Path) -> None:
    path = next((root / "mnist").glob("train-images*"))
    write_idx(path, np.zeros((30, 0, 5), np.uint8))


def _as_many_as_overflow(root: Path) -> None:
    path = next((root / "mnist").glob("train-images*"))
    data = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 31, 1 << 31, 4)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _label_ten(root: Path) -> None:
    path = next((root / "mnist").glob("train-labels*"))
    write_idx(path, np.full(30, 10, np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_root, "no such data root.*make data.*digits"),
        (lambda root: next((root / "mnist").glob("t10k-labels*")).unlink(), "t10k-labels.*not found.*make data"),
        (_truncate, "train-images.*download it again"),
        (_damage, "train-images.*download it again"),
        (_other_magic, "magic number 00000d03, not 00000803"),
        (_other_count, "30 images and .* 29 labels"),
        (_label_ten, "label 10"),
        (_no_images, "no image at all"),
        (_as_many_as_overflow, "0 bytes where its header says 18,446,744,073,709,551,616"),
    ],
)
def test_damaged_idx_files_are_refused(
    small_mnist: tuple[Path, object], damage: Callable[[Path], None], message: str
) -> None:
    root, _ = small_mnist
    damage(root)
    with pytest.raises(InputError, match=message):
        open_labelled("mnist", root, AS_THEY_ARE)


def test_images_of_training_and_test_that_differ_in_size_are_told_when_opened(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for stem, side in (("train", 32), ("t10k", 28)):
        images = RNG.integers(0, 256, (20, side, side), np.uint8)
        write_idx(tmp_path / "mnist" / f"{stem}-images-idx3-ubyte", images)
        write_idx(tmp_path / "mnist" / f"{stem}-labels-idx1-ubyte", (np.arange(20) % 10).astype(np.uint8))
    with pytest.raises(InputError, match=r"32×32×1 and 28×28×1; bring all to one size with --size"):
        open_labelled("mnist", tmp_path, AS_THEY_ARE)
    assert open_labelled("mnist", tmp_path, PixelFormat((28, 28))).train.shape == (28, 28, 1)
