"""report.html of a ridge job: one self-contained page that tells a colleague what a run found.

To add a figure, write a function in plots.py that returns it as bytes, add it to `write_report`, and show it in
templates/ridge.html.j2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.arrays import Labels
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.evaluate.evaluation import Evaluation
from common.features.pixels import RawPixels
from common.report import plots
from common.report.features import filter_images, filters_of, in_words
from common.report.pages import MOST_CLASSES, render, shown_mistake, write_figures, write_page
from common.ridge.model import RidgeModel


def write_report(
    folder: Path,
    record: dict[str, Any],
    model: RidgeModel,
    tested: Evaluation,
    skipped: list[Skipped],
) -> None:
    """Write report.html and its figures into `folder`.

    Args:
        folder: the run folder.
        record: the entries of metrics.json.
        model: the fitted classifier.
        tested: its scores on the test images, compared with the truth.
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
    filters = filters_of(model.features)
    page = render(
        "ridge.html.j2",
        record=record,
        model=model,
        figures=figures,
        shown=shown,
        weights=_weight_images(model, shown),
        steps=in_words(model.features, model.shape),
        n_filters=len(filters),
        filters=[plots.png(image) for image in filter_images(filters)],
        mistakes=[shown_mistake(mistake, model.class_names) for mistake in tested.mistakes],
        n_mistakes=tested.confusion.n - tested.confusion.n_correct,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
        skipped=skipped[:MOST_SKIPPED],
    )
    write_page(folder, page)


def _weight_images(model: RidgeModel, shown: Labels) -> list[bytes]:
    """Draw the weights of classes as images, which makes sense for weights of pixels alone."""
    if not isinstance(model.features, RawPixels):
        return []
    return [plots.png(image) for image in plots.weight_images(model.weights[:, shown], model.shape)]
