"""metrics.json and report.html of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_json
from common.predict.predictions import Summary
from common.provenance import command, versions
from common.report import plots
from common.report.pages import render
from common.report.ridge import MOST_CLASSES, THUMBNAIL_SIDE, write_page
from common.report.table import MOST_BARS


def write_report(
    folder: Path,
    summary: Summary,
    class_names: Sequence[str],
    described: Mapping[str, Any],
    layout: bytes | None = None,
) -> None:
    """Write both into `folder`.

    Args:
        folder: the run folder.
        summary: of the predictions in it.
        class_names: of the model.
        described: what else metrics.json says: job, engine, model, data, shape, images_per_second, seconds,
            workers, and whatever the job has to say besides.
        layout: a picture of who did what; SVG.
    """
    confusion = summary.confusion
    record: dict[str, Any] = {
        "command": command(),
        "images": {
            "predicted": int(summary.predicted.sum()),
            "unusable": summary.n_unusable,
            "labelled": confusion.n,
        },
        "classes": list(class_names),
        "predicted": summary.predicted.tolist(),
        "accuracy": confusion.accuracy() if confusion.n else None,
        "macro_f1": confusion.by_class().macro_f1() if confusion.n else None,
        "versions": versions(),
        **described,
    }
    order = np.arange(len(summary.predicted))
    if len(order) > MOST_BARS:
        order = np.argsort(-summary.predicted, kind="stable")[:MOST_BARS]
    shown = confusion.most_confused(MOST_CLASSES)
    page = render(
        "predict.html.j2",
        record=record,
        n=summary.n,
        classes=[(class_names[c], int(summary.predicted[c])) for c in order.tolist()],
        confusion=plots.confusion(confusion.matrix(shown), [class_names[c] for c in shown])
        if confusion.n
        else None,
        layout=layout,
        unsure=[
            {
                "image": plots.png(plots.thumbnail(image.pixels, THUMBNAIL_SIDE)),
                "name": f"{image.name}, ahead by {image.margin:.2g}",
                "caption": class_names[image.predicted],
            }
            for image in summary.unsure
        ],
        unusable=summary.unusable,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
    )
    write_page(folder, page)
    write_json(folder / "metrics.json", record)
