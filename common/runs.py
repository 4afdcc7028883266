"""The run folder: what a job leaves behind, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.atomic import write_atomically
from common.catalogue import Skipped
from common.errors import InputError


class RunFolder:
    """A folder that appears under its name once everything in it is written.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """

    def __init__(self, out: Path | None, name: str) -> None:
        self.path = (out or _unused(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")).absolute()
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path}: is a file, not a folder; name another")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(f"--out {self.path}: exists and is not empty; name another or remove it")
        # Whether it can be written shows now and not after an hour of work.
        ancestor = next(parent for parent in self.path.parents if parent.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise InputError(f"--out {self.path}: {ancestor} cannot be written to; name another")
        self._staging = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A folder to write into; it becomes the run folder when the block ends, and goes when it raises."""
        self._staging.mkdir(parents=True)
        try:
            yield self._staging
            self._staging.rename(self.path)  # onto nothing, or onto an empty folder
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)


def _unused(path: Path) -> Path:
    """`path`, or with a number behind it when another run of the same second took it."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON for people and programs, atomically; NaN is refused."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """The images that could not be used, as CSV with a header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Skipped._fields, *skipped])
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
