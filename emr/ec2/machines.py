"""Cores and memory of instance types, read from their names, and the sizes with which Spark fills them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import InputError

GIB_PER_CORE = {"c": 2, "m": 4, "r": 8, "x": 16}
"""GiB of memory per core, by family (docs: EC2 instance types)."""

YARN_SHARE = 0.75
"""Share of a node's memory that EMR gives to YARN; more on the largest (docs: EMR, Hadoop task configuration)."""

EXECUTOR_HEAP, DRIVER_HEAP = 1 / 2, 1 / 3
"""The JVM's share of a container. The rest is for Python, whose arrays are not on the heap."""

MAX_MULTIPLE = 112
"""The largest instance is this many times an xlarge."""

MIN_GENERATION = 5
"""On smaller types of older generations, EMR gives YARN less than its usual share."""

PATTERN = re.compile(
    r"(?P<family>[a-z])(?P<generation>\d+)(?P<processor>[a-z]*)(-\w+)?\.(?P<multiple>\d*)(?P<size>large|xlarge)"
)


@dataclass(frozen=True)
class Machine:
    """An instance type.

    Attributes:
        name: for example m7i.xlarge.
        cores: number of vCPUs.
        memory: in GiB.
        architecture: x86_64 or aarch64.
    """

    name: str
    cores: int
    memory: int
    architecture: str

    @property
    def yarn_mib(self) -> int:
        """The memory that EMR gives to YARN, in MiB."""
        return int(self.memory * 1024 * YARN_SHARE)

    @classmethod
    def of(cls, name: str) -> Machine:
        """Read an instance type's name.

        Raises:
            InputError: the name is not one of a family whose sizes are listed here.
        """
        match = PATTERN.fullmatch(name)
        multiple = int(match["multiple"] or 0) if match else 0
        if not match or match["family"] not in GIB_PER_CORE or multiple > _max_multiple(match["size"]):
            raise InputError(
                f"instance type {name!r}: use one of the families {', '.join(GIB_PER_CORE)} and sizes from large, "
                "such as m7i.xlarge or r7g.4xlarge"
            )
        if int(match["generation"]) < MIN_GENERATION:
            raise InputError(f"instance type {name!r}: use generation {MIN_GENERATION} or later, such as m7i")
        cores = 2 if match["size"] == "large" else 4 * (multiple or 1)
        architecture = "aarch64" if "g" in match["processor"] else "x86_64"
        return cls(name, cores, cores * GIB_PER_CORE[match["family"]], architecture)


def _max_multiple(size: str) -> int:
    """Return the largest multiple of a size: only an xlarge comes in multiples."""
    return MAX_MULTIPLE if size == "xlarge" else 0


def spark_sizes(worker: Machine, workers: int) -> dict[str, str]:
    """Return Spark's settings for one executor per node.

    An executor gets all cores of its node. It leaves room for the driver, which may start on any node. Python
    workers multiply matrices beside the JVM: one per core, each with one BLAS thread. The driver solves alone, and
    so uses as many threads as its node has cores.

    Args:
        worker: the smallest of the machines that work.
        workers: number of machines that work.
    """
    node = worker.yarn_mib
    driver = min(node // 4, 8 * 1024)
    executor = node - driver
    heaps = {"driver": int(driver * DRIVER_HEAP), "executor": int(executor * EXECUTOR_HEAP)}
    return {
        "spark.driver.memory": f"{heaps['driver']}m",
        "spark.driver.memoryOverhead": f"{driver - heaps['driver']}m",
        "spark.executor.instances": str(workers),
        "spark.executor.cores": str(worker.cores),
        "spark.executor.memory": f"{heaps['executor']}m",
        "spark.executor.memoryOverhead": f"{executor - heaps['executor']}m",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        "spark.yarn.appMasterEnv.OPENBLAS_NUM_THREADS": str(worker.cores),
    }
