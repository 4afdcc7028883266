"""`python -m bench.globs`: 10,000 small images in 40 folders on S3, and in as many files on this machine.

`ingest.py` makes a table of a glob: of objects and of files. The server, SeaweedFS on this machine, counts the
requests. A second ingest of the same objects adds nothing, and reads none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.harness import Claim, main, say, table
from bench.ranks import ROOT
from tests.support.s3 import BUCKET, s3_server

FOLDERS, IN_EACH = 40, 250
FILES = FOLDERS * IN_EACH


def write_images(folder: Path) -> None:
    """Write small images into folders."""
    rng = np.random.default_rng(0)
    for number in range(FOLDERS):
        (folder / f"class-{number:02}").mkdir(parents=True)
    for number in range(FILES):
        image = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        image.save(folder / f"class-{number % FOLDERS:02}" / f"{number:05}.png")


def ingest_s(source: str, target: Path, variables: Mapping[str, str]) -> float:
    """Make a table of a glob, and return the seconds that it takes, the start of Spark included."""
    words: list[str | Path] = ["spark-submit", ROOT / "spark_jobs" / "ingest.py", source, target, "--quiet"]
    started = time.perf_counter()
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ingest.py {source} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - started


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure both, print the table and return what was measured and the claims."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        write_images(folder / "photos")
        with s3_server(folder / "s3") as server:
            say(f"uploading {FILES:,} images")
            server.upload(folder / "photos", "photos")
            variables = {**server.environment, "PYSPARK_PYTHON": sys.executable}
            rows, measured = [], {}
            sent: list[Counter[str]] = []
            cases = {
                "s3a://": (f"s3a://{BUCKET}/photos/*/*.png", "remote"),
                "s3a://, again": (f"s3a://{BUCKET}/photos/*/*.png", "remote"),
                "files": (f"{folder}/photos/*/*.png", "local"),
            }
            for name, (source, target) in cases.items():
                say(name)
                before = server.requests()
                seconds = ingest_s(source, folder / target, variables)
                requests = server.requests() - before
                sent.append(requests)
                measured[name] = {"seconds": seconds, "requests": dict(requests)}
                kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(requests.items())) or "none"
                rows.append([name, f"{seconds:.1f}", f"{FILES / seconds:,.0f}", kinds])
    print(table(["glob", "s", "files/s", "requests"], rows))
    first, again, _ = sent
    listings = sum(n for kind, n in first.items() if "LIST" in kind.upper())
    return measured, [
        Claim.at_most("listings of the first ingest / folders", listings / FOLDERS, 4),
        Claim.at_most("all requests of the first ingest / files", sum(first.values()) / FILES, 3),
        Claim.at_most("requests of an ingest that adds nothing / files", sum(again.values()) / FILES, 0.1),
    ]


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
