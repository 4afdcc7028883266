"""What inner and gram have in common: the first and the last stage, where the executors read the images."""

from __future__ import annotations

from pyspark import RDD, SparkContext

from common.evaluation import Evaluation
from common.experiment import Experiment
from common.images import Block
from common.ridge.model import RidgeModel
from common.ridge.moments import FoldMoments
from spark_jobs.blocks import evaluate_blocks, image_blocks, reduce_moments


def read_and_reduce(context: SparkContext, experiment: Experiment) -> tuple[RDD[Block], FoldMoments]:
    """Training and validation images as an RDD of blocks, and the moments of every fold.

    Raises:
        InputError: too many images are unusable.
    """
    images = image_blocks(context, experiment.train, experiment.arguments.partitions)
    with experiment.console.phase("moments"):
        moments, skipped = reduce_moments(images, experiment.n_classes)
        experiment.note_skipped(skipped, experiment.train)
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
