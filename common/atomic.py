"""Write files that are either whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.errors import RunError

READABLE = ("utf-8", "backslashreplace")
"""Encoding of text for people; file names may hold bytes that are no valid text."""


def readable(text: str) -> str:
    """Return text as it reads after it was written with READABLE."""
    return text.encode(*READABLE).decode()


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


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON for people and programs, atomically; NaN is refused."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode(*READABLE) + b"\n")
