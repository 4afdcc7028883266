"""The ridge classifier without any engine: one process and its BLAS threads.

What speed-ups are quoted against, and the algorithm in its plainest form.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from common.blas import blas_threads, limit_blas
from common.data.splits import ALWAYS_TRAINING
from common.provenance import Engine
from common.ridge.moments import fingerprint, moments_by_fold, total, training_moments
from common.ridge.path import ridge_fit, ridge_path
from common.ridge.scoring import evaluate
from common.run.exits import run_job
from common.run.flags import positive_integer, ridge_parser
from common.run.ridge import Experiment


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ in one process.")
    parser.add_argument(
        "--threads", metavar="T", type=positive_integer, help="BLAS threads (default: as many as BLAS likes)"
    )
    return parser.parse_arguments(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, fit, write the run folder."""
    arguments = parse(argv)
    experiment = Experiment.open("serial", arguments)
    if arguments.threads is not None:
        limit_blas(arguments.threads)
    phase, n_classes = experiment.console.phase, experiment.n_classes

    with phase("read"):
        train = experiment.load(experiment.train)
        test = experiment.load(experiment.test, names=True)
    with phase("moments"):
        moments = moments_by_fold(train.pixels, train.labels, train.folds, n_classes)
    correct = np.zeros(len(experiment.lambdas), np.int64)
    experiment.check_folds(moments)
    training = training_moments(moments)
    with experiment.console.bar(len(training), "fold") as advance:
        for fold, own in training.items():
            with phase("path"):
                path = ridge_path(own, experiment.lambdas, experiment.penalty)
            with phase("validation"):
                held_out = np.flatnonzero(train.folds == fold)
                correct += path.count_correct(train.pixels[held_out], train.labels[held_out])
            advance(1)
    lambda_ = experiment.best(correct)
    with phase("refit"):
        model = experiment.model(ridge_fit(total(moments), lambda_, experiment.penalty), lambda_)
    with phase("test"):
        tested = evaluate(model, test)
    n_scored = int((train.folds != ALWAYS_TRAINING).sum())
    engine = Engine("one process", 1, blas_threads())
    digest = fingerprint(moments)
    experiment.finish(engine, len(train.labels), n_scored, correct, model, tested, moments_sha256=digest)
    return 0


if __name__ == "__main__":
    run_job(main)
