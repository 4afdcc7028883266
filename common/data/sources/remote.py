"""Folders on other file systems: on S3, HDFS, and whatever else Arrow reaches.

A request takes long there, and many at a time hardly longer: so folders are listed and files are read by threads.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

from common.data.pillow import UndecodableImageError
from common.data.sources.tree import SIGNATURE_BYTES, SIGNATURES, Entry, below, check_size, is_hidden
from common.data.storage import Storage

AT_ONCE = 8
"""Requests that wait for an answer at the same time."""

SMALL_BYTES = 16 << 20
"""Files up to this size are read at the same time; larger ones by themselves, lest memory runs out."""

NOT_FOUND = "No such file or directory"

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RemoteTree:
    """A folder on another file system.

    Attributes:
        storage: the folder.
    """

    storage: Storage
    _known: dict[str, list[Entry]] = field(default_factory=dict, repr=False, compare=False)
    """Listings by folder, so that each is listed once."""

    def __reduce__(self) -> tuple[type[RemoteTree], tuple[Storage]]:
        return RemoteTree, (self.storage,)  # workers do not need what is known here

    def __str__(self) -> str:
        return str(self.storage)

    def entries(self, folders: Sequence[str]) -> Iterator[Entry]:
        """Yield what is directly in some folders: one listing for each."""
        for found in _many(self._listed, folders):
            yield from found

    def _listed(self, folder: str) -> list[Entry]:
        if folder not in self._known:
            with _named(f"{self.storage}/{folder}".rstrip("/")):
                found = self.storage.listed(folder)
            self._known[folder] = [Entry(below(folder, name), is_folder) for name, is_folder in found]
        return self._known[folder]

    def existing(self, names: Sequence[str]) -> Iterator[Entry]:
        """Yield those of the names that exist."""
        for name, found in zip(names, _many(self._kind, names), strict=True):
            if found is not None:
                yield Entry(name, found)

    def _kind(self, name: str) -> bool | None:
        with _named(f"{self.storage}/{name}"):
            return self.storage.is_folder(name)

    def below(self, folders: Sequence[str], *, hidden: bool) -> Iterator[tuple[str, list[str]]]:
        """Yield folders and all folders below them, with the files in each, level by level."""
        while folders:
            inner: list[str] = []
            for folder, found in zip(folders, _many(self._listed, folders), strict=True):
                yield folder, [entry.name for entry in found if not entry.is_folder]
                inner += [e.name for e in found if e.is_folder and (hidden or not is_hidden(e.name))]
            folders = inner

    def begin_like_images(self, names: Sequence[str]) -> Iterator[bool]:
        """Yield for each file whether its first bytes are those of an image."""
        return _many(self._begins_like_an_image, names)

    def _begins_like_an_image(self, name: str) -> bool:
        try:
            with _named(f"{self.storage}/{name}"), self.storage.open(name) as file:
                return SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None
        except FileNotFoundError:  # removed since it was listed
            return False

    def contents(self, names: Sequence[str]) -> Iterator[bytes | UndecodableImageError]:
        """Yield the bytes of each file, or why it cannot be used; errors of the server are raised."""
        for name, found in zip(names, _many(self._if_small, names), strict=True):
            yield self._content(name) if found is None else found

    def _if_small(self, name: str) -> bytes | UndecodableImageError | None:
        """Return the same as _content, and None for a file that is to be read by itself."""
        return self._read(name, lambda file: bytes(file.read()) if file.size() <= SMALL_BYTES else None)

    def _content(self, name: str) -> bytes | UndecodableImageError:
        """Return the bytes of a file, or why it cannot be used."""
        return self._read(name, lambda file: bytes(file.read()))

    def _read(self, name: str, read: Callable[[pa.NativeFile], Answer]) -> Answer | UndecodableImageError:
        try:
            with _named(f"{self.storage}/{name}"), self.storage.open(name) as file:
                check_size(file.size())
                return read(file)
        except UndecodableImageError as error:
            return error
        except FileNotFoundError:
            return UndecodableImageError(NOT_FOUND)


def _many(ask: Callable[[Asked], Answer], things: Iterable[Asked]) -> Iterator[Answer]:
    """Yield the answers in order, while AT_ONCE requests are on their way."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting: deque[Future[Answer]] = deque()
        remaining = iter(things)
        try:
            for thing in remaining:
                waiting.append(pool.submit(ask, thing))
                if len(waiting) == AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Add the name of what was asked for to errors.

    Raises:
        FileNotFoundError: there is no such file or folder.
        OSError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, NOT_FOUND, path) from error
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        raise OSError(number or errno.EIO, reason, path) from error
