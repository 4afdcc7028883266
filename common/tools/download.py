"""`python -m common.tools.download`: fetch MNIST into the data root.

pooch downloads and verifies; what is added here is what it leaves to its caller: several mirrors, and a download
that goes on where an interrupted one stopped.
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

from common.errors import InputError
from common.run.exits import run_job
from common.run.flags import Parser, data_root_flag

# SHA-256 of the files as they were published.
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
TIMEOUT_S = 30


def fetch(folder: Path, files: Mapping[str, str], mirrors: Sequence[str], progress: bool) -> None:
    """Bring files into `folder`; those already there with the right checksum are left alone.

    Args:
        folder: made if it is not there.
        files: SHA-256 by name.
        mirrors: addresses to try in turn for each file.
        progress: whether to show a bar.

    Raises:
        InputError: no mirror gave a file whose checksum is right.
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
        for mirror in (*mirrors, *mirrors):  # twice, for a connection that broke or a download that began again
            try:
                _download(f"{mirror}/{name}", target, sha256, progress)
            except (RequestException, OSError, ValueError) as error:
                failure = error
            else:
                break
        else:
            with suppress(OSError):
                folder.rmdir()  # if nothing is in it
            raise InputError(
                f"{name} could not be downloaded from any of {len(mirrors)} mirrors ({type(failure).__name__}); "
                "every job runs without it on the bundled set, --data digits"
            )


def _download(url: str, target: Path, sha256: str, progress: bool) -> None:
    """Download one file, going on behind the bytes of an earlier attempt, whichever mirror they came from."""
    partial = target.with_name(f".{target.name}.partial")
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    downloader = pooch.HTTPDownloader(progressbar=progress, headers=headers, timeout=TIMEOUT_S)
    try:
        with partial.open("ab") as file:
            downloader(url, file, None)
    except (Unreachable, Timeout, ChunkedEncodingError):
        raise  # the bytes so far are good: go on from them
    except (RequestException, OSError):
        partial.unlink(missing_ok=True)  # the server refused them: begin again
        raise
    if pooch.file_hash(partial) != sha256:
        partial.unlink()  # also where a server gave the whole file when asked for its end
        raise ValueError(f"{url}: wrong checksum")
    partial.replace(target)


def main() -> int:
    """Parse and download."""
    parser = Parser(description="Download MNIST (11 MB) into the data root; checksums are verified.")
    data_root_flag(parser)
    folder = parser.parse_arguments(None).data_root / "mnist"
    logging.getLogger("pooch").setLevel(logging.WARNING)
    fetch(folder, MNIST_FILES, MNIST_MIRRORS, progress=os.isatty(2))
    print(f"MNIST is in {folder}")
    return 0


if __name__ == "__main__":
    run_job(main)
