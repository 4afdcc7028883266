"""The ridge classifier with the images dealt out: exact moments of blocks, tree-reduced.

Executors read the images and return sums. Whatever the number of images, the driver holds names, labels and a few
d×d matrices; whatever the partitioning, those matrices are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import SparkContext

from common.console import Console
from common.errors import InputError
from common.ridge.fit import Fit, Problem
from common.ridge.moments import total, training_moments
from common.ridge.path import ridge_fit, ridge_path
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.moments_files import MomentsFiles, moments_flags
from spark_jobs.engine.passes import score_test_images, sum_moments
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context


def fit(
    context: SparkContext,
    problem: Problem,
    partitions: int | None = None,
    console: Console | None = None,
    files: MomentsFiles | None = None,
) -> Fit:
    """Fit a problem on the executors, in two passes over the images.

    Args:
        context: the Spark context.
        problem: what to fit.
        partitions: the number of partitions; None for one per core, or more if partitions would be large.
        console: shows progress and measures phases; silent if None.
        files: moments of images that need not be summed again.

    Raises:
        InputError: too many images cannot be used, or a fold has none left.
    """
    console = console or Console(quiet=True)
    blocks, (moments, products, skipped) = sum_moments(context, problem, partitions, console, files)
    with console.phase("path"):
        paths = {
            fold: ridge_path(others, problem.lambdas, problem.penalty)
            for fold, others in training_moments(moments).items()
        }
    with console.phase("validation"):
        n_scored, correct = count_correct(blocks, paths, problem.features)
    if not n_scored and len(problem.lambdas) > 1:
        raise InputError("no image that --data holds validates; give one λ, or more images")
    lambda_ = problem.best_lambda(correct)
    everything = total(moments)
    with console.phase("refit"):
        model = problem.model(ridge_fit(everything, lambda_, problem.penalty), lambda_)
    details = {} if files is None else files.details()
    return Fit(model, problem.n_fitted(everything), n_scored, correct, moments, products, skipped, details)


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ridge_parser(
        "Fit a one-vs-all ridge classifier over a grid of λ, from moments reduced over the images."
    )
    partitions_flag(flags)
    moments_flags(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    arguments = parser().parse_arguments(argv)
    run = RidgeRun.open("gram", arguments, complete=not arguments.add_moments)
    partitions, files = arguments.partitions, MomentsFiles.open(run)
    with spark_context("gram", run.console) as context:
        fitted = fit(context, run.problem, partitions, run.console, files)
        tested = score_test_images(context, run, fitted.model, partitions)
        run.finish(engine(context), fitted, tested)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
