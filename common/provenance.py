"""Where a result came from: the engine, the command line, and the versions of packages."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from typing import NamedTuple


class Engine(NamedTuple):
    """What a job ran on.

    Attributes:
        name: for example "Spark 4.0.1 local[2]".
        workers: processes that worked at the same time.
        threads: BLAS threads in each.
    """

    name: str
    workers: int
    threads: int


def command() -> str:
    """The command line that made this run."""
    # spark-submit's launcher talks to the script through this gateway
    program = "spark-submit" if "PYSPARK_GATEWAY_PORT" in os.environ else "python"
    return shlex.join([program, *sys.argv])


def versions() -> dict[str, str]:
    """Versions of what the result could depend on, as far as it is installed."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("numpy", "pillow", "pyarrow", "pyspark", "mpi4py", "torch", "torchvision"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
