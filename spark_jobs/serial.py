"""The ridge classifier without an engine: one process and its BLAS threads.

Speed-ups are quoted against this job, and it shows the algorithm in its plainest form: the moments of every fold
in one pass, the moments of other folds by subtraction, one eigendecomposition per fold for all λ, and a refit for
free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.blas import blas_threads, limit_blas
from common.console import Console
from common.data.splits import ALWAYS_TRAINING
from common.provenance import Engine
from common.ridge.fit import Fit, Problem
from common.ridge.kept import with_features
from common.ridge.moments import FoldSums, total, training_moments
from common.ridge.path import ridge_fit, ridge_path
from common.ridge.scoring import validate
from common.run.exits import run_job
from common.run.flag_types import positive_integer
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun


def fit(problem: Problem, console: Console | None = None) -> Fit:
    """Fit a problem in this process.

    Args:
        problem: what to fit.
        console: shows progress and measures phases; silent if None.

    Raises:
        InputError: too many images cannot be used, or a fold has none left.
    """
    console = console or Console(quiet=True)
    with console.phase("read"):
        train = problem.load(console)
    with console.phase("moments"):
        sums = FoldSums(problem.n_classes, problem.features, problem.augmentation)
        if problem.keeps():
            train = with_features(train, problem.features)
        sums.add_block(train)
        moments = sums.result()
    problem.check_folds(moments)
    correct = np.zeros(len(problem.lambdas), np.int64)
    training = training_moments(moments)
    with console.bar(len(training), "fold") as advance:
        for fold, others in training.items():
            with console.phase("path"):
                path = ridge_path(others, problem.lambdas, problem.penalty)
            with console.phase("validation"):
                correct += validate({fold: path}, problem.features, [train])[1]
            advance(1)
    lambda_ = problem.best_lambda(correct)
    with console.phase("refit"):
        model = problem.model(ridge_fit(total(moments), lambda_, problem.penalty), lambda_)
    n_validation = int((train.folds != ALWAYS_TRAINING).sum())
    return Fit(model, len(train.labels), n_validation, correct, moments, sums.products, train.skipped)


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ in one process.")
    flags.add_argument(
        "--threads", metavar="T", type=positive_integer, help="BLAS threads (default: as many as BLAS likes)"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    run = RidgeRun.open("serial", parser().parse_arguments(argv))
    if run.arguments.threads is not None:
        limit_blas(run.arguments.threads)
    test = run.load_test()
    fitted = fit(run.problem, run.console)
    tested = run.evaluate(fitted.model, test)
    run.finish(Engine("one process", 1, blas_threads()), fitted, tested)
    return 0


if __name__ == "__main__":
    run_job(main)
