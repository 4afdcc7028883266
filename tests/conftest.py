"""Fixtures that all tests share, and the choice and order of tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import write_images
from tests.support.jobs import QUICK_JVM, run_main
from tests.support.places import ABSENT, DATA

FAST_FIRST = ("common", "emr", "mpi_jobs", "bench", "project", "spark_jobs")
"""Folders of tests, in the order in which they run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of the Spark session, skip those that need what is absent, and put the fast ones first."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.spark)
        for mark, reason in ABSENT.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: (item.get_closest_marker("spark") is not None, _rank(item)))


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return FAST_FIRST.index(folder) if folder in FAST_FIRST else len(FAST_FIRST)


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
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    yield session.sparkContext
    session.stop()
