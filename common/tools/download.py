"""`python -m common.tools.download`: download sources into the data root.

pooch downloads and verifies. This module adds several mirrors, and resumes interrupted downloads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pooch
from requests.exceptions import ChunkedEncodingError, RequestException, Timeout
from requests.exceptions import ConnectionError as Unreachable

from common.data.sources import SOURCES
from common.errors import InputError, RunError
from common.run.exits import run_job
from common.run.flags import data_root_flag
from common.run.parser import Parser

TIMEOUT_S = 30


def fetch(folder: Path, files: Mapping[str, str], mirrors: Sequence[str], progress: bool) -> None:
    """Download files into `folder`; files that are there with the right checksum are left alone.

    Args:
        folder: made if it does not exist.
        files: SHA-256 of each file, by name.
        mirrors: addresses to try in turn for each file.
        progress: whether to show a progress bar.

    Raises:
        RunError: no mirror served a file with the right checksum.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); name another --data-root") from error
    for name, sha256 in files.items():
        target = folder / name
        if target.is_file() and pooch.file_hash(target) == sha256:
            continue
        failure: Exception | None = None
        # twice, for a connection that broke or a download that started again
        for mirror in (*mirrors, *mirrors):
            try:
                _download(f"{mirror}/{name}", target, sha256, progress)
            except (RequestException, OSError, ValueError) as error:
                failure = error
            else:
                break
        else:
            with suppress(OSError):
                folder.rmdir()  # if it is empty
            raise RunError(
                f"{name} could not be downloaded from any of {len(mirrors)} mirrors ({type(failure).__name__}); "
                "every job runs without it on the bundled set, --data digits"
            )


def _download(url: str, target: Path, sha256: str, progress: bool) -> None:
    """Download one file, from the end of an earlier attempt on, whichever mirror that used.

    Raises:
        RequestException, OSError: the download failed.
        ValueError: the checksum is wrong.
    """
    partial = target.with_name(f".{target.name}.partial")
    size = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    downloader = pooch.HTTPDownloader(progressbar=progress, headers=headers, timeout=TIMEOUT_S)
    try:
        with partial.open("ab") as file:
            downloader(url, file, None)
    except (Unreachable, Timeout, ChunkedEncodingError):
        raise  # the bytes so far are good, so the next attempt continues there
    except (RequestException, OSError):
        partial.unlink(missing_ok=True)  # the server refused the range, so the next attempt starts again
        raise
    if pooch.file_hash(partial) != sha256:
        partial.unlink()  # also if a server ignored the range and sent the whole file
        raise ValueError(f"{url}: wrong checksum")
    partial.replace(target)


def main() -> int:
    """Parse, and download every source that can be downloaded."""
    downloads = [source.download for source in SOURCES if source.download is not None]
    titles = ", ".join(f"{download.title} ({download.megabytes} MB)" for download in downloads)
    parser = Parser(description=f"Download {titles} into the data root; checksums are verified.")
    data_root_flag(parser)
    data_root: Path = parser.parse_arguments(None).data_root
    logging.getLogger("pooch").setLevel(logging.WARNING)
    for download in downloads:
        folder = data_root / download.folder
        fetch(folder, download.files, download.mirrors, progress=os.isatty(2))
        print(f"{download.title} is in {folder}")
    return 0


if __name__ == "__main__":
    run_job(main)
