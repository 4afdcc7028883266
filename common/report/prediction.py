"""metrics.json and report.html of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from common.atomic import write_json
from common.predict.predictions import Summary
from common.provenance import command, versions
from common.report import plots
from common.report.pages import MOST_BARS, MOST_CLASSES, picture, render, write_page


def write_report(
    folder: Path,
    summary: Summary,
    class_names: Sequence[str],
    described: Mapping[str, Any],
    layout: bytes | None = None,
    ignored: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Write metrics.json and report.html into a run folder.

    Args:
        folder: the run folder.
        summary: a summary of the predictions in it.
        class_names: the names of the model's classes.
        described: the job's entries of metrics.json: job, engine, model, data, shape, images_per_second, seconds,
            workers, and any others.
        layout: a picture of the ranks and their roles; SVG.
        ignored: the number of files beside the images that are none, by kind.
    """
    record = _record(summary, class_names, ignored) | dict(described)
    write_page(folder, _page(summary, class_names, record, layout))
    write_json(folder / "metrics.json", record)


def _record(summary: Summary, class_names: Sequence[str], ignored: Mapping[str, int]) -> dict[str, Any]:
    """Return the entries of metrics.json that follow from the predictions."""
    confusion = summary.confusion
    return {
        "command": command(),
        "images": {
            "predicted": int(summary.predicted.sum()),
            "unusable": summary.n_skipped,
            "labelled": confusion.n,
            "ignored": sum(ignored.values()),
        },
        "classes": list(class_names),
        "predicted": summary.predicted.tolist(),
        "accuracy": confusion.accuracy() if confusion.n else None,
        "macro_f1": confusion.by_class().macro_f1() if confusion.n else None,
        "confusion": confusion.described() if confusion.n else None,
        "versions": versions(),
    }


def _page(summary: Summary, class_names: Sequence[str], record: Mapping[str, Any], layout: bytes | None) -> bytes:
    order = np.arange(len(summary.predicted))
    if len(order) > MOST_BARS:
        order = np.argsort(-summary.predicted, kind="stable")[:MOST_BARS]
    confusion = None
    if summary.confusion.n:
        shown = summary.confusion.most_confused(MOST_CLASSES)
        confusion = plots.confusion(summary.confusion.matrix(shown), [class_names[c] for c in shown])
    unsure = [
        {
            "image": picture(image.pixels),
            "name": f"{image.name}, ahead by {image.margin:.2g}",
            "caption": class_names[image.predicted],
        }
        for image in summary.unsure
    ]
    return render(
        "predict.html.j2",
        record=record,
        n=summary.n,
        classes=[(class_names[c], int(summary.predicted[c])) for c in order.tolist()],
        confusion=confusion,
        layout=layout,
        unsure=unsure,
        unusable=summary.skipped,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
    )
