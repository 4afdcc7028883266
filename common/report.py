"""report.html of a ridge job: one self-contained page that tells a colleague what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import plots
from common.atomic import write_atomically
from common.catalogue import Skipped
from common.evaluation import Evaluation, Mistake
from common.pages import MOST_SKIPPED, render
from common.ridge.model import RidgeModel

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
    figures = {
        "accuracy_over_lambda.svg": plots.accuracy_over_lambda(
            record["lambdas"], record["validation_accuracy"], record["best_lambda"], record["test_accuracy"]
        ),
        "confusion.svg": plots.confusion(tested.confusion.matrix(shown), [model.class_names[c] for c in shown]),
    }
    (folder / "figures").mkdir()
    for name, image in figures.items():
        with write_atomically(folder / "figures" / name) as file:
            file.write(image)

    page = render(
        "ridge.html.j2",
        record=record,
        model=model,
        figures={name.partition(".")[0]: image for name, image in figures.items()},
        shown=shown,
        weights=[plots.png(image) for image in plots.weight_images(model.weights[:, shown], model.shape)],
        mistakes=[_shown(mistake, model) for mistake in tested.mistakes],
        n_mistakes=tested.confusion.n - tested.confusion.n_correct,
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
        skipped=skipped[:MOST_SKIPPED],
    )
    with write_atomically(folder / "report.html") as file:
        file.write(page)


def _shown(mistake: Mistake, model: RidgeModel) -> dict[str, Any]:
    return {
        "image": plots.png(mistake.pixels),
        "name": mistake.name,
        "truth": model.class_names[mistake.truth],
        "predicted": model.class_names[mistake.predicted],
        "margin": mistake.margin,
    }
