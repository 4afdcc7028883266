"""The ridge classifier with the grid dealt out: an RDD of λ, and the images broadcast once.

Each worker process unpickles the images (uint8) and builds their moments once, keeps them, and then solves λ by λ
its share of the grid and scores each on the held-out images (see worker.py). Fast while one worker can hold all
images; gram.py has no such limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from common.data.splits import ALWAYS_TRAINING
from common.ridge.scoring import evaluate
from common.run.flags import ridge_parser
from common.run.ridge import Experiment
from spark_jobs.engine.lambda_tasks import Training, refit, try_lambda
from spark_jobs.engine.session import engine, run_spark_job, spark_context


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, broadcast, fit the λ where they are, write the run folder."""
    parser = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ, the λ spread over Spark's workers.")
    experiment = Experiment.open("outer", parser.parse_arguments(argv))
    phase, lambdas = experiment.console.phase, experiment.lambdas

    with phase("read"):
        train = experiment.load(experiment.train)
        test = experiment.load(experiment.test, names=True)
    experiment.check_folds(train.folds.tolist())
    with spark_context("outer", experiment.console) as context:
        with phase("broadcast"):
            shared = context.broadcast(Training(train, experiment.n_classes, experiment.penalty))
        with phase("lambdas"):
            # a task costs more than to solve a small system, and all λ cost the same: as many tasks as cores
            tasks = min(len(lambdas), context.defaultParallelism)
            outcomes = context.parallelize(lambdas, tasks).map(partial(try_lambda, shared)).collect()
        correct = np.array([outcome.correct for outcome in outcomes])
        lambda_ = experiment.best(correct)
        with phase("refit"):
            fitted = context.parallelize([lambda_], 1).map(partial(refit, shared)).first()
        with phase("test"):
            model = experiment.model(fitted, lambda_)
            tested = evaluate(model, test)
        shared.destroy()
        n_scored = int((train.folds != ALWAYS_TRAINING).sum())
        seconds = [outcome.seconds for outcome in outcomes]
        experiment.finish(
            engine(context), len(train.labels), n_scored, correct, model, tested, lambda_seconds=seconds
        )
    return 0


if __name__ == "__main__":
    run_spark_job(main)
