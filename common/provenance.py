"""The origin of a result: the engine, the command line, and the versions of packages."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import metadata
from typing import NamedTuple


class Engine(NamedTuple):
    """The engine that a job ran on.

    Attributes:
        name: for example "Spark 4.0.1 local[2]".
        workers: processes that worked at the same time.
        threads: BLAS threads in each.
    """

    name: str
    workers: int
    threads: int


def command() -> str:
    """Return the command line of this process."""
    # spark-submit's launcher talks to the script through this gateway
    program = "spark-submit" if "PYSPARK_GATEWAY_PORT" in os.environ else "python"
    return shlex.join([program, *sys.argv])


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform, and those installed packages that results may depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("numpy", "pillow", "pyarrow", "pyspark", "mpi4py", "onnxruntime", "torch", "torchvision"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
