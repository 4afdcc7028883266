"""Every file of a folder or glob is an image, or cannot be used, or is ignored: none is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from common.data.decode import AS_THEY_ARE
from common.data.sources import open_labelled
from common.data.sources.finding import find_files, find_matches, ignored_files
from common.data.sources.tree import LocalTree
from common.errors import InputError
from tests.support.odd_names import OddTree, odd_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> OddTree:
    return odd_tree(tmp_path_factory.mktemp("tree"))


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_a_folder_with_odd_names_loses_nothing(tree: OddTree) -> None:
    images = open_labelled(f"folder:{tree.root}", Path(), AS_THEY_ARE).train
    read = images.reader.read(images.items)
    assert len(read.kept) == tree.images
    assert {image.name for image in read.skipped} == tree.unusable
    assert sum(images.ignored.values()) == tree.ignored
    assert images.class_names == tree.classes
    assert len(images) + sum(images.ignored.values()) == tree.files


@pytest.mark.parametrize("pattern", ["*/**", "**", "*", "{o,_,E,c,É}*"])
def test_a_glob_of_folders_finds_what_the_folder_does(tree: OddTree, pattern: str) -> None:
    found, truth = find_matches(LocalTree(tree.root), pattern), find_files(tree.root)
    inside = [name for name in truth.names if "/" in name]
    assert [name for name in found.names if name in set(inside)] == inside


def test_a_glob_takes_every_name_that_is_not_hidden(tree: OddTree) -> None:
    names = find_matches(LocalTree(tree.root), "*/*").names
    assert sum("_DSC0001.JPG" in name for name in names) == 5
    assert sum("12:30:00" in name for name in names) == 5


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", "1.png 2.png"),
        ("?.png", "1.png 2.png"),
        ("[2-9].png", "2.png"),
        ("[^2].png", "1.png"),
        ("{1,2,a/x}.{png,jpg}", "1.png 2.png a/x.jpg"),
        ("**/*.jpg", "a/b/c/z.jpg a/b/y.jpg a/x.jpg"),
        ("a/**/*.jpg", "a/b/c/z.jpg a/b/y.jpg a/x.jpg"),
        ("a/*/*.jpg", "a/b/y.jpg"),
        ("a", "a/b/c/z.jpg a/b/y.jpg a/x.jpg"),
        (r"odd/\[1\]\*.png", "odd/[1]*.png"),
        ("odd/[[]1]*.png", "odd/[1]*.png"),
        (".*/*.png", ".hidden/h.png"),
        ("nothing*", ""),
    ],
)
def test_globs_mean_what_they_mean_to_hadoop(tmp_path: Path, pattern: str, expected: str) -> None:
    make(tmp_path, "1.png", "2.png", "a/x.jpg", "a/b/y.jpg", "a/b/c/z.jpg", "odd/[1]*.png", ".hidden/h.png")
    assert " ".join(find_matches(LocalTree(tmp_path), pattern).names) == expected


@pytest.mark.parametrize("pattern", ["{a,b", "[a", "[z-a]*"])
def test_what_is_no_pattern_is_told(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"not closed|no pattern"):
        find_matches(LocalTree(tmp_path), pattern)


def test_a_folder_that_contains_itself_is_listed_once(tmp_path: Path) -> None:
    make(tmp_path, "a/x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_files(tmp_path).names == ["a/x.png", "b/x.png"]


def test_ignored_files_are_counted_by_kind() -> None:
    counts = Counter({".txt": 60, ".xml": 100, "hidden": 1, ".a": 1, ".b": 1, ".c": 1})
    assert ignored_files(counts) == "164 files ignored: 100 .xml, 60 .txt, 1 hidden, 1 .a, 1 .b, 1 others"
    assert ignored_files({".txt": 1}) == "1 file ignored: 1 .txt"
