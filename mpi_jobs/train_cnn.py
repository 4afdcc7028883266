"""Train a convolutional network, with the images of each step dealt out to ranks.

In each step every rank computes the gradient of its own images; the gradients are summed over all ranks while
they are still being computed, and all ranks take the same step. Batch norm and dropout aside, the result does not
depend on the number of ranks. training/trainer.py explains the step, training/replica.py the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.runs import resumable
from mpi_jobs.engine.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """Open, train epoch by epoch, test the best, write the run folder."""
    # imported here, where an interrupt is one line: torch takes more than a second
    from mpi_jobs.training.training_run import TrainingRun

    run = TrainingRun(World(MPI.COMM_WORLD), argv)
    with resumable(run):
        for epoch in run.epochs():
            run.train(epoch)
            run.validate()
            run.end_epoch()
        run.test()
        run.finish()
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
