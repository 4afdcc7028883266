"""The passes over the images that inner and gram share: sum the moments first, score the test images last."""

from __future__ import annotations

from pyspark import RDD, SparkContext

from common.console import Console
from common.data.images import Block
from common.ridge.fit import Problem
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments
from common.run.ridge import RidgeRun, Tested
from spark_jobs.engine.blocks import Summed, evaluate_blocks, image_blocks, reduce_moments
from spark_jobs.engine.forgetting import Forgotten
from spark_jobs.engine.moments_files import MomentsFiles


def training_blocks(
    context: SparkContext, problem: Problem, partitions: int | None, record: int = 0
) -> RDD[Block]:
    """Return the training and validation images of a problem; see image_blocks for the arguments."""
    keep = problem.features if problem.keeps(context.defaultParallelism) else None
    return image_blocks(context, problem.images, partitions, problem.names_wanted, record, keep)


def sum_moments(
    context: SparkContext,
    problem: Problem,
    partitions: int | None,
    console: Console,
    files: MomentsFiles | None = None,
    forgotten: Forgotten | None = None,
) -> tuple[RDD[Block], Summed]:
    """Read the images on the executors and reduce the moments of every fold.

    Args:
        context: the Spark context.
        problem: whose images.
        partitions: the number of partitions; None for a good number.
        console: progress and clock.
        files: moments of images that need not be summed again.
        forgotten: images that are not among those of the problem, and count no more if files have them.

    Returns:
        training and validation images, and their moments.

    Raises:
        InputError: too many images were skipped, or the moments in files do not fit.
    """
    record = problem.moments_bytes
    blocks = training_blocks(context, problem, partitions, record)
    every = problem.images if forgotten is None else forgotten.every
    names = frozenset() if forgotten is None else forgotten.names
    before = frozenset() if files is None else files.forgotten_before(every.identities, names)
    new, to_sum = problem.images, blocks
    known = files is not None and bool(files.identities & every.identities)
    if files is not None and known:
        # with images to forget: they are subtracted below, whether they were read or are in a file
        new = every.without(files.identities)
        to_sum = image_blocks(context, new, partitions, record=record)
    with console.phase("moments"):
        gone: FoldMoments = {}
        if forgotten is not None:
            forgotten.check_names(before)
            gone = forgotten.sum(context, problem, partitions, before) if known else {}
        summed = reduce_moments(to_sum, problem) if len(new) else Summed({}, frozenset(), [])
        problem.check_skipped(summed.skipped)
        if files is not None:
            of_dropped = files.sum_dropped(context, problem, partitions, before)
            joined = files.join(summed.moments, problem, forgotten, gone, of_dropped)
            summed = summed._replace(moments=joined)
        problem.check_folds(summed.moments)
    return blocks, summed


def score_test_images(
    context: SparkContext, run: RidgeRun, model: RidgeModel, partitions: int | None = None
) -> Tested:
    """Score the test images of a run on the executors.

    Raises:
        InputError: too many images were skipped.
    """
    with run.console.phase("test"):
        blocks = image_blocks(context, run.test, partitions, names=True, once=True)
        evaluation, skipped = evaluate_blocks(blocks, run.problem.scoring(model))
        run.check_test(skipped)
    return Tested(evaluation, skipped)
