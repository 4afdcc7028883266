"""Tests that run on every rank of an mpiexec at once; tests/mpi_jobs/test_ranks.py starts them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.blas import limit_blas
from tests.support.ranks import RECORDS, Recorder

collect_ignore_glob = [] if RECORDS in os.environ else ["test_*.py"]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if RECORDS in os.environ:
        from mpi4py import MPI

        rank = MPI.COMM_WORLD.rank
        config.pluginmanager.register(Recorder(rank))
        # each rank has folders of its own: pytest clears those of earlier runs away, and ranks would race for them
        temporary = Path(os.environ[RECORDS]) / f"temporary-{rank}"
        temporary.mkdir()
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(temporary)
        if rank:  # only rank 0 prints
            config.pluginmanager.unregister(name="terminalreporter")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """End all ranks if a test fails on one: the others would wait for it in the next test."""
    if report.failed and RECORDS in os.environ:  # the process that controls others hears of their failures too
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        print(
            f"\n{report.nodeid} failed on rank {world.rank} of {world.size}\n{report.longreprtext}",
            file=sys.stderr,
        )
        sys.stderr.flush()
        time.sleep(0.2)  # so that the launcher passes the message on before it ends
        world.Abort(1)


@pytest.fixture(autouse=True)
def _one_thread_of_blas() -> Iterator[None]:
    """Set BLAS back to one thread after each test: jobs set more, and ranks have no core for them."""
    yield
    limit_blas(1)


@pytest.fixture
def world() -> Any:
    """All ranks."""
    from mpi4py import MPI

    from mpi_jobs.engine.world import World

    return World(MPI.COMM_WORLD)
