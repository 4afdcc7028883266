"""The run folder: the files that a job leaves behind, all of them or none."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.shipped import absolute
from common.errors import InputError, RunError

if TYPE_CHECKING:
    from common.data.storage import Storage

PROBE = ".writable"
"""A file that is written to an address and removed again, to find out early that writing works."""

LAST = "metrics.json"
"""The file that is uploaded last: if it is there, all others are."""


class RunFolder:
    """A folder that appears under its name once all its files are written.

    Args:
        out: its path, an address such as s3://bucket/folder, or None for a new folder below runs/.
        name: the beginning of the name of a new folder.
        flag: the flag or argument that names the folder, for messages.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """

    def __init__(self, out: Path | str | None, name: str, flag: str = "--out") -> None:
        self._flag = flag
        self._named = out is not None
        self._remote = _remote(out) if isinstance(out, str) else None
        if self._remote is not None:
            return
        started = time.strftime("%Y%m%d-%H%M%S")
        # Resolved, because a rename can replace an empty folder but not a link to one.
        self._path = Path(out or Path("runs") / f"{name}-{started}")
        try:
            self._path = absolute(self._path).resolve()
            in_use = self._named and self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir()))
            if in_use or os.path.ismount(self._path):
                kind = "exists and is not an empty folder" if in_use else "is a mount point"
                raise InputError(f"{self._flag} {self._path}: {kind}; name another, or one below it")
            # Find out now, and not after an hour of work, that the folder can be written.
            os.rmdir(tempfile.mkdtemp(prefix=".run-", dir=next(p for p in self._path.parents if p.exists())))  # noqa: PTH106
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            reason = error.strerror if isinstance(error, OSError) else str(error).partition(" from ")[0]
            raise InputError(f"{self._flag} {self._path}: cannot be made ({reason}); name another") from error

    @property
    def path(self) -> Path:
        """The path of the folder on this machine.

        Raises:
            InputError: the folder is at an address, which jobs that fill it piece by piece cannot use.
        """
        if self._remote is not None:
            raise InputError(f"{self._flag} {self._remote}: this job writes to a folder of this machine; name one")
        return self._path

    def __str__(self) -> str:
        return str(self._remote or self._path)

    def file(self, name: str) -> str:
        """Return the path or address of a file in the folder."""
        return f"{self}/{name}"

    def shared(self, staging: Path) -> Storage:
        """Return where workers write their files while the folder is being written to `staging`."""
        from common.data.storage import Storage

        return self._remote or Storage.at(str(staging))

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield a folder that becomes the run folder when the block ends, or is removed if the block raises.

        Raises:
            RunError: the folder cannot be written.
        """
        if self._remote is not None:
            with _uploaded(self._remote) as staging_of_remote:
                yield staging_of_remote
            return
        staging = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".run-", suffix=".partial", dir=self._path.parent))
            yield staging
            staging.chmod(0o777 & ~_umask())  # mkdtemp makes folders for their owner alone
            self._publish(staging)
        except OSError as error:
            raise RunError(f"{self._flag} {self._path}: cannot be written ({error.strerror or error})") from error
        finally:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)

    def begin(self) -> Path:
        """Make the folder now, empty, for a run that fills it piece by piece.

        Raises:
            InputError: the folder is at an address.
            RunError: it cannot be made.
        """
        with self.written():
            pass
        return self.path

    def _publish(self, staging: Path) -> None:
        """Rename the staging folder. If another run took a new name meanwhile, append a number to it."""
        wanted, number = self._path, 2
        while True:
            try:
                staging.rename(self._path)
            except OSError as error:
                if self._named or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
            else:
                return


def _remote(address: str) -> Storage:
    """Open the storage at an address.

    Raises:
        InputError: it cannot be reached, or is not empty.
    """
    # Imported here, because a run folder on this machine needs no pyarrow.
    from common.data.storage import Storage

    storage = Storage.at(address)
    try:
        if storage.entries():
            raise InputError(f"--out {address}: holds something already; name another")
        # Find out now, and not after an hour of work, that it can be written.
        storage.write(PROBE, b"")
        storage.delete(PROBE)
    except OSError as error:
        raise InputError(f"--out {address}: cannot be reached ({_first_line(error)}); name another") from error
    return storage


@contextmanager
def _uploaded(storage: Storage) -> Iterator[Path]:
    """Yield a folder of this machine whose files are uploaded when the block ends, and not if it raises.

    Raises:
        RunError: they cannot be written there.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="run-") as folder:
            yield Path(folder)
            files = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
            for name in sorted(files, key=lambda name: (name == LAST, name)):
                storage.write(name, Path(folder, name).read_bytes())
    except BaseException as error:
        with suppress(OSError):
            storage.delete_folder()
        if isinstance(error, OSError):
            raise RunError(f"--out {storage}: cannot be written ({_first_line(error)})") from error
        raise


def _first_line(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).splitlines()[0]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
