"""Jobs on ranks that tests kill, stop or interrupt while they work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.jobs import environment, mpi_environment, processes
from tests.support.places import ROOT

ENDS_WITHIN_S = 5
BUSY_S = 0.5
"""Seconds of processor time after which a rank whose signals are set up is reading or computing."""


class Job:
    """A running job, with all processes below its mpiexec.

    Args:
        folder: working directory of the job.
        words: a file of mpi_jobs and its flags.
        mpi: "mpich" or "openmpi".
        ranks: number of ranks.
        busy_s: seconds of processor time of each rank before `ranks` returns them.
    """

    def __init__(self, folder: Path, words: list[str], mpi: str, ranks: int = 3, busy_s: float = BUSY_S) -> None:
        self.folder = folder
        self._ranks, self._busy_s = ranks, busy_s
        self.process = subprocess.Popen(
            ["mpiexec", "-n", str(ranks), "python", ROOT / "mpi_jobs" / words[0], *words[1:]],
            cwd=folder,
            env=environment(**mpi_environment(mpi)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def below(self) -> dict[int, tuple[int, str, float]]:
        """Return mpiexec and its descendants, as `processes` describes them."""
        running = processes()
        found = {self.process.pid}
        for _ in range(4):  # proxies, ranks
            found |= {pid for pid, (parent, _, _) in running.items() if parent in found}
        return {pid: running[pid] for pid in found if pid in running}

    def wait_for(self, ready: Callable[[], object]) -> None:
        """Wait up to a minute until `ready` returns something true while the job runs."""
        deadline = time.monotonic() + 60
        while not ready():
            assert self.process.poll() is None, "it ended before it could be disturbed"
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks, in order; none before every rank has worked for `busy_s`."""
        ranks = {pid: seconds for pid, (_, line, seconds) in self.below().items() if line.startswith("python")}
        ranks = {pid: seconds for pid, seconds in ranks.items() if signals_are_set_up(pid)}
        busy = len(ranks) == self._ranks and min(ranks.values()) > self._busy_s
        return sorted(ranks, key=rank_of) if busy else []

    def disturb(self, how: Callable[[list[int]], object]) -> tuple[int, str]:
        """Call `how` with the ranks, and check that all processes end soon.

        Returns:
            the exit code of mpiexec, and the output of all ranks.
        """
        ranks, processes_of_job = self.ranks(), self.below()
        disturbed = time.monotonic()
        how(ranks)
        output, _ = self.process.communicate(timeout=30)
        assert time.monotonic() - disturbed < ENDS_WITHIN_S
        while any(alive(pid) for pid in processes_of_job):
            assert time.monotonic() - disturbed < ENDS_WITHIN_S, "a process was left behind"
            time.sleep(0.05)
        return self.process.returncode, output


def rank_of(pid: int) -> int:
    """Return the rank that MPICH or Open MPI has given to a process."""
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    return int(variables.get("PMI_RANK") or variables["OMPI_COMM_WORLD_RANK"])


def signals_are_set_up(pid: int) -> bool:
    """Return whether a process handles or ignores SIGTERM, as a rank does from when its main function begins."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
