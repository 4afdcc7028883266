"""Ranks that are killed or raise, and Ctrl-C: the whole job ends at once, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.run.exits import INTERRUPTED
from tests.support.disturbed import Job
from tests.support.jobs import MPIS, mpiexec

pytestmark = pytest.mark.slow

RAISED_ENDS_WITHIN_S = 2


def disturb(folder: Path, mpi: str, how: Callable[[Job, list[int]], object]) -> tuple[int, str]:
    """Disturb a ridge job while it works, check that it leaves nothing behind, return its exit code and output."""
    job = Job(folder, ["ridge_data_parallel.py", "--data", "mnist", "--size", "48x48", "--out", "runs/run"], mpi)
    job.wait_for(job.ranks)
    found = job.disturb(lambda ranks: how(job, ranks))
    assert [path.name for path in folder.rglob("*") if path.name != "runs"] == []
    return found


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
from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import World

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
