"""The run folder: what a job leaves behind, whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.atomic import READABLE, write_atomically
from common.catalogue import Skipped
from common.errors import InputError


class RunFolder:
    """A folder that appears under its name once everything in it is written.

    Args:
        out: its name, or None for a new one below runs/.
        name: what a new one begins with.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """

    def __init__(self, out: Path | None, name: str) -> None:
        self._named = out is not None
        started = time.strftime("%Y%m%d-%H%M%S")
        # resolved, because an empty folder can be replaced by a rename and a link to one cannot
        self.path = (out or Path("runs") / f"{name}-{started}").resolve()
        try:
            in_use = self._named and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
            if in_use or os.path.ismount(self.path):
                kind = "exists and is not an empty folder" if in_use else "is a mount point"
                raise InputError(f"--out {self.path}: {kind}; name another, or one below it")
            # Whether it can be written shows now and not after an hour of work.
            os.rmdir(tempfile.mkdtemp(prefix=".run-", dir=next(p for p in self.path.parents if p.exists())))  # noqa: PTH106
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be made ({error.strerror}); name another") from error

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A folder to write into; it becomes the run folder when the block ends, and goes when it raises.

        Raises:
            InputError: it cannot be written.
        """
        staging = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".run-", suffix=".partial", dir=self.path.parent))
            yield staging
            staging.chmod(0o777 & ~_umask())  # mkdtemp's folders are for their owner alone
            self._publish(staging)
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written ({error.strerror or error})") from error
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)

    def begin(self) -> Path:
        """Make it now, empty, for a run that fills it piece by piece.

        Raises:
            InputError: it cannot be made.
        """
        with self.written():
            pass
        return self.path

    def _publish(self, staging: Path) -> None:
        """Rename onto nothing or onto an empty folder; a new name that another run took gets a number."""
        wanted, number = self.path, 2
        while True:
            try:
                staging.rename(self.path)
            except OSError as error:
                if self._named or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self.path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
            else:
                return


@contextmanager
def written_into(folder: Path) -> Iterator[None]:
    """Writing into a run folder that is there already.

    Raises:
        InputError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); mend that, and --resume it"
        ) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON for people and programs, atomically; NaN is refused."""
    with write_atomically(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode(*READABLE) + b"\n")


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """The images that could not be used, as CSV with a header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([Skipped._fields, *skipped])
    with write_atomically(path) as file:
        file.write(text.getvalue().encode(*READABLE))
