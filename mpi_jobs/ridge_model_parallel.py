"""The ridge classifier with the grid dealt out to ranks: each λ has a rank that fits it and scores it.

All λ share the moments, so all ranks sum them first, each from its own images. Then the models stay where they are
and the held-out images go round: every rank scores its own λ on the images of all ranks. If λ are left over when
each rank has its even share, each of them is fitted by a team of ranks (ridge/cholesky.py), and every rank scores
it on its own images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from common.ridge.fit import Fit, Problem
from common.ridge.scoring import validate
from common.run.parser import Parser
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import AtRoot, World
from mpi_jobs.ridge.dealt_problem import DealtProblem, RankSettings
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.ranked_run import RankedRun, ranked_parser
from mpi_jobs.ridge.shares import everyones_blocks


def fit(
    world: World,
    problem: AtRoot[Problem],
    settings: RankSettings = RankSettings(),
    clock: RankClock | None = None,
) -> Fit:
    """Fit a problem on all ranks, each of which fits and scores its own λ. Every rank calls this.

    The BLAS of this process is limited to `settings.blas_threads` from now on.

    Args:
        world: the ranks.
        problem: what to fit, on rank 0.
        settings: how each rank works.
        clock: see ridge_data_parallel.fit, as for the errors raised.
    """
    dealt = DealtProblem(world, problem, settings, clock)
    lambdas, features = dealt.size.lambdas, dealt.size.features
    own, held_out = dealt.read()
    everything, training = dealt.sum(own)
    del own
    with dealt.phase("path"):
        grid = solve_grid(world, training, lambdas, dealt.size.penalty)
    with dealt.phase("validation"):
        correct = np.zeros(len(lambdas), np.int64)
        for stretch in grid.stretches(grid.left):
            correct[stretch.lambdas] += validate({stretch.fold: grid.get(stretch)}, features, held_out)[1]
        kept = dealt.size.n_features if dealt.size.keeps else None
        for block in everyones_blocks(world, held_out, dealt.size.shape, kept):
            for stretch in grid.stretches(grid.own):
                correct[stretch.lambdas] += validate({stretch.fold: grid.get(stretch)}, features, [block])[1]
        n_scored, correct = dealt.count(sum(len(block.labels) for block in held_out), correct)
    lambda_ = dealt.best_lambda(correct)
    with dealt.phase("refit"):
        path = dealt.refit(everything, lambda_)
    return dealt.result(path, lambda_, everything.n, n_scored, correct)


def parser() -> Parser:
    """Return the parser of this job's flags."""
    return ranked_parser("Fit a one-vs-all ridge classifier over a grid of λ, the λ dealt out to ranks.")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    world = World(MPI.COMM_WORLD)
    run = RankedRun(world, "ridge_model_parallel", parser(), argv)
    run.finish(fit(world, run.problem, run.settings, run.clock))
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
