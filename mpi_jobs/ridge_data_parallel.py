"""The ridge classifier with the images dealt out to ranks.

`--combine exact`: each rank sums the moments of its own images, and these are added up over the ranks. That is
exact: the model is the one that a single process finds. The systems of all λ are then dealt out too
(ridge/grid.py), and each rank scores all λ on its own held-out images.

`--combine average`: each rank fits its own images alone, and the weights are averaged. This is the classic method.
It sends little and is approximate. The exact model is fitted beside it, to tell how much accuracy the average
costs.

Moments that are too large for each rank to hold as a whole lie in tiles on all of them (ridge/spread_fit.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpi4py import MPI

from common.ridge.fit import Fit, Problem
from common.ridge.scoring import validate
from common.run.flag_types import positive_integer
from common.run.parser import Parser
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.exits import run_mpi_job
from mpi_jobs.engine.world import AtRoot, World
from mpi_jobs.ridge.averaging import Shards
from mpi_jobs.ridge.dealt_problem import DealtProblem, RankSettings
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.ranked_run import RankedRun, ranked_parser
from mpi_jobs.ridge.spread_fit import fit_spread, is_spread


def fit(
    world: World,
    problem: AtRoot[Problem],
    combine: str = "exact",
    settings: RankSettings = RankSettings(),
    clock: RankClock | None = None,
) -> Fit:
    """Fit a problem on all ranks, each of which sums its own images. Every rank calls this.

    The BLAS of this process is limited to `settings.blas_threads` from now on.

    Args:
        world: the ranks.
        problem: what to fit, on rank 0.
        combine: "exact" to add up moments, "average" to average the weights that each rank finds alone.
        settings: how each rank works.
        clock: shows progress and measures phases; silent if None.

    Raises:
        AgreedError: images cannot be read, too many cannot be used, or a fold has none left.
    """
    dealt = DealtProblem(world, problem, settings, clock)
    lambdas, penalty, features = dealt.size.lambdas, dealt.size.penalty, dealt.size.features
    if is_spread(dealt.size.moments_bytes, dealt.size.n_features, settings, combine):
        return fit_spread(world, dealt, settings)
    own, held_out = dealt.read()
    everything, training = dealt.sum(own)
    shards = Shards(world, own, everything, training, penalty) if combine == "average" else None
    del own
    with dealt.phase("path"):
        grid = solve_grid(world, training, lambdas, penalty)
        grid.share()
    with dealt.phase("validation"):
        n_scored, correct = dealt.count(*validate(grid.paths(), features, held_out))
    lambda_ = dealt.best_lambda(correct)
    with dealt.phase("refit"):
        path = dealt.refit(everything, lambda_)
    exact = dealt.result(path, lambda_, everything.n, n_scored, correct)
    if shards is None:
        return replace(exact, details={"combine": combine})

    with dealt.phase("average"):
        n_scored, correct = dealt.count(*validate(shards.paths(lambdas), features, held_out))
        averaged = dealt.best_lambda(correct)
        path = shards.refit(averaged)
    for warning in shards.warnings():
        dealt.console.warn(warning)
    about_exact = {"best_lambda": lambda_, "validation_correct": exact.correct.tolist()}
    average = dealt.result(path, averaged, everything.n, n_scored, correct)
    return replace(average, exact=exact, details={"combine": combine, "exact": about_exact})


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ranked_parser("Fit a one-vs-all ridge classifier over a grid of λ, the images dealt out to ranks.")
    flags.add_argument(
        "--combine",
        choices=("exact", "average"),
        default="exact",
        help="add up the moments of the ranks, or average the weights that each rank finds for its own images",
    )
    flags.add_argument(
        "--whole",
        metavar="MIB",
        type=positive_integer,
        help="spread moments over the ranks, in tiles, if they take more than this (default: 256, or an "
        "eighth of a rank's memory if that is less)",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    world = World(MPI.COMM_WORLD)
    run = RankedRun(world, "ridge_data_parallel", parser(), argv, spreads=True)
    run.finish(fit(world, run.problem, run.arguments.combine, run.settings, run.clock))
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
