"""Ranks that are killed, that raise, and Ctrl-C: the whole job ends, at once, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.console import INTERRUPTED
from tests.conftest import MPIS, ROOT, environment, mpi_environment, mpiexec, processes

ENDS_WITHIN_S, RAISED_ENDS_WITHIN_S = 5, 2
BUSY_S = 1.0
"""Seconds of processor time of a rank after which it is disturbed: it is reading or computing."""


class Job:
    """A job on three ranks that takes a while, and the processes below its mpiexec."""

    def __init__(self, folder: Path, mpi: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            ["mpiexec", "-n", "3", "python", ROOT / "mpi_jobs" / "ridge_data_parallel.py",
             "--data", "mnist", "--size", "48x48", "--out", "runs/run"],
            cwd=folder, env=environment(**mpi_environment(mpi)), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def below(self) -> dict[int, tuple[int, str, float]]:
        every = processes()
        found = {self.process.pid}
        for _ in range(4):  # proxies, ranks
            found |= {pid for pid, (parent, _, _) in every.items() if parent in found}
        return {pid: every[pid] for pid in found if pid in every}

    def busy_ranks(self) -> list[int]:
        """The ranks in the order of their numbers, once each of them has worked for BUSY_S."""
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, "it ended before it could be disturbed"
            assert time.monotonic() < deadline
            ranks = {pid: seconds for pid, (_, line, seconds) in self.below().items() if line.startswith("python")}
            if len(ranks) == 3 and min(ranks.values()) > BUSY_S:
                return sorted(ranks, key=rank_of)
            time.sleep(0.05)


def rank_of(pid: int) -> int:
    variables = dict(
        line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
    )
    return int(variables.get("PMI_RANK") or variables["OMPI_COMM_WORLD_RANK"])


def disturb(folder: Path, mpi: str, how: Callable[[Job, list[int]], object]) -> tuple[int, str]:
    """Exit code and output of a job that was disturbed while it worked, once nothing of it is left."""
    job = Job(folder, mpi)
    ranks = job.busy_ranks()
    every = job.below()
    disturbed = time.monotonic()
    how(job, ranks)
    output, _ = job.process.communicate(timeout=30)
    assert time.monotonic() - disturbed < ENDS_WITHIN_S
    while any(alive(pid) for pid in every):
        assert time.monotonic() - disturbed < ENDS_WITHIN_S, "a process was left behind"
        time.sleep(0.05)
    assert [path.name for path in folder.rglob("*") if path.name != "runs"] == []
    return job.process.returncode, output


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.mnist
@pytest.mark.parametrize("mpi", MPIS)
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed_ends_all(tmp_path: Path, mpi: str, rank: int) -> None:
    code, _ = disturb(tmp_path, mpi, lambda _, ranks: os.kill(ranks[rank], signal.SIGKILL))
    assert code != 0


@pytest.mark.mnist
@pytest.mark.parametrize("mpi", MPIS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_the_end_of_a_batch_job(tmp_path: Path, mpi: str, number: int) -> None:
    code, output = disturb(tmp_path, mpi, lambda job, _: job.process.send_signal(number))
    assert code != 0
    assert "Traceback" not in output
    if mpi == "mpich":
        assert code == INTERRUPTED
        assert f"interrupted ({signal.Signals(number).name}); no result was written" in output


RAISES = """
import time
from mpi4py import MPI
from common.errors import InputError
from mpi_jobs.world import World, run_mpi_job

def main():
    world = World(MPI.COMM_WORLD)
    if world.rank == 2:
        open("raised", "w").write(str(time.time()))
        raise {error}
    world.meet()
    return 0

run_mpi_job(main)
"""


@pytest.mark.parametrize("mpi", MPIS)
def test_a_rank_that_raises_ends_all_and_says_why(tmp_path: Path, mpi: str) -> None:
    (tmp_path / "job.py").write_text(RAISES.format(error="RuntimeError('rank two is unwell')"))
    done = mpiexec(4, "job.py", cwd=tmp_path, mpi=mpi)
    assert time.time() - float((tmp_path / "raised").read_text()) < RAISED_ENDS_WITHIN_S
    assert done.returncode == 1
    assert "job.py: rank 2 of 4 failed" in done.stderr
    assert "RuntimeError: rank two is unwell" in done.stderr
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize("mpi", MPIS)
def test_wrong_input_that_one_rank_finds_is_one_line(tmp_path: Path, mpi: str) -> None:
    (tmp_path / "job.py").write_text(RAISES.format(error="InputError('no such thing')"))
    done = mpiexec(4, "job.py", cwd=tmp_path, mpi=mpi)
    assert done.returncode == 2
    assert "job.py: no such thing (rank 2)" in done.stderr
    assert "Traceback" not in done.stderr
