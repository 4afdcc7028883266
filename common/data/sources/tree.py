"""A folder and everything below it: where to find names, and how to read files.

On this machine, links are followed, but never into a folder that contains them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from common.data.pillow import UndecodableImageError

MAX_BYTES = 256 << 20
"""Size above which a file is skipped without reading it."""

SIGNATURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL)
"""First bytes of image files."""
SIGNATURE_BYTES = 16


class Entry(NamedTuple):
    """A file or folder.

    Attributes:
        name: relative to the tree's folder, with forward slashes.
        is_folder: True if it is a folder, or a link to one.
    """

    name: str
    is_folder: bool


class Tree(Protocol):
    """A folder and everything below it, by names relative to the folder; "" is the folder itself.

    It is small and travels by pickle between the processes of one run.
    """

    def entries(self, folders: Sequence[str]) -> Iterator[Entry]:
        """Yield what is directly in some folders.

        Raises:
            OSError: a folder cannot be listed.
        """
        ...

    def existing(self, names: Sequence[str]) -> Iterator[Entry]:
        """Yield those of the names that exist."""
        ...

    def below(self, folders: Sequence[str], *, hidden: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield folders and all folders below them, with the files in each.

        Args:
            folders: where to begin.
            hidden: whether to go into hidden folders.

        Raises:
            OSError: a folder cannot be listed.
        """
        ...

    def begin_like_images(self, names: Sequence[str]) -> Iterator[bool]:
        """Yield for each file whether its first bytes are those of an image."""
        ...

    def contents(self, names: Sequence[str]) -> Iterator[bytes | UndecodableImageError]:
        """Yield the bytes of each file, or why it cannot be used.

        Raises:
            OSError: the place where all of them lie cannot be read.
        """
        ...


@dataclass(frozen=True)
class LocalTree:
    """A folder of this machine, which every worker sees at the same path.

    Attributes:
        root: the folder.
    """

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def entries(self, folders: Sequence[str]) -> Iterator[Entry]:
        """Yield what is directly in some folders."""
        for folder in folders:
            with os.scandir(self.root / folder) as found:
                for entry in found:
                    yield Entry(below(folder, entry.name), _is_folder(entry))

    def existing(self, names: Sequence[str]) -> Iterator[Entry]:
        """Yield those of the names that exist, among them links that lead nowhere."""
        for name in names:
            if os.path.lexists(self.root / name):
                yield Entry(name, (self.root / name).is_dir())

    def below(self, folders: Sequence[str], *, hidden: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield folders and all folders below them, with the files in each."""
        for folder in folders:
            parts = Path(folder).parts
            above = (self.root.joinpath(*parts[:depth]) for depth in range(len(parts)))
            yield from self._below(folder, hidden, frozenset(map(_identity, above)))

    def _below(
        self, folder: str, hidden: bool, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield a folder and all below it, except through links to folders above, which are given by identity."""
        identity = _identity(self.root / folder)
        if identity in above:
            return
        found = list(self.entries([folder]))
        yield folder, [entry.name for entry in found if not entry.is_folder]
        for entry in found:
            if entry.is_folder and (hidden or not is_hidden(entry.name)):
                yield from self._below(entry.name, hidden, above | {identity})

    def begin_like_images(self, names: Sequence[str]) -> Iterator[bool]:
        """Yield for each file whether its first bytes are those of an image."""
        for name in names:
            yield _begins_like_an_image(self.root / name)

    def contents(self, names: Sequence[str]) -> Iterator[bytes | UndecodableImageError]:
        """Yield the bytes of each file, or why it cannot be used."""
        for name in names:
            try:
                yield read_file(self.root / name)
            except UndecodableImageError as error:
                yield error


def below(folder: str, name: str) -> str:
    """Return the name of what is in a folder."""
    return f"{folder}/{name}" if folder else name


def is_hidden(name: str) -> bool:
    """Return True if the last part of a name begins with a dot."""
    return name.rpartition("/")[2].startswith(".")


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UndecodableImageError: the file does not exist, cannot be read, or is larger than MAX_BYTES.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UndecodableImageError("not a regular file")
        check_size(status.st_size)
        return path.read_bytes()
    except OSError as error:
        raise UndecodableImageError(error.strerror or str(error)) from error
    except ValueError as error:  # a name that no file can have
        raise UndecodableImageError(str(error)) from error


def check_size(n_bytes: int) -> None:
    """Make sure that a file is small enough to be read.

    Raises:
        UndecodableImageError: it is larger than MAX_BYTES.
    """
    if n_bytes > MAX_BYTES:
        raise UndecodableImageError(f"{n_bytes:,} bytes, more than the {MAX_BYTES:,} that are allowed")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _begins_like_an_image(path: Path) -> bool:
    if not path.is_file():  # reading a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            return SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False
