"""The ridge classifier with the images dealt out: exact moments of blocks, tree-reduced.

Executors read the images and return sums. Whatever the number of images, the driver holds names, labels and a few
d×d matrices; whatever the partitioning, those matrices are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import SparkContext

from common.console import Console
from common.errors import InputError
from common.ridge.fit import MAX_PACKED_BYTES, Fit, Problem
from common.ridge.moments import total, training_moments
from common.ridge.path import ridge_fit, ridge_path
from common.run.flag_types import positive_integer
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.dropping import DroppedClasses, drop_class_flag
from spark_jobs.engine.forgetting import Forgotten, forget_flag
from spark_jobs.engine.moments_files import MomentsFiles, moments_flags
from spark_jobs.engine.passes import score_test_images, sum_moments, training_blocks
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context
from spark_jobs.engine.tiled_fit import MOST_IN_TILES, fit_in_tiles


def fit(
    context: SparkContext,
    problem: Problem,
    partitions: int | None = None,
    console: Console | None = None,
    files: MomentsFiles | None = None,
    forgotten: Forgotten | None = None,
    whole: int = MAX_PACKED_BYTES,
) -> Fit:
    """Fit a problem on the executors, in two passes over the images.

    Moments that are larger than `whole` never lie in one process (engine/tiled_fit.py).

    Args:
        context: the Spark context.
        problem: what to fit.
        partitions: the number of partitions; None for one per core, or more if partitions would be large.
        console: shows progress and measures phases; silent if None.
        files: moments of images that need not be summed again.
        forgotten: images that are not among those of the problem, and count no more if files have them.
        whole: the largest size, in bytes, of moments that travel between processes as one record, which Spark
            caps.

    Raises:
        InputError: too many images cannot be used, or a fold has none left; or moments in files, which are whole,
            are to be combined with larger ones.
    """
    console = console or Console(quiet=True)
    if problem.moments_bytes > whole:
        if forgotten is not None:
            raise InputError(f"--forget {forgotten.file}: moments in tiles forget nothing; use fewer --features")
        if files is not None and files.used:
            raise InputError(
                f"the moments of {problem.n_features:,} features are in tiles on the executors: leave out the "
                "moments files, or use fewer --features"
            )
        return fit_in_tiles(training_blocks(context, problem, partitions), problem, console)
    blocks, (moments, products, skipped) = sum_moments(context, problem, partitions, console, files, forgotten)
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
    if forgotten is not None:
        details["forgotten"] = len(forgotten.names)
    return Fit(model, problem.n_fitted(everything), n_scored, correct, moments, products, skipped, details)


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ridge_parser(
        "Fit a one-vs-all ridge classifier over a grid of λ, from moments reduced over the images."
    )
    partitions_flag(flags)
    moments_flags(flags)
    forget_flag(flags)
    drop_class_flag(flags)
    flags.add_argument(
        "--whole",
        metavar="MIB",
        type=positive_integer,
        default=MAX_PACKED_BYTES >> 20,
        help="leave moments in tiles on the executors if they take more than this, or more than the default",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, fit, write the run folder."""
    arguments = parser().parse_arguments(argv)
    complete = not arguments.add_moments
    run = RidgeRun.open("gram", arguments, complete, most_moments=MOST_IN_TILES)
    run, dropped = DroppedClasses.open(run)
    run, forgotten = Forgotten.open(run)
    partitions, whole = arguments.partitions, min(arguments.whole << 20, MAX_PACKED_BYTES)
    files = MomentsFiles.open(run, dropped)
    with spark_context("gram", run.console) as context:
        fitted = fit(context, run.problem, partitions, run.console, files, forgotten, whole)
        tested = score_test_images(context, run, fitted.model, partitions)
        run.finish(engine(context), fitted, tested, **({} if dropped is None else dropped.details()))
    return 0


if __name__ == "__main__":
    run_spark_job(main)
