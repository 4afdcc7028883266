"""Shipped files: local files that travel with a job to a cluster whose workers do not see the driver's disk.

`spark-submit --archives photos.tar.gz#shipped-photos` unpacks an archive below the working directory of the driver
(in YARN's cluster mode) and of each executor. That directory differs from process to process, so paths into
shipped folders stay relative. All other paths are made absolute, because workers are started elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from common.atomic import readable
from common.errors import InputError

SHIPPED = "shipped-"
"""Prefix of the names of shipped folders."""


def seen_by_workers(path: Path) -> Path:
    """Return the path at which driver and workers find the same file.

    Raises:
        InputError: as `absolute` does.
    """
    return path if path.parts[:1] and path.parts[0].startswith(SHIPPED) else absolute(path)


def absolute(path: Path) -> Path:
    """Return an absolute path, without ~.

    Raises:
        InputError: the home folder of the user is not known, or the current folder is gone.
    """
    try:
        return expanded(path).absolute()
    except FileNotFoundError as error:
        raise InputError("the current folder is gone; change to one that exists") from error


def expanded(path: Path) -> Path:
    """Return a path without ~.

    Raises:
        InputError: the home folder of the user is not known.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        reason = str(error).rstrip(".")
        raise InputError(f"{readable(str(path))}: {reason}; write the path out") from error
