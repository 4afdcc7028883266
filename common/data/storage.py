"""A folder on any file system that Arrow knows, in which files appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from common.data.shipped import seen_by_workers
from common.errors import InputError

PARTIAL = ".partial"


@dataclass(frozen=True)
class Storage:
    """A folder; small, and travels by pickle.

    Attributes:
        place: an absolute path, or an address such as s3://bucket/folder.
    """

    place: str

    @classmethod
    def at(cls, place: str) -> Storage:
        """The folder at a path, which may be relative, or at an address."""
        return cls(
            place.rstrip("/") if "://" in place else str(seen_by_workers(Path(place.removeprefix("file:"))))
        )

    def __str__(self) -> str:
        return self.place

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self.open(name) as file:
            return bytes(file.read())

    def open(self, name: str) -> pa.NativeFile:
        """A file to read in any order."""
        filesystem, root = _filesystem(self.place)
        return filesystem.open_input_file(f"{root}/{name}")

    @contextmanager
    def writing(self, folder: str) -> Iterator[Writing]:
        """A file in `folder` that gets its name while it is written, and is gone when the block raises."""
        filesystem, root = _filesystem(self.place)
        filesystem.create_dir(f"{root}/{folder}".rstrip("/"), recursive=True)
        partial = f"{root}/{folder}/{uuid.uuid4().hex}{PARTIAL}".replace("//", "/")
        try:
            with filesystem.open_output_stream(partial) as stream:
                written = Writing(stream)
                yield written
            _settle(filesystem, partial, f"{root}/{written.name}")
        except BaseException:
            with suppress(OSError):  # it may not have come into being
                filesystem.delete_file(partial)
            raise

    def write(self, name: str, data: bytes) -> None:
        """A whole file at once."""
        with self.writing(name.rpartition("/")[0]) as file:
            file.stream.write(data)
            file.name = name

    def names(self, folder: str) -> list[str]:
        """Files in `folder`, as folder/name, sorted; none where there is no such folder."""
        filesystem, root = _filesystem(self.place)
        found = filesystem.get_file_info(fs.FileSelector(f"{root}/{folder}", allow_not_found=True))
        return sorted(f"{folder}/{info.base_name}".lstrip("/") for info in found if info.type == fs.FileType.File)

    def delete(self, name: str) -> None:
        """Remove a file."""
        filesystem, root = _filesystem(self.place)
        filesystem.delete_file(f"{root}/{name}")

    def delete_folder(self, folder: str = "") -> None:
        """Remove a folder, or the whole of this one, and everything in it."""
        filesystem, root = _filesystem(self.place)
        filesystem.delete_dir(f"{root}/{folder}".rstrip("/"))

    def entries(self) -> set[str]:
        """Names of files and folders that lie directly in it; none where there is nothing."""
        filesystem, root = _filesystem(self.place)
        found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
        return {info.base_name for info in found}


@dataclass
class Writing:
    """A file that is being written.

    Attributes:
        stream: to write to.
        name: relative to the storage; to be set before the file is closed.
    """

    stream: pa.NativeFile
    name: str = ""


def _settle(filesystem: fs.FileSystem, partial: str, path: str) -> None:
    """Give a file that is written its name."""
    if isinstance(filesystem, fs.LocalFileSystem):
        with Path(partial).open("rb") as file:
            os.fsync(file.fileno())  # before the name, or a power cut could leave a name without a file
    elif filesystem.type_name == "hdfs" and filesystem.get_file_info(path).type != fs.FileType.NotFound:
        filesystem.delete_file(path)  # there a rename does not replace
    filesystem.move(partial, path)


@lru_cache(maxsize=8)
def _filesystem(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a place and its path there; made once a process."""
    if "://" not in place:
        return fs.LocalFileSystem(), place
    try:
        filesystem, path = fs.FileSystem.from_uri(place)
    except (OSError, ValueError) as error:  # unknown scheme, no driver for it, no such bucket
        raise InputError(f"{place}: cannot be reached ({str(error).splitlines()[0]})") from error
    return filesystem, path
