"""metrics.json and report.html of predictions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from common import plots
from common.atomic import write_atomically
from common.console import Console
from common.experiment import Engine, command, versions
from common.pages import render
from common.prediction import Summary
from common.report import MOST_CLASSES
from common.ridge.model import RidgeModel
from common.runs import write_json
from common.table.report import MOST_BARS


def write_report(
    folder: Path,
    summary: Summary,
    model: RidgeModel,
    arguments: argparse.Namespace,
    engine: Engine,
    console: Console,
) -> None:
    """Write both into `folder`.

    Args:
        folder: the run folder.
        summary: of the predictions in it.
        model: what predicted.
        arguments: the job's flags.
        engine: what it ran on.
        console: knows how long each phase took.
    """
    confusion = summary.confusion
    record: dict[str, Any] = {
        "job": "predict",
        "engine": engine.name,
        "command": command(),
        "model": str(arguments.model),
        "data": arguments.data,
        "images": {
            "predicted": int(summary.predicted.sum()),
            "unusable": summary.n_unusable,
            "labelled": confusion.n,
        },
        "classes": list(model.class_names),
        "predicted": summary.predicted.tolist(),
        "accuracy": confusion.accuracy() if confusion.n else None,
        "macro_f1": confusion.by_class().macro_f1() if confusion.n else None,
        "images_per_second": summary.n / max(console.seconds["predict"], 1e-9),
        "seconds": console.seconds | {"total": console.total_seconds()},
        "workers": engine.workers,
        "threads": engine.threads,
        "versions": versions(),
    }
    order = np.arange(len(summary.predicted))
    if len(order) > MOST_BARS:
        order = np.argsort(-summary.predicted, kind="stable")[:MOST_BARS]
    shown = confusion.most_confused(MOST_CLASSES)
    page = render(
        "predict.html.j2",
        record=record,
        n=summary.n,
        shape=model.shape,
        classes=[(model.class_names[c], int(summary.predicted[c])) for c in order],
        confusion=plots.confusion(confusion.matrix(shown), [model.class_names[c] for c in shown])
        if confusion.n
        else None,
        unsure=[
            {
                "image": plots.png(image.pixels),
                "name": f"{image.name}, ahead by {image.margin:.2g}",
                "caption": model.class_names[image.predicted],
            }
            for image in summary.unsure
        ],
        unusable=summary.unusable,
        seconds=console.seconds,
    )
    with write_atomically(folder / "report.html") as file:
        file.write(page)
    write_json(folder / "metrics.json", record)
