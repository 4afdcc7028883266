"""Read what people wrote, and write files that are either whole or absent."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.errors import InputError, RunError

READABLE = ("utf-8", "backslashreplace")
"""Encoding of text for people; file names may hold bytes that are no valid text."""


def readable(text: str) -> str:
    """Return text as it reads after it was written with READABLE."""
    return text.encode(*READABLE).decode()


def read_text(path: Path, what: str) -> str:
    """Read a text that people have written: UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: the flag or file that errors name.

    Raises:
        InputError: the file cannot be read, or it is no UTF-8.
    """
    try:
        data = path.read_bytes()
        refuse_utf16(data, what)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{what}: {error.strerror}; make it readable") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def refuse_utf16(data: bytes, what: str) -> None:
    """Refuse text that some editors of Windows write by default.

    Raises:
        InputError: the text begins with the byte order mark of UTF-16.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{what}: is UTF-16; save it as UTF-8")


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` when the block ends, and not at all if the block raises."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_into(folder: Path) -> Iterator[None]:
    """Write into an existing run folder.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); mend that, and --resume it"
        ) from error


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file that is whole or absent, below folders that are made if they are missing; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(content)
    return path


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON for people and programs, atomically; NaN is refused."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode(*READABLE) + b"\n")
