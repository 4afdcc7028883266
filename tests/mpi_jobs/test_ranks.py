"""The tests of tests/mpi on every rank at once."""

from __future__ import annotations

import re

import pytest

from tests.support.jobs import mpiexec
from tests.support.places import ROOT
from tests.support.ranks import UNDER_MPIEXEC


@pytest.mark.parametrize(
    ("mpi", "ranks"),
    [("mpich", 1), ("mpich", 2), ("mpich", 4), pytest.param("openmpi", 3, marks=pytest.mark.openmpi)],
)
def test_on_every_rank(mpi: str, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNDER_MPIEXEC, "1")
    words = ["-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "tests/mpi"]
    done = mpiexec(ranks, *words, cwd=ROOT, mpi=mpi)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 100


def test_predictions_are_the_same_on_five_six_and_nine_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNDER_MPIEXEC, "1")
    words = ["-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "tests/mpi/test_pipeline.py"]
    done = mpiexec(9, *words, "-k", "test_predictions_are and 32", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_a_failure_on_one_rank_is_told_and_ends_all(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNDER_MPIEXEC, "1")
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "mpi" / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "def test_one(world):\n    assert world.rank != 1\n    world.meet()\n    world.meet()\n"
    )
    done = mpiexec(3, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path, cwd=ROOT)
    assert done.returncode != 0
    assert "failed on rank 1 of 3" in done.stderr
