"""An ingest that is killed when some of its files are finished."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.data.storage import Storage
from tests.support.jobs import environment
from tests.support.places import ROOT

PART = 50
"""Images per file, so that some files are finished early."""

SMALL_PARTS = f"""
import sys
if sys.argv and sys.argv[0].endswith("ingest.py"):
    import spark_jobs.ingestion.listing
    spark_jobs.ingestion.listing.PART_DECODED = {PART}
"""


class Killed(NamedTuple):
    """An ingest that was killed.

    Attributes:
        line: the command, for whoever runs it again.
        variables: its environment.
        written: the files that it had finished.
    """

    line: list[str]
    variables: dict[str, str]
    written: set[str]


def write_bitmaps(folder: Path, classes: Sequence[str], n: int, side: int) -> Path:
    """Write n square images of noise per class, and return the folder."""
    rng = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"large{i:03d}.bmp")
    return folder


def kill_ingest(cwd: Path, source: str, destination: str, n_files: int, also: str = "") -> Killed:
    """Start an ingest on one core, and kill it with all its processes when it has finished some files.

    Args:
        cwd: working directory, in which a module of Python's is written that makes files small.
        source: as ingest.py takes it.
        destination: the table, a path or an address.
        n_files: files to wait for.
        also: further lines of that module, which belong to its `if`.
    """
    (cwd / "sitecustomize.py").write_text(SMALL_PARTS + also)
    variables = {"PYTHONPATH": f"{cwd}{os.pathsep}{ROOT}"}
    line = ["spark-submit", "--master", "local[1]", str(ROOT / "spark_jobs" / "ingest.py"), source, destination]
    line += ["--size", "40x40", "--quiet"]
    process = subprocess.Popen(
        line,
        cwd=cwd,
        env=environment(**variables),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(finished(destination)) < n_files:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return Killed(line, variables, finished(destination))


def finished(table: str) -> set[str]:
    """Return the names of a table's files that are finished."""
    return {name for name in Storage.at(table).names("images") if name.endswith(".parquet")}
