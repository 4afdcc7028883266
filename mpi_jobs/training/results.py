"""What a training run leaves in its folder besides checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from common.atomic import write_json, written_into
from common.console import Console
from common.data.catalogue import Skipped, write_skipped
from common.nets.checkpoints import Progress
from common.provenance import command, versions
from common.report.training import write_training_report
from mpi_jobs.engine.world import counted_ranks, library
from mpi_jobs.training.flags import recipe
from mpi_jobs.training.opening import Facts
from mpi_jobs.training.trainer import Score


class Results(NamedTuple):
    """What was learnt, and how.

    Attributes:
        progress: of the run.
        tested: the best epoch's network, on the test images.
        skipped: images that could not be used.
        ranks: a record of each.
        machinery: what else metrics.json should say of how it was computed.
    """

    progress: Progress
    tested: Score
    skipped: list[Skipped]
    ranks: list[dict[str, Any]]
    machinery: dict[str, Any]


def write_results(
    folder: Path, arguments: argparse.Namespace, facts: Facts, results: Results, console: Console
) -> None:
    """Write metrics.json, the report and its figures, and say where they are.

    Raises:
        InputError: the folder cannot be written.
    """
    progress, tested, skipped, ranks, machinery = results
    confusion = tested.evaluation.confusion
    by_class = confusion.by_class()
    best = progress.history[progress.best]
    engine = f"{library()}, {counted_ranks(len(ranks))}"
    record: dict[str, Any] = {
        "job": "train_cnn",
        "engine": engine,
        "command": f"mpiexec -n {len(ranks)} {command()}",
        "data": arguments.data,
        "images": {
            "train": facts.n_train, "validation": facts.n_validation, "test": confusion.n, "skipped": len(skipped),
        },
        "shape": list(facts.reader.shape),
        "preprocessing": str(facts.preprocessing),
        "classes": list(facts.classes.names),
        "network": facts.spec.name,
        "optimiser": arguments.optimiser,
        "recipe": recipe(arguments),
        "epochs": progress.history,
        "best_epoch": progress.best + 1,
        "validation_accuracy": best["validation_accuracy"],
        "test_loss": tested.loss,
        "test_accuracy": confusion.accuracy(),
        "test_top5": tested.evaluation.near / confusion.n,
        "macro_f1": by_class.macro_f1(),
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
    }  # fmt: skip
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
    console.say(
        f"train_cnn on {engine}: {facts.n_train:,} training and {confusion.n:,} test images from {arguments.data}"
    )
    console.say(
        f"best epoch {progress.best + 1}: {best['validation_accuracy']:.4f} of validation, "
        f"{confusion.accuracy():.4f} of test images correct, macro F1 {by_class.macro_f1():.4f}"
    )
    print(f"report: {folder / 'report.html'}")
