"""The tests of tests/mpi on every rank at once; `make test-ranks RANKS=4` runs them on four ranks of MPICH."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.jobs import mpiexec
from tests.support.places import ROOT
from tests.support.ranks import FOLDER, RECORDS, Record, run_on_ranks

pytestmark = pytest.mark.slow

MODULES = sorted(path.name for path in FOLDER.glob("test_*.py"))
MESSAGES = [f"test_{name}.py" for name in ("cnn_gradients", "pipeline", "spread", "world")]
"""The modules that call for every kind of message, which is what another MPI could do otherwise."""

ALGORITHMS = [
    name for name in MODULES if name not in ("test_cnn_runs.py", "test_cnn_tables.py", "test_ridge_head.py")
]
"""The modules in which the number of ranks decides what each does; the others look at files and flags."""


def assert_all_ran(records: list[Record], ranks: int) -> None:
    """Each rank has run the same tests, all that were collected, and none has failed."""
    assert len(records) == ranks
    for record in records:
        assert record.collected
        assert list(record.outcomes) == record.collected == records[0].collected
        assert set(record.outcomes.values()) <= {"passed", "skipped"}


@pytest.mark.parametrize(
    ("mpi", "ranks", "modules"),
    [
        pytest.param("mpich", 1, ALGORITHMS, id="mpich-1"),
        pytest.param("mpich", 2, MODULES, id="mpich-2"),
        pytest.param("openmpi", 3, MESSAGES, id="openmpi-3", marks=pytest.mark.openmpi),
        pytest.param("mpich", 4, ALGORITHMS, id="mpich-4"),
    ],
)
def test_all_on_every_rank(tmp_path: Path, mpi: str, ranks: int, modules: list[str]) -> None:
    records = run_on_ranks(tmp_path, mpi, ranks, *(str(FOLDER / module) for module in modules))
    assert_all_ran(records, ranks)
    passed = {name for name, outcome in records[0].outcomes.items() if outcome == "passed"}
    assert sorted({Path(name.partition("::")[0]).name for name in passed}) == modules


def test_a_failure_on_one_rank_is_reported_and_ends_all(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((FOLDER / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "def test_one(world):\n    assert world.rank != 1\n    world.meet()\n    world.meet()\n"
    )
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = mpiexec(3, *words, cwd=ROOT, **{RECORDS: str(tmp_path)})
    assert done.returncode != 0
    assert "failed on rank 1 of 3" in done.stderr
