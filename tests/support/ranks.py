"""Start the tests of tests/mpi, which run on every rank of an mpiexec at once, and record what has run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.jobs import mpiexec
from tests.support.places import ROOT

RECORDS = "TESTS_UNDER_MPIEXEC"
"""Environment variable with the folder in which each rank records its tests. Without it, pytest starts no MPI."""

FOLDER = ROOT / "tests" / "mpi"

PATIENCE_S = 480
"""Seconds that all tests may take on several ranks, beside other tests."""


class Record(NamedTuple):
    """The tests of one rank.

    Attributes:
        collected: ids of the tests that pytest has chosen to run.
        outcomes: "passed", "skipped" or "failed", by the id of each test that has ended.
    """

    collected: list[str]
    outcomes: dict[str, str]


class Recorder:
    """A pytest plugin that writes the record of one rank when its tests have ended."""

    def __init__(self, rank: int) -> None:
        self._path = Path(os.environ[RECORDS]) / f"{rank}.json"
        self._record = Record([], {})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._record.collected.extend(item.nodeid for item in session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._record.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._record._asdict()))


def run_on_ranks(folder: Path, mpi: str, ranks: int, *choice: str) -> list[Record]:
    """Run tests of tests/mpi on every rank at once, and return the record of each rank.

    Args:
        folder: where ranks write their records.
        mpi: "mpich" or "openmpi".
        ranks: number of ranks.
        choice: files, or options of pytest that choose among the tests; all of tests/mpi if empty.
    """
    words = ["-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", *(choice or [str(FOLDER)])]
    done = mpiexec(ranks, *words, cwd=ROOT, mpi=mpi, timeout=PATIENCE_S, **{RECORDS: str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    return [Record(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
