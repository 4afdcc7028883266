"""report.html of a ridge job: one self-contained page that tells a colleague what a run found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_atomically
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.evaluate.evaluation import Evaluation, Mistake
from common.report import plots
from common.report.pages import render
from common.ridge.model import RidgeModel

THUMBNAIL_SIDE = 128
"""Pixels of a mistake's picture, at most."""

MOST_CLASSES = 30
"""Classes that a matrix or a row of images can show and still be read."""


def write_report(
    folder: Path,
    record: dict[str, Any],
    model: RidgeModel,
    tested: Evaluation,
    skipped: list[Skipped],
) -> None:
    """Write report.html and the figures it holds into `folder`.

    Args:
        folder: the run folder.
        record: what metrics.json will say.
        model: the fitted classifier.
        tested: its scores on the test images.
        skipped: images that could not be used.
    """
    shown = tested.confusion.most_confused(MOST_CLASSES)
    figures = write_figures(
        folder,
        {
            "accuracy_over_lambda.svg": plots.accuracy_over_lambda(
                record["lambdas"], record["validation_accuracy"], record["best_lambda"], record["test_accuracy"]
            ),
            "confusion.svg": plots.confusion(
                tested.confusion.matrix(shown), [model.class_names[c] for c in shown]
            ),
        },
    )
    page = render(
        "ridge.html.j2",
        record=record,
        model=model,
        figures=figures,
        shown=shown,
        weights=[plots.png(image) for image in plots.weight_images(model.weights[:, shown], model.shape)],
        mistakes=[shown_mistake(mistake, model.class_names) for mistake in tested.mistakes],
        n_mistakes=tested.confusion.n - tested.confusion.n_correct,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
        skipped=skipped[:MOST_SKIPPED],
    )
    write_page(folder, page)


def write_figures(folder: Path, figures: dict[str, bytes]) -> dict[str, bytes]:
    """Write figures below a run folder; they come back under names that pages know them by."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, image in figures.items():
        with write_atomically(folder / "figures" / name) as file:
            file.write(image)
    return {name.partition(".")[0]: image for name, image in figures.items()}


def write_page(folder: Path, page: bytes) -> None:
    """Write report.html."""
    with write_atomically(folder / "report.html") as file:
        file.write(page)


def shown_mistake(mistake: Mistake, class_names: Sequence[str]) -> dict[str, Any]:
    """A mistake as pages show it; photographs, which are larger than a page has room for, scaled down."""
    return {
        "image": plots.png(plots.thumbnail(mistake.pixels, THUMBNAIL_SIDE)),
        "name": mistake.name,
        "truth": class_names[mistake.truth],
        "predicted": class_names[mistake.predicted],
        "margin": mistake.margin,
    }
