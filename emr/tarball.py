"""Archives that are the same, to the byte, whenever and wherever they are made of the same files."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO


def pack(file: IO[bytes], contents: Mapping[str, Path], compression: int) -> None:
    """Write a gzipped tar, in the order given, without owners, times and modes of this machine.

    Args:
        file: to write to.
        contents: by the name in the archive; of a link, the file it leads to is packed.
        compression: gzip's level.
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
