"""`mpiexec -n 2 python bench/collectives.py`: print the seconds of a sum over all ranks, by size, as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
from mpi4py import MPI

from mpi_jobs.engine.world import World

SIZES = [8 * 4**power for power in range(12)]
"""Bytes, from 8 to 32 Mi."""

REPEATS = 15


def main() -> int:
    """Measure all sizes and print pairs of bytes and seconds."""
    world = World(MPI.COMM_WORLD)
    measured = []
    for size in SIZES:
        array = np.ones(size // 8)
        times = []
        for _ in range(REPEATS):
            world.meet()
            started = time.perf_counter()
            world.sum(array)
            times.append(time.perf_counter() - started)
            array[:] = 1
        measured.append((size, statistics.median(times)))
    if world.is_root:
        print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
