"""What tests share: data that may or may not be there, one Spark session, and jobs as real processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.places import ABSENT, DATA

FAST_FIRST = ("common", "emr", "mpi_jobs", "bench", "project", "spark_jobs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, reason in ABSENT.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: (item.get_closest_marker("spark") is not None, _rank(item)))


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return FAST_FIRST.index(folder) if folder in FAST_FIRST else len(FAST_FIRST)


@pytest.fixture(scope="session")
def data_root() -> Path:
    return DATA


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """Three classes of 20 images of 10×12, told apart by where they are bright."""
    rng = np.random.default_rng(7)
    root = tmp_path / "images"
    for label, name in enumerate(("ash", "beech", "cedar")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 90, (10, 12, 3), np.uint8)
            pixels[:, 4 * label : 4 * label + 4] += 130
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One warm Spark session on two cores, which jobs run in this process make use of."""
    from pyspark.sql import SparkSession

    from spark_jobs.engine.session import configuration

    os.environ["PYSPARK_PYTHON"] = sys.executable
    conf = configuration("tests", live=False).setMaster("local[2]").set("spark.ui.enabled", "false")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    yield session.sparkContext
    session.stop()
