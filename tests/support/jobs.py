"""Jobs, run in this process or as users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.java import QUICK_JVM
from tests.support.places import DATA, OPENMPI, ROOT

MPIS = ["mpich", pytest.param("openmpi", marks=pytest.mark.openmpi)]
"""Values of a test's parameter `mpi`."""


AGREED = (
    "validation_correct",
    "best_lambda",
    "test_accuracy",
    "macro_f1",
    "images",
    "classes",
    "shape",
    "moments_sha256",
)
"""Entries of metrics.json on which all ridge jobs agree."""


def metrics_of(folder: Path) -> dict[str, Any]:
    """Return the metrics in a run folder."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def agreed(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    """Make sure that two runs found the same; outer.py sums no moments, and so has no fingerprint."""
    for key in AGREED:
        if key in metrics or metrics["job"] != "outer":
            assert metrics[key] == expected[key], key


def run_main(main: Callable[[Sequence[str]], int], out: Path, *flags: str) -> dict[str, Any]:
    """Run a job in this process and return its metrics."""
    assert main([*flags, "--quiet", "--out", str(out)]) == 0
    return metrics_of(out)


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a shell in which .venv is activated and the tests' data are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    foreign = ("PYSPARK", "SPARK", "MAKE", "AWS_", "EMR_", "OPENBLAS_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, **QUICK_JVM, "PATH": path, "IMAGE_DATA_ROOT": str(DATA), **more}


def command(*words: str | Path, cwd: Path, timeout: float = 240, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would in an activated environment, without a terminal."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment(**more),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def mpi_environment(mpi: str = "mpich") -> dict[str, str]:
    """Return the variables that make `mpiexec` start ranks of an MPI: "mpich" or "openmpi"."""
    more = {"OPENBLAS_NUM_THREADS": "1"}
    if mpi == "openmpi":
        more |= {
            "PATH": f"{OPENMPI / 'bin'}{os.pathsep}{environment()['PATH']}",
            "MPI4PY_MPIABI": "openmpi",
            "MPI4PY_LIBMPI": str(OPENMPI / "lib" / "libmpi.so"),
            # Open MPI refuses to run as root, or more ranks than cores, unless it is told to
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }
    return more


def mpiexec(
    ranks: int, *words: str | Path, cwd: Path, mpi: str = "mpich", timeout: float = 240, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run Python on ranks, as a user would."""
    words = ("mpiexec", "-n", str(ranks), "python", *words)
    return command(*words, cwd=cwd, timeout=timeout, **mpi_environment(mpi), **more)


def serial(*flags: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run serial.py, which needs no engine, in a process of its own."""
    return command(sys.executable, ROOT / "spark_jobs" / "serial.py", *flags, cwd=cwd)


def processes() -> dict[int, tuple[int, str, float]]:
    """Return parent, command line and seconds of processor time of every process, by its id."""
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
