"""A standalone Spark cluster."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Cluster(NamedTuple):
    """A running cluster.

    Attributes:
        master: its address.
        folder: holds a folder per worker, these one per application, and these one per executor.
    """

    master: str
    folder: Path
