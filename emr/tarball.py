"""Archives whose bytes depend only on the files in them, not on when or where they are made."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO


def pack(file: IO[bytes], contents: Mapping[str, Path], compression: int) -> None:
    """Write a gzipped tar, in the order given, without the owners, times and modes of this machine.

    Args:
        file: the archive to write.
        contents: files by their names in the archive. Links are followed.
        compression: level of gzip.
    """
    with (
        gzip.GzipFile("", "wb", compression, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, path in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)
