"""Tests that run on every rank of an mpiexec at once; tests/mpi_jobs/test_ranks.py starts them."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest

from tests.support.ranks import UNDER_MPIEXEC

collect_ignore_glob = [] if UNDER_MPIEXEC in os.environ else ["test_*.py"]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if UNDER_MPIEXEC in os.environ:
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank:  # rank 0 speaks for all
            config.pluginmanager.unregister(name="terminalreporter")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that failed on one rank would leave the others waiting in the next."""
    if report.failed:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        print(
            f"\n{report.nodeid} failed on rank {world.rank} of {world.size}\n{report.longreprtext}",
            file=sys.stderr,
        )
        sys.stderr.flush()
        time.sleep(0.2)  # or the launcher may end before it has passed this on
        world.Abort(1)


@pytest.fixture
def world() -> Any:
    """All ranks."""
    from mpi4py import MPI

    from mpi_jobs.engine.world import World

    return World(MPI.COMM_WORLD)
