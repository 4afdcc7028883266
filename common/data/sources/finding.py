"""Finding image files in folders and by globs, where every file counts: it is an image or it is ignored.

Folders are listed by this process and not by an engine, whose listing may leave files out. Links are followed, but
never into a folder that contains them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from common.data.sources.patterns import ANY_DEPTH, alternatives, compiled, plain_name

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".bmp", ".dib", ".tif", ".tiff", ".webp"},
)
"""Suffixes of image files. Files without a suffix are images if their first bytes say so."""

SIGNATURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL)
"""First bytes of image files."""
SIGNATURE_BYTES = 16

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
    found = FoundFiles([], Counter())
    for name in _walk(root):
        _sort_in(root, name, found)
    found.names.sort()
    return found


def find_matches(root: Path, pattern: str) -> FoundFiles:
    """Find the files below a folder that a glob matches.

    A matched file is an image, whatever its name; hidden files are matched by a leading dot only. Of a matched
    folder, all files below it are found as `find_files` does.

    Args:
        root: the folder.
        pattern: relative to the folder; see patterns.py.

    Raises:
        InputError: the pattern is none.
        OSError: a folder cannot be listed.
    """
    found = FoundFiles([], Counter())
    matched = {match for parts in alternatives(pattern) for match in _matches(root, "", parts)}
    files = {match.name for match in matched if not match.is_folder}
    folders = (match.name for match in matched if match.is_folder)
    for name in {inner for folder in folders for inner in _walk(root, folder)} - files:
        _sort_in(root, name, found)
    return FoundFiles(sorted(files.union(found.names)), found.ignored)


def ignored_files(ignored: Mapping[str, int]) -> str:
    """Describe ignored files in one line, such as "180 files ignored: 170 .txt, 10 hidden"."""
    total, most = sum(ignored.values()), Counter(ignored).most_common(MOST_KINDS)
    kinds = [f"{count:,} {kind}" for kind, count in most]
    others = total - sum(count for _, count in most)
    more = f", {others:,} others" if others else ""
    files = "1 file" if total == 1 else f"{total:,} files"
    return f"{files} ignored: {', '.join(kinds)}{more}"


def _walk(root: Path, folder: str = "") -> Iterator[str]:
    """Yield the names of all files below a folder, relative to `root`."""
    parents = [root.joinpath(*Path(folder).parts[:depth]) for depth in range(len(Path(folder).parts))]
    for _, files in _listed(root, folder, hidden=True, above=frozenset(map(_identity, parents))):
        yield from files


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _listed(
    root: Path, folder: str, *, hidden: bool, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and all folders below it, with the files in each, as names relative to `root`.

    Args:
        root: the folder that names are relative to.
        folder: where to begin.
        hidden: whether to go into hidden folders.
        above: identifies the folders above this one; links to them are not followed.
    """
    identity = _identity(root / folder)
    if identity in above:
        return
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            (folders if _is_folder(entry) else files).append(name)
    yield folder, files
    for name in folders:
        if hidden or not name.rpartition("/")[2].startswith("."):
            yield from _listed(root, name, hidden=hidden, above=above | {identity})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _sort_in(root: Path, name: str, found: FoundFiles) -> None:
    """Add a file to the images, or count it as ignored."""
    if any(part.startswith(".") for part in name.split("/")):
        found.ignored["hidden"] += 1
        return
    last = name.rpartition("/")[2]
    suffix = f".{last.rpartition('.')[2]}".lower() if "." in last else ""
    if suffix in SUFFIXES or (not SUFFIX.fullmatch(suffix) and _looks_like_an_image(root / name)):
        found.names.append(name)
    else:
        found.ignored[suffix if SUFFIX.fullmatch(suffix) else "without suffix"] += 1


def _looks_like_an_image(path: Path) -> bool:
    if not path.is_file():  # reading a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            return SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False


class _Match(NamedTuple):
    name: str
    is_folder: bool


def _matches(root: Path, folder: str, parts: list[str]) -> Iterator[_Match]:
    """Yield what matches the parts of a glob below `folder`, as names relative to `root`."""
    first, *rest = parts
    name = plain_name(first)
    if name is not None:
        found = _Match(f"{folder}/{name}" if folder else name, (root / folder / name).is_dir())
        if os.path.lexists(root / found.name):
            yield from _below(root, found, rest)
        return
    if first == ANY_DEPTH:
        for inner, files in _listed(root, folder, hidden=False):
            if rest:
                yield from _matches(root, inner, rest)
            else:
                yield from (_Match(file, False) for file in files if not file.rpartition("/")[2].startswith("."))
        return
    pattern = compiled(first)
    with os.scandir(root / folder) as entries:
        listed = [(entry.name, _is_folder(entry)) for entry in entries]
    for name, is_folder in listed:
        if pattern.fullmatch(name) and (first.startswith(".") or not name.startswith(".")):
            yield from _below(root, _Match(f"{folder}/{name}" if folder else name, is_folder), rest)


def _below(root: Path, found: _Match, rest: list[str]) -> Iterator[_Match]:
    """Yield a match, or what matches the other parts of the glob below it."""
    if not rest:
        yield found
    elif found.is_folder:
        yield from _matches(root, found.name, rest)
