"""The files that a training run leaves in its folder besides checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from common.atomic import write_json, written_into
from common.console import Console
from common.data.catalogue import Skipped, write_skipped
from common.nets.checkpoints import Progress
from common.provenance import command, versions
from common.run.announcement import announce
from mpi_jobs.engine.world import counted_ranks, library
from mpi_jobs.training.flags import recipe
from mpi_jobs.training.plan import TrainingPlan
from mpi_jobs.training.scoring import Score


class TrainingResults(NamedTuple):
    """The outcome of a training run.

    Attributes:
        progress: the progress of the run, with one record per epoch.
        tested: the score of the best epoch's network on the test images.
        skipped: images that could not be used.
        ranks: one record per rank.
        machinery: further entries of metrics.json, about how it was computed.
    """

    progress: Progress
    tested: Score
    skipped: list[Skipped]
    ranks: list[dict[str, Any]]
    machinery: dict[str, Any]


def write_results(
    folder: Path, arguments: argparse.Namespace, plan: TrainingPlan, results: TrainingResults, console: Console
) -> None:
    """Write metrics.json, the report and its figures, and print where they are.

    Raises:
        RunError: the folder cannot be written.
    """
    from common.report.training import write_training_report  # matplotlib: only rank 0 loads it

    skipped, tested = results.skipped, results.tested
    record = _record(arguments, plan, results)
    with written_into(folder):
        with console.phase("report"):
            if skipped:
                write_skipped(folder / "skipped.csv", skipped)
            record["seconds"] = console.seconds | {"total": console.total_seconds()}
            write_training_report(folder, record, tested.evaluation, skipped)
        record["seconds"] = console.seconds | {"total": console.total_seconds()}
        write_json(folder / "metrics.json", record)
    if skipped:
        console.warn(f"{len(skipped)} images were skipped; {folder / 'skipped.csv'} lists them")
    n_test = tested.evaluation.confusion.n
    console.say(
        f"train_cnn on {record['engine']}: {record['images']['train']:,} training and {n_test:,} test images "
        f"from {arguments.data}"
    )
    if not record["best_epoch"]:
        console.warn(
            "no epoch was better on validation images than the start, which is kept: try a lower --lr, "
            "--freeze 1 --backbone-lr 0.3, or more --epochs"
        )
    console.say(
        f"best epoch {record['best_epoch']}: {record['validation_accuracy']:.4f} of validation, "
        f"{record['test_accuracy']:.4f} of test images correct, macro F1 {record['macro_f1']:.4f}"
    )
    announce(folder / "report.html", arguments, console)


def _record(arguments: argparse.Namespace, plan: TrainingPlan, results: TrainingResults) -> dict[str, Any]:
    """Return the contents of metrics.json, without the seconds."""
    progress, tested, skipped, ranks, machinery = results
    confusion = tested.evaluation.confusion
    n_skipped = len(skipped) - len(progress.skipped) - (plan.n_test - confusion.n)  # of the validation images
    by_class = confusion.by_class()
    return {
        "job": "train_cnn",
        "engine": f"{library()}, {counted_ranks(len(ranks))}",
        "command": f"mpiexec -n {len(ranks)} {command()}",
        "data": arguments.data,
        "images": {
            "train": plan.n_train - len(progress.skipped),
            "validation": plan.n_validation - n_skipped,
            "test": confusion.n,
            "skipped": len(skipped),
            **({} if plan.n_quarantined is None else {"quarantined": plan.n_quarantined}),
            "ignored": plan.n_ignored,
        },
        "shape": list(plan.reader.shape),
        "preprocessing": str(plan.preprocessing),
        "classes": list(plan.classes.names),
        "network": plan.spec.name,
        "optimiser": arguments.optimiser,
        "recipe": recipe(arguments),
        **({"ridge_head": progress.ridge_head} if progress.ridge_head else {}),
        "epochs": progress.history,
        "best_epoch": progress.best,
        "validation_accuracy": progress.best_accuracy,
        "test_loss": tested.loss,
        "test_accuracy": confusion.accuracy(),
        "test_top5": tested.evaluation.near / confusion.n,
        "macro_f1": by_class.macro_f1(),
        "confusion": confusion.described(),
        "per_class": {
            "precision": by_class.precision.tolist(),
            "recall": by_class.recall.tolist(),
            "test_images": by_class.true.tolist(),
        },
        "workers": len(ranks),
        "ranks": ranks,
        "seed": arguments.seed,
        "versions": versions(),
        **machinery,
    }
