"""A convolutional network, trained with the images of each step dealt out to ranks.

In each step every rank computes the gradient of its own images; the gradients are summed over all ranks while they
are still being computed, and all ranks take the same step. Batch norm and dropout aside, what is learnt does not
depend on how many ranks there are: cnn/training.py says how, cnn/gradients.py does the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import World
from mpi_jobs.training.run import TrainingRun


def main(argv: Sequence[str] | None = None) -> int:
    """Open, train epoch by epoch, test the best, write the run folder."""
    run = TrainingRun(World(MPI.COMM_WORLD), argv)
    try:
        for epoch in run.epochs():
            run.train(epoch)
            run.validate()
            run.end_epoch()
        run.test()
        run.finish()
    except KeyboardInterrupt as interrupt:
        run.interrupted(interrupt)
        raise
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
