"""`mpiexec -n 2 python bench/published_ridge.py`: the ridge classifier as published, for comparison.

Rank 0 alone reads all images and computes XᵀX and XᵀY in float64. It broadcasts them and the validation images to
all ranks, pickled. The λ are scattered, each rank solves and scores its λ one after the other, and the scores are
gathered, pickled. The seconds of the fit are printed as JSON. Two mistakes of the original are not repeated: each
λ was added to the ones before it, and only the last score of each rank was gathered.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from common.blas import limit_blas
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, and print the seconds, the correct validation images and the chosen λ."""
    limit_blas(1)
    world = MPI.COMM_WORLD
    images = None
    if world.rank == 0:
        ridge_run = RidgeRun.open("published", ridge_parser("").parse_arguments(argv))
        images = ridge_run.problem.load(ridge_run.console)
    world.barrier()
    started = time.perf_counter()

    problem, shares = None, None
    if world.rank == 0 and images is not None:
        x = images.pixels.reshape(len(images.labels), -1) / 255.0
        x = np.hstack([x, np.ones((len(x), 1))])  # for the intercept
        y = np.where(images.labels[:, None] == np.arange(ridge_run.problem.n_classes), 1.0, -1.0)
        held_out = images.folds == 0
        train = x[~held_out]
        problem = (train.T @ train, train.T @ y[~held_out], x[held_out], images.labels[held_out])
        shares = [ridge_run.problem.lambdas[rank :: world.size] for rank in range(world.size)]
    gram, cross, x_held_out, truth = world.bcast(problem)
    unit = np.eye(len(gram))
    unit[-1, -1] = 0
    correct = []
    for lambda_ in world.scatter(shares):
        weights = np.linalg.solve(gram + lambda_ * unit + 1e-8 * np.eye(len(gram)), cross)
        correct.append((int(((x_held_out @ weights).argmax(axis=1) == truth).sum()), lambda_))
    gathered = world.gather(correct)
    if gathered is not None:
        best, lambda_ = max(pair for share in gathered for pair in share)
        gram += x_held_out.T @ x_held_out
        cross += x_held_out.T @ y[held_out]
        np.linalg.solve(gram + lambda_ * unit + 1e-8 * np.eye(len(gram)), cross)
        print(json.dumps({"fit_s": time.perf_counter() - started, "correct": best, "best_lambda": lambda_}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
