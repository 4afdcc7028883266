"""The ridge classifier with the images dealt out: exact moments of blocks, tree-reduced.

The executors read the images, keep them, and send back sums. Whatever the number of images, the driver holds
names, labels and a few d×d matrices; whatever the partitioning, those matrices are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InputError
from common.ridge.moments import fingerprint, total, training_moments
from common.ridge.path import ridge_fit, ridge_path
from common.run.flags import ridge_parser
from common.run.ridge import Experiment
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.moments_flags import Known, moments_flags
from spark_jobs.engine.passes import read_and_reduce, score_test_images
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read on the executors, reduce, fit, write the run folder."""
    parser = ridge_parser(
        "Fit a one-vs-all ridge classifier over a grid of λ, from moments reduced over the images."
    )
    partitions_flag(parser)
    moments_flags(parser)
    experiment = Experiment.open("gram", parser.parse_arguments(argv))
    known = Known.open(experiment)
    phase = experiment.console.phase

    with spark_context("gram", experiment.console) as context:
        images, moments = read_and_reduce(context, experiment, known)
        with phase("path"):
            paths = {
                fold: ridge_path(training, experiment.lambdas, experiment.penalty)
                for fold, training in training_moments(moments).items()
            }
        with phase("validation"):
            n_scored, correct = count_correct(images, paths)
        if not n_scored and len(experiment.lambdas) > 1:
            raise InputError("no image that --data holds validates; give one λ, or more images")
        lambda_ = experiment.best(correct)
        everything = total(moments)
        with phase("refit"):
            model = experiment.model(ridge_fit(everything, lambda_, experiment.penalty), lambda_)
        tested = score_test_images(context, experiment, model)
        digest = fingerprint(moments)
        experiment.finish(engine(context), everything.n, n_scored, correct, model, tested, moments_sha256=digest)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
