"""What inner and gram have in common: the first and the last stage, where the executors read the images."""

from __future__ import annotations

from pyspark import RDD, SparkContext

from common.data.images import Block
from common.evaluate.evaluation import Evaluation
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments
from common.run.ridge import Experiment
from spark_jobs.engine.blocks import evaluate_blocks, image_blocks, reduce_moments
from spark_jobs.engine.moments_flags import Known


def read_and_reduce(
    context: SparkContext, experiment: Experiment, known: Known | None = None
) -> tuple[RDD[Block], FoldMoments]:
    """Training and validation images as an RDD of blocks, and the moments of every fold.

    Args:
        context: Spark.
        experiment: whose images.
        known: moments of images that need not be summed again.

    Raises:
        InputError: too many images are unusable, or the known moments do not fit.
    """
    partitions, record = experiment.arguments.partitions, experiment.moments_bytes
    images = image_blocks(context, experiment.train, partitions, record=record)
    new, summed = experiment.train, images
    if known is not None and known.identities & new.identities:
        new = new.without(known.identities)
        summed = image_blocks(context, new, partitions, record=record)
    with experiment.console.phase("moments"):
        moments, skipped = reduce_moments(summed, experiment.n_classes, record) if len(new) else ({}, [])
        experiment.note_skipped(skipped, experiment.train)
        if known is not None:
            moments = known.joined(moments, experiment)
        experiment.check_folds(moments)
    return images, moments


def score_test_images(context: SparkContext, experiment: Experiment, model: RidgeModel) -> Evaluation:
    """Score the test images on the executors.

    Raises:
        InputError: too many images are unusable.
    """
    with experiment.console.phase("test"):
        images = image_blocks(context, experiment.test, experiment.arguments.partitions, names=True)
        tested, skipped = evaluate_blocks(images, model)
        experiment.note_skipped(skipped, experiment.test)
    return tested
