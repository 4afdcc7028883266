"""The ridge classifier with each λ's own work dealt out: the pseudo-inverse as an RDD of row blocks.

For every λ on the driver, the executors compute rows of (XᵀX + λI)⁻¹ from one broadcast eigendecomposition and
multiply them by XᵀY, for all classes at once; then the images, an RDD of blocks, are scored where they are.
The explicit inverse is this job's subject. To be fast, use gram.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pyspark import Broadcast, SparkContext

from common.data.splits import shard
from common.ridge.moments import Moments, fingerprint, total, training_moments
from common.ridge.path import RidgePath, Spectrum, penalty_weight, with_intercepts
from common.run.flags import ridge_parser
from common.run.ridge import Experiment
from spark_jobs.engine.blocks import count_correct
from spark_jobs.engine.passes import read_and_reduce, score_test_images
from spark_jobs.engine.session import engine, partitions_flag, run_spark_job, spark_context


def fit_by_rows(
    context: SparkContext, moments: Moments, spectrum: Broadcast[Spectrum], lambda_: float, penalty: str
) -> RidgePath:
    """Weights at one λ, the inverse's rows computed on the executors; a path of length one.

    Args:
        context: Spark.
        moments: of the training images.
        spectrum: of their centred Gram matrix.
        lambda_: finite and not negative.
        penalty: "sum" or "mean".
    """
    weight = penalty_weight(lambda_, penalty, moments.n)
    d, parts = len(moments.sum_x), min(len(moments.sum_x), context.defaultParallelism)
    rows = context.parallelize([shard(d, rank, parts) for rank in range(parts)], parts)
    inverse = rows.map(lambda own: spectrum.value.inverse_rows(weight, own))  # each (len(own), d)
    weights = inverse.map(lambda block: block @ spectrum.value.cross).collect()  # each (len(own), n_classes)
    return with_intercepts(moments, np.concatenate(weights)[None])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, read on the executors, invert and score λ by λ, write the run folder."""
    parser = ridge_parser(
        "Fit a one-vs-all ridge classifier over a grid of λ, each λ's inverse spread over Spark."
    )
    partitions_flag(parser)
    experiment = Experiment.open("inner", parser.parse_arguments(argv))
    phase = experiment.console.phase

    with spark_context("inner", experiment.console) as context:
        images, moments = read_and_reduce(context, experiment)
        training = training_moments(moments)
        with phase("spectrum"):
            spectra = {fold: context.broadcast(Spectrum.of(*own.centred())) for fold, own in training.items()}
        correct = np.zeros(len(experiment.lambdas), np.int64)
        with experiment.console.bar(len(experiment.lambdas), "λ") as advance:
            for i, lambda_ in enumerate(experiment.lambdas):
                with phase("inverse"):
                    paths = {
                        fold: fit_by_rows(context, own, spectra[fold], lambda_, experiment.penalty)
                        for fold, own in training.items()
                    }
                with phase("validation"):
                    n_scored, (correct[i],) = count_correct(images, paths)
                advance(1)
        for shared in spectra.values():
            shared.destroy()
        lambda_ = experiment.best(correct)
        with phase("refit"):
            everything = total(moments)
            spectrum = context.broadcast(Spectrum.of(*everything.centred()))
            fitted = fit_by_rows(context, everything, spectrum, lambda_, experiment.penalty)
            model = experiment.model(fitted, lambda_)
        tested = score_test_images(context, experiment, model)
        digest = fingerprint(moments)
        experiment.finish(engine(context), everything.n, n_scored, correct, model, tested, moments_sha256=digest)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
