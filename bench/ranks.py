"""MPI jobs that run as processes, and their metrics."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
DATA_PARALLEL = ROOT / "mpi_jobs" / "ridge_data_parallel.py"
FIT = ("moments", "reduce", "path", "validation", "refit")
"""Phases of a fit, once each rank has its images."""

LAUNCHER = "mpiexec -n {ranks}"
"""Command that starts ranks; {ranks} and {threads} stand for their numbers."""


class Run(NamedTuple):
    """A job that has ended.

    Attributes:
        metrics: its metrics.json.
        wall_s: seconds from the start of the command to its end.
    """

    metrics: dict[str, Any]
    wall_s: float

    @property
    def phases(self) -> dict[str, float]:
        """The seconds of each phase of FIT, on the rank that took longest for it."""
        return {phase: max(rank["seconds"][phase] for rank in self.metrics["ranks"]) for phase in FIT}

    @property
    def fit_s(self) -> float:
        """The seconds of all phases of FIT together."""
        return sum(self.phases.values())


def run(ranks: int, program: Path | str, *flags: str | Path, threads: int = 1, launcher: str = LAUNCHER) -> Run:
    """Run a job of this project.

    Args:
        ranks: the number of ranks.
        program: path of the job.
        flags: flags of the job.
        threads: threads per rank.
        launcher: a command like LAUNCHER.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder) / "run"
        words = [program, *flags, "--threads", threads, "--quiet", "--out", out]
        started = time.perf_counter()
        launch(ranks, words, threads, launcher)
        wall_s = time.perf_counter() - started
        return Run(json.loads((out / "metrics.json").read_text()), wall_s)


def ranks_below(pid: int) -> list[int]:
    """Return the processes of the ranks that a launcher has started, in the order in which they started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # the process may have ended
                fields = (entry / "stat").read_text()
                parents[int(entry.name)] = (int(fields.rpartition(")")[2].split()[1]), "(python" in fields)
    below = {pid}
    for _ in range(4):  # the launcher's proxies, and below them the ranks
        below |= {child for child, (parent, _) in parents.items() if parent in below}
    return sorted(child for child in below if parents.get(child, (0, False))[1])


def launch(ranks: int, words: Sequence[object], threads: int = 1, launcher: str = LAUNCHER) -> str:
    """Run Python on some ranks and return what it printed.

    Raises:
        RuntimeError: the command failed; the message has its stderr.
    """
    start = launcher.format(ranks=ranks, threads=threads).split()
    done = subprocess.run(
        [*start, "python", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(start)} python {words[0]} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
