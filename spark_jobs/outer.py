"""The ridge classifier with the grid dealt out: an RDD of λ, and the images broadcast once.

Each worker process unpickles the images (uint8), sums their moments once and keeps them. Then it solves its share
of the grid, λ by λ, and scores each on the held-out images (see engine/lambda_tasks.py). This is fast while one
worker can hold all images; gram.py has no such limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from pyspark import SparkContext

from common.console import Console
from common.data.splits import ALWAYS_TRAINING
from common.ridge.fit import Fit, Problem
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.lambda_tasks import Training, refit, try_lambda
from spark_jobs.engine.session import engine, run_spark_job, spark_context


def fit(context: SparkContext, problem: Problem, console: Console | None = None) -> Fit:
    """Fit a problem with its λ spread over the workers, each of which holds all images.

    Args:
        context: the Spark context.
        problem: what to fit; the images must fit into each worker.
        console: see serial.fit, as for the errors raised.
    """
    console = console or Console(quiet=True)
    with console.phase("read"):
        train = problem.load(console)
    problem.check_folds(train.folds.tolist())
    with console.phase("broadcast"):
        shared = context.broadcast(Training.of(problem, train))
    with console.phase("lambdas"):
        # One task per core: a task costs more than solving a small system, and all λ cost the same.
        tasks = min(len(problem.lambdas), context.defaultParallelism)
        outcomes = context.parallelize(problem.lambdas, tasks).map(partial(try_lambda, shared)).collect()
    correct = np.array([outcome.correct for outcome in outcomes])
    lambda_ = problem.best_lambda(correct)
    with console.phase("refit"):
        fitted = context.parallelize([lambda_], 1).map(partial(refit, shared)).first()
    shared.destroy()
    return Fit(
        problem.model(fitted, lambda_),
        len(train.labels),
        int((train.folds != ALWAYS_TRAINING).sum()),
        correct,
        products=frozenset().union(*(outcome.products for outcome in outcomes)),
        skipped=train.skipped,
        details={"lambda_seconds": [outcome.seconds for outcome in outcomes]},
    )


def parser() -> Parser:
    """Return the parser of this job's flags."""
    return ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ, the λ spread over Spark's workers.")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    run = RidgeRun.open("outer", parser().parse_arguments(argv))
    test = run.load_test()
    with spark_context("outer", run.console) as context:
        fitted = fit(context, run.problem, run.console)
        tested = run.evaluate(fitted.model, test)
        run.finish(engine(context), fitted, tested)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
