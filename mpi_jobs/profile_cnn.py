"""The cost of each step of prediction per image, and the layout of ranks that follows from it.

Every step of decoding is carried out and timed where it belongs, although Pillow would put decoding off until
somebody looks at a pixel. Started on as many ranks as there are cores, all ranks measure at the same time: cores
that share caches and memory are slower together than each alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from common.buffers import keep_buffers
from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """Open, measure, write the profile."""
    keep_buffers()
    # imported after that, because libraries that it imports start threads
    from mpi_jobs.pipeline.profile_run import ProfileRun

    run = ProfileRun(World(MPI.COMM_WORLD), argv)
    run.finish(run.measure())
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
