"""Writing files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.errors import RunError

READABLE = ("utf-8", "backslashreplace")
"""How text for people is encoded: file names can hold bytes that are no text."""


def readable(text: str) -> str:
    """Text as it is read again after it was written for people."""
    return text.encode(*READABLE).decode()


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at `path` when the block ends, and not at all when it raises."""
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
    """Writing into a run folder that is there already.

    Raises:
        RunError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); mend that, and --resume it"
        ) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON for people and programs, atomically; NaN is refused."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode(*READABLE) + b"\n")
