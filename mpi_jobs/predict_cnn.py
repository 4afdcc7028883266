"""Predictions by a network or a ridge model, in a pipeline over ranks: source, preprocessors, predictors, sink.

The source gives out images in chunks to whichever rank is free. Preprocessors decode them, predictors score them,
and the sink writes one row per image, in the order of the images. `pipeline/source.py` decides who gets what, and
bounds the memory; `pipeline/profile.py` decides how many preprocessors and predictors there should be.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from common.buffers import keep_buffers
from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.runs import resumable
from mpi_jobs.engine.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """Open, let all roles work, write the report."""
    keep_buffers()
    # imported after that, because libraries that it imports start threads
    from mpi_jobs.pipeline.prediction_run import PredictionRun

    run = PredictionRun(World(MPI.COMM_WORLD), argv)
    with resumable(run):
        run.predict()
        run.finish()
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
