"""Fixtures that all tests share, and the choice and order of tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_images
from tests.support.java import QUICK_JVM
from tests.support.jobs import run_main
from tests.support.places import ABSENT, DATA

# Tests interrupt what they start. In the background of a shell, pytest would pass on that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

OWN_SESSION = "spark_jobs/test_ml"
"""How the names of modules begin that run in a process, and so in a Spark session, of their own."""

LONGEST_FIRST = (
    "hadoop",
    "spark",
    OWN_SESSION,
    "cluster",
    "mpi_jobs/test_train_cnn",
    "emr/test_end_to_end",
    "mpi_jobs/test_ranks",
    "spark_jobs/test_agreement",
    "mpi_jobs/test_predict_cnn",
    "spark_jobs/test_odd_names",
    "mpi_jobs/test_agreement",
)
"""The groups of slow tests that take longest, in the order in which they begin."""

LAST = "docs/test_commands"
"""A module of many tests that fill what the long groups leave."""

ALONE = ("mpi_jobs/test_ranks", LAST)
"""Modules whose tests share nothing but the Spark session: any process may run each test that does not take it."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of the Spark session, skip those that need what is absent, put fast ones first, and group them.

    Processes of pytest-xdist take one group after the other, so that what tests share is made once.
    """
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.spark)
        for mark, reason in ABSENT.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_rank)


def _module(item: pytest.Item) -> str:
    return f"{item.path.parent.name}/{item.path.stem}"


def _group(item: pytest.Item) -> str:
    if _module(item).startswith(OWN_SESSION):
        return OWN_SESSION
    if item.path.parent.name == "hadoop":
        return "hadoop"
    for shared in ("spark", "cluster"):
        if shared in getattr(item, "fixturenames", ()):
            return shared
    if _module(item) in ALONE:
        return item.nodeid
    return _module(item)


def _rank(item: pytest.Item) -> tuple[bool, int]:
    slow = any(item.get_closest_marker(mark) for mark in ("slow", "spark"))
    group = _group(item)
    name = group if group in LONGEST_FIRST else _module(item)
    order = [*LONGEST_FIRST, "", LAST]
    return slow, order.index(name if name in order else "")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with MNIST and the hand photographs."""
    return DATA


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """A folder of images that a test may change."""
    return write_images(tmp_path / "images")


@pytest.fixture(scope="session")
def serial_mnist(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The run folder of serial.py on MNIST with its default settings."""
    from spark_jobs import serial

    folder = tmp_path_factory.mktemp("serial") / "mnist"
    run_main(serial.main, folder, "--data", "mnist", "--data-root", str(data_root))
    return folder


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """The Spark session on two cores that all jobs in this process use."""
    from pyspark.sql import SparkSession

    from spark_jobs.engine.session import configuration

    os.environ.update(QUICK_JVM, PYSPARK_PYTHON=sys.executable)
    conf = configuration("tests", live=False).setMaster("local[2]").set("spark.ui.enabled", "false")
    conf.set("spark.python.daemon.module", "tests.support.daemon")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    yield session.sparkContext
    session.stop()
