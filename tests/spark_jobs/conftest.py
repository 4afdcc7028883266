"""Fixtures of the tests of Spark: a standalone cluster, a session, and scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark import SparkContext
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from bench.cluster import standalone_cluster
from tests.support.cluster import Cluster
from tests.support.java import SPARK_JAVA
from tests.support.jobs import environment


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One master and two workers of one core and 1 GiB each, as processes of their own on loopback."""
    folder = tmp_path_factory.mktemp("spark") / "cluster"
    with standalone_cluster(folder, memory="1g", environment=environment(), java=SPARK_JAVA) as master:
        yield Cluster(master, folder)


@pytest.fixture(scope="module")
def session(spark: SparkContext) -> SparkSession:
    return SparkSession(spark)


@pytest.fixture(scope="session")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    X, y = load_digits(return_X_y=True)
    return X.astype(np.uint8), y
