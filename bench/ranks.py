"""MPI jobs as processes, for their metrics."""

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
"""Phases that fit the model, once the images are where they are needed."""

LAUNCHER = "mpiexec -n {ranks}"


class Run(NamedTuple):
    """A job that ran.

    Attributes:
        metrics: its metrics.json.
        wall_s: from the command to its end.
    """

    metrics: dict[str, Any]
    wall_s: float

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase of FIT on the rank that took longest."""
        return {phase: max(rank["seconds"][phase] for rank in self.metrics["ranks"]) for phase in FIT}

    @property
    def fit_s(self) -> float:
        """Seconds in FIT."""
        return sum(self.phases.values())


def run(ranks: int, program: Path | str, *flags: str | Path, threads: int = 1, launcher: str = LAUNCHER) -> Run:
    """Run a job of this project.

    Args:
        ranks: how many.
        program: the job.
        flags: of the job.
        threads: of each rank.
        launcher: starts ranks; {ranks} and {threads} stand for how many.
    """
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        out = Path(folder) / "run"
        words = [program, *flags, "--threads", threads, "--quiet", "--out", out]
        started = time.perf_counter()
        launch(ranks, words, threads, launcher)
        wall_s = time.perf_counter() - started
        return Run(json.loads((out / "metrics.json").read_text()), wall_s)


def ranks_below(pid: int) -> list[int]:
    """The ranks that a launcher has started, by process number, which is the order in which they were."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it may have ended
                fields = (entry / "stat").read_text()
                parents[int(entry.name)] = (int(fields.rpartition(")")[2].split()[1]), "(python" in fields)
    found = {pid}
    for _ in range(4):  # proxies, ranks
        found |= {child for child, (parent, _) in parents.items() if parent in found}
    return sorted(child for child in found if parents.get(child, (0, False))[1])


def launch(ranks: int, words: Sequence[object], threads: int = 1, launcher: str = LAUNCHER) -> str:
    """Run Python on ranks: what it printed."""
    start = launcher.format(ranks=ranks, threads=threads).split()
    done = subprocess.run(
        [*start, "python", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(start)} python {words[0]} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
