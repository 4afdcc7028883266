"""Finding image files in folders and by globs, where every file counts: it is an image or it is ignored.

Folders are listed by this process and not by an engine, whose listing may leave files out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.data.sources.patterns import ANY_DEPTH, alternatives, compiled, plain_name
from common.data.sources.tree import Entry, LocalTree, Tree, below, is_hidden

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".bmp", ".dib", ".tif", ".tiff", ".webp"},
)
"""Suffixes of image files. Files without a suffix are images if their first bytes say so."""

SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9_~-]{0,9}")
"""A suffix that tells a kind of file, which a number does not."""

MOST_KINDS = 5
"""Kinds of ignored files that a message names, at most."""


class FoundFiles(NamedTuple):
    """The files below a folder.

    Attributes:
        names: image files, relative to the folder with forward slashes, sorted.
        ignored: the number of files that are no images, by suffix, "without suffix" or "hidden".
    """

    names: list[str]
    ignored: Counter[str]


def find_files(root: Path) -> FoundFiles:
    """Find all files below a folder.

    Raises:
        OSError: a folder cannot be listed.
    """
    tree, found = LocalTree(root), FoundFiles([], Counter())
    _sort_in(tree, _walk(tree, [""]), found)
    found.names.sort()
    return found


def find_matches(tree: Tree, pattern: str) -> FoundFiles:
    """Find the files below a folder that a glob matches.

    A matched file is an image, whatever its name; hidden files are matched by a leading dot only. Of a matched
    folder, all files below it are found as `find_files` does.

    Args:
        tree: the folder.
        pattern: relative to the folder; see patterns.py.

    Raises:
        InputError: the pattern is none.
        OSError: a folder cannot be listed.
    """
    found = FoundFiles([], Counter())
    matched = {match for parts in alternatives(pattern) for match in _matches(tree, [""], parts)}
    files = {match.name for match in matched if not match.is_folder}
    folders = sorted(match.name for match in matched if match.is_folder)
    _sort_in(tree, sorted(set(_walk(tree, folders)) - files), found)
    return FoundFiles(sorted(files.union(found.names)), found.ignored)


def ignored_files(ignored: Mapping[str, int]) -> str:
    """Describe ignored files in one line, such as "180 files ignored: 170 .txt, 10 hidden"."""
    total, most = sum(ignored.values()), Counter(ignored).most_common(MOST_KINDS)
    kinds = [f"{count:,} {kind}" for kind, count in most]
    others = total - sum(count for _, count in most)
    more = f", {others:,} others" if others else ""
    files = "1 file" if total == 1 else f"{total:,} files"
    return f"{files} ignored: {', '.join(kinds)}{more}"


def _walk(tree: Tree, folders: Sequence[str]) -> Iterator[str]:
    """Yield the names of all files below some folders."""
    for _, files in tree.below(folders, hidden=True):
        yield from files


def _sort_in(tree: Tree, names: Iterable[str], found: FoundFiles) -> None:
    """Add files to the images, or count them as ignored."""
    unclear: list[str] = []
    for name in names:
        last = name.rpartition("/")[2]
        suffix = f".{last.rpartition('.')[2]}".lower() if "." in last else ""
        if any(part.startswith(".") for part in name.split("/")):
            found.ignored["hidden"] += 1
        elif suffix in SUFFIXES:
            found.names.append(name)
        elif SUFFIX.fullmatch(suffix):
            found.ignored[suffix] += 1
        else:
            unclear.append(name)
    for name, is_image in zip(unclear, tree.begin_like_images(unclear), strict=True):
        if is_image:
            found.names.append(name)
        else:
            found.ignored["without suffix"] += 1


def _matches(tree: Tree, folders: Sequence[str], parts: list[str]) -> Iterator[Entry]:
    """Yield what matches the parts of a glob below some folders."""
    first, *rest = parts
    if first == ANY_DEPTH:
        inner = tree.below(folders, hidden=False)
        if rest:
            yield from _matches(tree, [folder for folder, _ in inner], rest)
        else:
            yield from (Entry(name, False) for _, files in inner for name in files if not is_hidden(name))
        return
    name = plain_name(first)
    if name is not None:
        found = list(tree.existing([below(folder, name) for folder in folders]))
    else:
        pattern, hidden = compiled(first), first.startswith(".")
        found = [
            entry
            for entry in tree.entries(folders)
            if pattern.fullmatch(entry.name.rpartition("/")[2]) and (hidden or not is_hidden(entry.name))
        ]
    if not rest:
        yield from found
    elif inner_folders := [entry.name for entry in found if entry.is_folder]:
        yield from _matches(tree, inner_folders, rest)
