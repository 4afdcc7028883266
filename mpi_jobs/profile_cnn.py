"""What an image costs at each stage of prediction, and the layout of ranks that follows.

Decoding is forced where it belongs and not billed to the first who looks at a pixel. Run on as many ranks as there
are cores, all measure at the same time: cores that share caches and memory are slower together than each alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import World
from mpi_jobs.pipeline.profile_run import ProfileRun


def main(argv: Sequence[str] | None = None) -> int:
    """Open, measure, write the profile."""
    run = ProfileRun(World(MPI.COMM_WORLD), argv)
    run.finish(run.measure())
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
