"""The ridge classifier with the grid dealt out to ranks: each λ has its rank, which fits it and scores it.

The moments, which all λ share, are summed up by all ranks first, each from its own images. Then the models stay
where they are and the validation images go round: every rank scores its own λ on the images of all. The few λ that
are left over when each rank has its even share are each fitted by a team of ranks (cholesky.py), and every rank
scores them on its own images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from common.ridge.scoring import validate
from mpi_jobs.engine.world import World, run_mpi_job
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.ranked_run import RankedExperiment, ranked_parser
from mpi_jobs.ridge.shares import everyones_blocks


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, sum up over the ranks, fit and score each λ where it is, write the run folder."""
    parser = ranked_parser("Fit a one-vs-all ridge classifier over a grid of λ, the λ dealt out to ranks.")
    world = World(MPI.COMM_WORLD)
    run = RankedExperiment(world, "ridge_model_parallel", parser, argv)

    own, held_out = run.read()
    everything, training = run.sum(own)
    del own
    with run.phase("path"):
        grid = solve_grid(world, training, run.lambdas, run.penalty)
    with run.phase("validation"):
        correct = np.zeros(len(run.lambdas), np.int64)
        for stretch in grid.stretches(grid.left):
            correct[stretch.lambdas] += validate({stretch.fold: grid.get(stretch)}, held_out)[1]
        for block in everyones_blocks(world, held_out, run.facts.d):
            for stretch in grid.stretches(grid.own):
                correct[stretch.lambdas] += validate({stretch.fold: grid.get(stretch)}, [block])[1]
        n_scored, correct = run.count(sum(len(block.labels) for block in held_out), correct)
    lambda_ = run.best(correct)
    with run.phase("refit"):
        fitted = run.refit(everything, lambda_)
    tested = run.test([(fitted, lambda_)])
    run.finish(n_scored, correct, tested)
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
