"""Predictions by a trained network, in a pipeline over ranks: source, preprocessors, predictors, sink.

Images are given out in chunks to whoever is free. Preprocessors decode them, predictors score them, the sink
writes a row for each as they come, in the order of the images. pipeline/source.py says who gets what, and how
memory is kept within bounds; pipeline/profile.py how many preprocessors and predictors there should be.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import World
from mpi_jobs.pipeline.run import PredictionRun


def main(argv: Sequence[str] | None = None) -> int:
    """Open, let all roles work, write the report."""
    run = PredictionRun(World(MPI.COMM_WORLD), argv)
    try:
        run.predict()
        run.finish()
    except KeyboardInterrupt as interrupt:
        run.interrupted(interrupt)
        raise
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
