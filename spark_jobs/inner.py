"""The ridge classifier with the work of each λ dealt out: the pseudo-inverse as an RDD of row blocks.

For every λ on the driver, the executors compute rows of (XᵀX + λI)⁻¹ from one broadcast eigendecomposition and
multiply them by XᵀY, for all classes at once. Then the images, an RDD of blocks, are scored where they are. The
explicit inverse is the subject of this job; gram.py is the fast one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pyspark import Broadcast, SparkContext

from common.console import Console
from common.data.splits import shard
from common.ridge.fit import Fit, Problem
from common.ridge.moments import Moments, total, training_moments
from common.ridge.path import RidgePath, Spectrum, with_intercepts
from common.ridge.penalty import centred_system, penalty_weight, times_scale
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.passes import score_test_images, sum_moments
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context


def fit_by_rows(
    context: SparkContext, moments: Moments, spectrum: Broadcast[Spectrum], lambda_: float, penalty: str
) -> RidgePath:
    """Compute the weights at one λ from rows of the inverse on the executors, and return a path of length one.

    Args:
        context: the Spark context.
        moments: moments of the training images.
        spectrum: the eigendecomposition of their centred system.
        lambda_: finite and not negative.
        penalty: "sum", "mean" or "scaled".
    """
    weight = penalty_weight(lambda_, penalty, moments.n)
    d, parts = len(moments.sum_x), min(len(moments.sum_x), context.defaultParallelism)
    rows = context.parallelize([shard(d, rank, parts) for rank in range(parts)], parts)
    inverse = rows.map(lambda own: spectrum.value.inverse_rows(weight, own))  # each (len(own), d)
    weights = inverse.map(lambda block: block @ spectrum.value.cross).collect()  # each (len(own), n_classes)
    return with_intercepts(moments, times_scale(np.concatenate(weights)[None], spectrum.value.scale))


def fit(
    context: SparkContext, problem: Problem, partitions: int | None = None, console: Console | None = None
) -> Fit:
    """Fit a problem λ by λ, each with an inverse spread over the executors.

    Args:
        context: the Spark context.
        problem: what to fit.
        partitions: see gram.fit.
        console: see serial.fit, as for the errors raised.
    """
    console = console or Console(quiet=True)
    blocks, (moments, products, skipped) = sum_moments(context, problem, partitions, console)
    training = training_moments(moments)
    with console.phase("spectrum"):
        spectra = {
            fold: context.broadcast(Spectrum.of(*centred_system(own, problem.penalty)))
            for fold, own in training.items()
        }
    n_scored, correct = 0, np.zeros(len(problem.lambdas), np.int64)
    with console.bar(len(problem.lambdas), "λ") as advance:
        for i, lambda_ in enumerate(problem.lambdas):
            with console.phase("inverse"):
                paths = {
                    fold: fit_by_rows(context, own, spectra[fold], lambda_, problem.penalty)
                    for fold, own in training.items()
                }
            with console.phase("validation"):
                n_scored, (correct[i],) = count_correct(blocks, paths, problem.features)
            advance(1)
    for shared in spectra.values():
        shared.destroy()
    lambda_ = problem.best_lambda(correct)
    with console.phase("refit"):
        everything = total(moments)
        spectrum = context.broadcast(Spectrum.of(*centred_system(everything, problem.penalty)))
        model = problem.model(fit_by_rows(context, everything, spectrum, lambda_, problem.penalty), lambda_)
    return Fit(model, problem.n_fitted(everything), n_scored, correct, moments, products, skipped)


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ, each λ's inverse spread over Spark.")
    partitions_flag(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    run = RidgeRun.open("inner", parser().parse_arguments(argv))
    partitions = run.arguments.partitions
    with spark_context("inner", run.console) as context:
        fitted = fit(context, run.problem, partitions, run.console)
        tested = score_test_images(context, run, fitted.model, partitions)
        run.finish(engine(context), fitted, tested)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
