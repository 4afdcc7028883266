"""Jobs on ranks that tests disturb while they work."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.jobs import environment, mpi_environment, processes
from tests.support.places import ROOT

ENDS_WITHIN_S = 5
BUSY_S = 1.0
"""Seconds of processor time of a rank after which it is disturbed: it is reading or computing."""


class Job:
    """A job on some ranks, and the processes below its mpiexec.

    Args:
        folder: where it runs.
        words: the job below mpi_jobs, and its flags.
        mpi: which starts it.
        ranks: how many.
        busy_s: processor time of each rank after which it may be disturbed.
    """

    def __init__(self, folder: Path, words: list[str], mpi: str, ranks: int = 3, busy_s: float = BUSY_S) -> None:
        self.folder = folder
        self._ranks, self._busy_s = ranks, busy_s
        self.process = subprocess.Popen(
            ["mpiexec", "-n", str(ranks), "python", ROOT / "mpi_jobs" / words[0], *words[1:]],
            cwd=folder, env=environment(**mpi_environment(mpi)), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def below(self) -> dict[int, tuple[int, str, float]]:
        every = processes()
        found = {self.process.pid}
        for _ in range(4):  # proxies, ranks
            found |= {pid for pid, (parent, _, _) in every.items() if parent in found}
        return {pid: every[pid] for pid in found if pid in every}

    def wait_for(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert self.process.poll() is None, "it ended before it could be disturbed"
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Its ranks in the order of their numbers, or none before each of them has worked for `busy_s`."""
        ranks = {pid: seconds for pid, (_, line, seconds) in self.below().items() if line.startswith("python")}
        busy = len(ranks) == self._ranks and min(ranks.values()) > self._busy_s
        return sorted(ranks, key=rank_of) if busy else []

    def disturb(self, how: Callable[[list[int]], object]) -> tuple[int, str]:
        """Its exit code and output, once nothing of it is left."""
        ranks, every = self.ranks(), self.below()
        disturbed = time.monotonic()
        how(ranks)
        output, _ = self.process.communicate(timeout=30)
        assert time.monotonic() - disturbed < ENDS_WITHIN_S
        while any(alive(pid) for pid in every):
            assert time.monotonic() - disturbed < ENDS_WITHIN_S, "a process was left behind"
            time.sleep(0.05)
        return self.process.returncode, output


def rank_of(pid: int) -> int:
    variables = dict(
        line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
    )
    return int(variables.get("PMI_RANK") or variables["OMPI_COMM_WORLD_RANK"])


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
