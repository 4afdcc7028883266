"""The ridge classifier with the images dealt out to ranks.

`--combine exact`: each rank sums up the moments of its own images, and these are added up over the ranks, which is
exact: the model is that of one process. The systems of all λ are then dealt out too (grid.py), and each rank
scores all λ on its own validation images.

`--combine average`: each rank fits its own images alone, and the weights are averaged. It is the classic, cheap in
what it sends and approximate in what it finds; the exact model is fitted beside it, to tell how much that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from common.ridge.scoring import validate
from mpi_jobs.engine.world import World, run_mpi_job
from mpi_jobs.ridge.averaging import Shards
from mpi_jobs.ridge.grid import solve_grid
from mpi_jobs.ridge.ranked_run import RankedExperiment, ranked_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read, sum up over the ranks, fit, write the run folder."""
    parser = ranked_parser("Fit a one-vs-all ridge classifier over a grid of λ, the images dealt out to ranks.")
    parser.add_argument(
        "--combine", choices=("exact", "average"), default="exact",
        help="add up the ranks' moments, or average the weights that each rank finds for its own images",
    )  # fmt: skip
    world = World(MPI.COMM_WORLD)
    run = RankedExperiment(world, "ridge_data_parallel", parser, argv)

    own, held_out = run.read()
    everything, training = run.sum(own)
    shards = None
    if run.arguments.combine == "average":
        n: dict[int | None, int] = {fold: others.n for fold, others in training.items()}
        n[None] = everything.n
        shards = Shards(world, own, n, everything.cross.shape, run.penalty)
    del own
    with run.phase("path"):
        grid = solve_grid(world, training, run.lambdas, run.penalty)
        grid.share()
    with run.phase("validation"):
        n_scored, correct = run.count(*validate(grid.paths(), held_out))
    lambda_ = run.best(correct)
    with run.phase("refit"):
        fits = [(run.refit(everything, lambda_), lambda_)]

    about: dict[str, Any] = {"combine": run.arguments.combine}
    if shards is not None:
        about["exact"] = {"best_lambda": lambda_, "validation_correct": correct.tolist()}
        with run.phase("average"):
            n_scored, correct = run.count(*validate(shards.paths(run.lambdas), held_out))
            averaged = run.best(correct)
            fits.insert(0, (shards.refit(averaged), averaged))
        run.warn(shards.warnings())
    tested = run.test(fits)
    if shards is not None and tested:
        about["exact"]["test_accuracy"] = tested[1][1].confusion.accuracy()
        run.say(
            f"the average of {world.size} models is an approximation; exact, "
            f"{about['exact']['test_accuracy']:.4f} of test images are correct"
        )
    run.finish(n_scored, correct, tested, **about)
    return 0


if __name__ == "__main__":
    run_mpi_job(main)
