"""Sizes of workers of EMR Serverless, and how Spark fills them."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import InputError
from emr.ec2.machines import DRIVER_HEAP, EXECUTOR_HEAP

ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Processors as users and the API call them, and as Python's packages do."""

SIZES = {1: (2, 8, 1), 2: (4, 16, 1), 4: (8, 30, 1), 8: (16, 60, 4), 16: (32, 120, 8)}
"""By vCPUs: the least memory in GB, the most, and the step (docs: EMR Serverless, worker configurations)."""

DISK_GB = 20
"""The disk of a worker, which the price includes."""


@dataclass(frozen=True)
class Worker:
    """The size of a worker, be it the driver or an executor.

    Attributes:
        vcpus: the number of vCPUs.
        gb: the memory, for Spark and for what is beside it.
    """

    vcpus: int
    gb: int

    @classmethod
    def of(cls, vcpus: int, gb: int) -> Worker:
        """Check a size.

        Raises:
            InputError: there is no such worker.
        """
        if vcpus not in SIZES:
            raise InputError(f"worker_vcpus {vcpus}: use one of {', '.join(map(str, SIZES))}")
        least, most, step = SIZES[vcpus]
        if not least <= gb <= most or (gb - least) % step:
            by = f", in steps of {step}" if step > 1 else ""
            raise InputError(f"worker_gb {gb}: with {vcpus} vCPUs, use {least} to {most}{by}")
        return cls(vcpus, gb)

    def __str__(self) -> str:
        return f"workers of {self.vcpus} vCPUs and {self.gb} GB"

    def capacity(self) -> dict[str, str]:
        """Return the size as the API takes it (API reference: WorkerResourceConfig)."""
        return {"cpu": f"{self.vcpus} vCPU", "memory": f"{self.gb} GB", "disk": f"{DISK_GB} GB"}

    def times(self, n: int) -> dict[str, str]:
        """Return the size of n workers together (API reference: MaximumAllowedResources)."""
        return {"cpu": f"{n * self.vcpus} vCPU", "memory": f"{n * self.gb} GB", "disk": f"{n * DISK_GB} GB"}

    def spark_sizes(self, executors: int) -> dict[str, str]:
        """Return Spark's settings for executors that fill a worker each, and a driver that fills one.

        Python workers multiply matrices beside the JVM: one per core, each with one BLAS thread. The driver solves
        alone, and so uses as many threads as it has cores.
        """
        memory = self.gb * 1024
        heaps = {"driver": int(memory * DRIVER_HEAP), "executor": int(memory * EXECUTOR_HEAP)}
        sizes = {"spark.executor.instances": str(executors)}
        for who, heap in heaps.items():
            sizes |= {
                f"spark.{who}.cores": str(self.vcpus),
                f"spark.{who}.memory": f"{heap}m",
                f"spark.{who}.memoryOverhead": f"{memory - heap}m",
                f"spark.emr-serverless.{who}.disk": f"{DISK_GB}g",
            }
        threads = "OPENBLAS_NUM_THREADS"
        return sizes | {
            f"spark.executorEnv.{threads}": "1",
            f"spark.emr-serverless.driverEnv.{threads}": str(self.vcpus),
        }
