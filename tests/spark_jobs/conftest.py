"""The standalone Spark cluster that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.cluster import standalone_cluster
from tests.support.cluster import Cluster
from tests.support.jobs import QUICK_JAVA, environment


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One master and two workers of one core and 1 GiB each, as processes of their own on loopback."""
    folder = tmp_path_factory.mktemp("spark") / "cluster"
    with standalone_cluster(folder, memory="1g", environment=environment(), java=QUICK_JAVA) as master:
        yield Cluster(master, folder)
