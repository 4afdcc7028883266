"""What an instance type brings, by its name, and how Spark should fill it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import InputError

GIB_A_CORE = {"c": 2, "m": 4, "r": 8, "x": 16}
"""Memory by family (docs: EC2 instance types)."""

YARN_SHARE = 0.75
"""What EMR gives to YARN of a node's memory; more on the largest (docs: EMR, Hadoop task configuration)."""

EXECUTOR_HEAP, DRIVER_HEAP = 1 / 2, 1 / 3
"""The JVM's part of a container; the rest is for Python, whose arrays are not on the heap."""

MOST_TIMES = 112
"""What multiples of an xlarge there are up to."""

OLDEST_GENERATION = 5
"""Before it, EMR gives YARN less than its share of smaller types."""

PATTERN = re.compile(
    r"(?P<family>[a-z])(?P<generation>\d+)(?P<processor>[a-z]*)(-\w+)?\.(?P<times>\d*)(?P<size>large|xlarge)"
)


@dataclass(frozen=True)
class Machine:
    """An instance type.

    Attributes:
        name: for example m7i.xlarge.
        cores: virtual ones.
        memory: GiB.
        architecture: x86_64 or aarch64.
    """

    name: str
    cores: int
    memory: int
    architecture: str

    @classmethod
    def of(cls, name: str) -> Machine:
        """Read an instance type's name.

        Raises:
            InputError: its family is not one whose sizes are known here.
        """
        match = PATTERN.fullmatch(name)
        times = int(match["times"] or 0) if match else 0
        if not match or match["family"] not in GIB_A_CORE or times > (match["size"] == "xlarge") * MOST_TIMES:
            raise InputError(
                f"instance type {name!r}: use one of the families {', '.join(GIB_A_CORE)} and sizes from large, "
                "such as m7i.xlarge or r7g.4xlarge"
            )
        if int(match["generation"]) < OLDEST_GENERATION:
            raise InputError(f"instance type {name!r}: use generation {OLDEST_GENERATION} or later, such as m7i")
        cores = 2 if match["size"] == "large" else 4 * (times or 1)
        architecture = "aarch64" if "g" in match["processor"] else "x86_64"
        return cls(name, cores, cores * GIB_A_CORE[match["family"]], architecture)


def spark_sizes(worker: Machine, workers: int) -> dict[str, str]:
    """One executor a node, with all its cores, and room for the driver on whichever node it comes to.

    Python workers multiply beside the JVM, one a core, each with one BLAS thread; the driver solves alone, with as
    many threads as its node has cores.
    """
    node = int(worker.memory * 1024 * YARN_SHARE)
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
