"""A folder on any file system that Arrow supports, in which files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from common.atomic import readable
from common.data.hdfs import HDFS, LIBHDFS, hdfs
from common.data.shipped import seen_by_workers
from common.errors import InputError, RunError

PARTIAL = ".partial"


@dataclass(frozen=True)
class Storage:
    """A folder; it is small and travels by pickle.

    Attributes:
        location: an absolute path, or an address such as s3://bucket/folder.
    """

    location: str

    @classmethod
    def at(cls, location: str) -> Storage:
        """Return the folder at a path, which may be relative, or at an address.

        Raises:
            InputError: the location cannot be named to Arrow, or is below an unknown folder.
        """
        try:
            location.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{readable(location)}: is no UTF-8; name another folder") from error
        location = without_file_scheme(location)
        if "://" in location:
            # what Hadoop calls s3a is s3 for Arrow
            scheme, _, rest = location.partition("://")
            return cls(f"{re.sub('^s3[an]$', 's3', scheme)}://{rest.rstrip('/')}")
        return cls(str(seen_by_workers(Path(location))))

    def __str__(self) -> str:
        return self.location

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            OSError: it does not exist or cannot be read.
        """
        with self.open(name) as file:
            return bytes(file.read())

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading in any order."""
        filesystem, root = _filesystem(self.location)
        return filesystem.open_input_file(f"{root}/{name}")

    @contextmanager
    def writing(self, folder: str) -> Iterator[Writing]:
        """Write a file in `folder`; it gets its name when the block ends, and is removed if the block raises.

        The name may be chosen inside the block.
        """
        filesystem, root = _filesystem(self.location)
        filesystem.create_dir(f"{root}/{folder}".rstrip("/"), recursive=True)
        partial = f"{root}/{folder}/{uuid.uuid4().hex}{PARTIAL}".replace("//", "/")
        try:
            with filesystem.open_output_stream(partial) as stream:
                written = Writing(stream)
                yield written
            _settle(filesystem, partial, f"{root}/{written.name}")
        except BaseException as error:
            if isinstance(error, FileNotFoundError) and partial in str(error):
                reason = "removed while it was being written, perhaps by another job that writes to the same place"
                raise FileNotFoundError(errno.ENOENT, f"{partial} was {reason}") from error
            with suppress(OSError):  # it may not exist
                filesystem.delete_file(partial)
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file at once."""
        with self.writing(name.rpartition("/")[0]) as file:
            file.stream.write(data)
            file.name = name

    def names(self, folder: str) -> list[str]:
        """Return the files in `folder` as folder/name, sorted; none if there is no such folder."""
        filesystem, root = _filesystem(self.location)
        found = filesystem.get_file_info(fs.FileSelector(f"{root}/{folder}", allow_not_found=True))
        return sorted(f"{folder}/{info.base_name}".lstrip("/") for info in found if info.type == fs.FileType.File)

    def listed(self, folder: str) -> list[tuple[str, bool]]:
        """Return the name of everything directly in a folder, and whether it is a folder itself.

        Raises:
            FileNotFoundError: there is no such folder.
            OSError: it cannot be listed.
        """
        filesystem, root = _filesystem(self.location)
        found = filesystem.get_file_info(fs.FileSelector(f"{root}/{folder}".rstrip("/") or "/"))
        return [(info.base_name, info.type == fs.FileType.Directory) for info in found]

    def is_folder(self, name: str) -> bool | None:
        """Return True for the name of a folder, False for that of a file, and None if nothing has this name."""
        filesystem, root = _filesystem(self.location)
        kind = filesystem.get_file_info(f"{root}/{name}").type
        return None if kind == fs.FileType.NotFound else kind == fs.FileType.Directory

    def delete(self, name: str) -> None:
        """Remove a file."""
        filesystem, root = _filesystem(self.location)
        filesystem.delete_file(f"{root}/{name}")

    def delete_folder(self, folder: str = "") -> None:
        """Remove a folder and everything in it; without a name, this whole storage."""
        filesystem, root = _filesystem(self.location)
        filesystem.delete_dir(f"{root}/{folder}".rstrip("/"))

    def entries(self) -> set[str]:
        """Return the names of files and folders directly in this storage; none if it does not exist."""
        filesystem, root = _filesystem(self.location)
        found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
        return {info.base_name for info in found}


@dataclass
class Writing:
    """A file that is being written.

    Attributes:
        stream: the stream to write to.
        name: its final name, relative to the storage; must be set before the file is closed.
    """

    stream: pa.NativeFile
    name: str = ""


def without_file_scheme(location: str) -> str:
    """Return the path that file:PATH or file://HOST/PATH names; anything else as it is."""
    return re.sub(r"^file:(//[^/]*(?=/))?", "", location)


@contextmanager
def writing_to(storage: Storage) -> Iterator[None]:
    """Turn errors of writing to a storage into one line.

    Raises:
        RunError: the storage cannot be written, because the disk is full or the service is down.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
        raise RunError(f"{storage}: cannot be written ({reason}); mend that and run this again") from error


def _settle(filesystem: fs.FileSystem, partial: str, path: str) -> None:
    """Give a written file its name."""
    if isinstance(filesystem, fs.LocalFileSystem):
        with Path(partial).open("rb") as file:
            os.fsync(file.fileno())  # before renaming, or a power cut could leave a name without content
    elif filesystem.type_name == LIBHDFS and filesystem.get_file_info(path).type != fs.FileType.NotFound:
        filesystem.delete_file(path)  # this library does not replace a file by renaming
    filesystem.move(partial, path)


@lru_cache(maxsize=8)
def _filesystem(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a location and the path on it; made once per process."""
    if "://" not in location:
        return fs.LocalFileSystem(), location
    # names are taken as they are, with spaces and %: only the host, or bucket, is read as an address
    address, path = location, ""
    if "?" not in location or location.startswith(HDFS):  # elsewhere, Arrow's settings follow
        scheme, _, rest = location.partition("://")
        host, slash, below = rest.partition("/")
        address, path = f"{scheme}://{host}", f"{slash}{below}".rstrip("/")
    try:
        filesystem, root = hdfs(address) if address.startswith(HDFS) else fs.FileSystem.from_uri(address)
    except (OSError, ValueError) as error:  # unknown scheme, no driver for it, no such bucket
        raise InputError(f"{location}: cannot be reached ({str(error).splitlines()[0]})") from error
    return filesystem, f"{root.rstrip('/')}{path}"
