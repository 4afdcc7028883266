"""report.html of a training run: one self-contained page that tells a colleague how training went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.data.catalogue import MOST_SKIPPED, Skipped
from common.evaluate.evaluation import Evaluation
from common.report import plots
from common.report.pages import MOST_CLASSES, render, shown_mistake, write_figures, write_page


def write_training_report(
    folder: Path, record: dict[str, Any], tested: Evaluation, skipped: list[Skipped]
) -> None:
    """Write report.html and its figures into `folder`.

    Args:
        folder: the run folder.
        record: the contents of metrics.json.
        tested: the evaluation of the network on the test images.
        skipped: images that could not be used.
    """
    names = record["classes"]
    shown = tested.confusion.most_confused(MOST_CLASSES)
    figures = write_figures(
        folder,
        {
            "history.svg": plots.training_history(record["epochs"], record["best_epoch"]),
            "confusion.svg": plots.confusion(tested.confusion.matrix(shown), [names[c] for c in shown]),
        },
    )
    page = render(
        "training.html.j2",
        record=record,
        figures=figures,
        shown=shown,
        rate=max(epoch["images_per_second"] for epoch in record["epochs"]),
        mistakes=[shown_mistake(mistake, names) for mistake in tested.mistakes],
        n_mistakes=tested.confusion.n - tested.confusion.n_correct,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
        skipped=skipped[:MOST_SKIPPED],
    )
    write_page(folder, page)
