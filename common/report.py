"""report.html: one self-contained page that tells a colleague what a run found."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from common import plots
from common.atomic import READABLE, write_atomically
from common.catalogue import Catalogue, Skipped
from common.evaluation import Evaluation, worst_mistakes
from common.imageset import Labels
from common.metrics import confusion_matrix
from common.ridge.model import RidgeModel

MOST_CLASSES = 30
"""Classes that a matrix or a row of images can show and still be read."""
MOST_MISTAKES = 24
MOST_SKIPPED = 50


def write_report(
    folder: Path,
    record: dict[str, Any],
    model: RidgeModel,
    test: Catalogue,
    tested: Evaluation,
    skipped: list[Skipped],
) -> None:
    """Write report.html and the figures it holds into `folder`.

    Args:
        folder: the run folder.
        record: what metrics.json will say.
        model: the fitted classifier.
        test: the test images, of which only those that are shown are read.
        tested: the model's scores on them.
        skipped: images that could not be used.
    """
    shown = _classes_to_show(tested, len(model.class_names))
    matrix = confusion_matrix(*_among(shown, tested), len(shown))
    figures = {
        "accuracy_over_lambda.svg": plots.accuracy_over_lambda(
            record["lambdas"], record["validation_accuracy"], record["best_lambda"], record["test_accuracy"]
        ),
        "confusion.svg": plots.confusion(matrix, [model.class_names[c] for c in shown]),
    }
    (folder / "figures").mkdir()
    for name, image in figures.items():
        with write_atomically(folder / "figures" / name) as file:
            file.write(image)

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_uri"] = _data_uri
    template = environment.from_string(resources.files("common").joinpath("report.html.j2").read_text("utf-8"))
    page = template.render(
        record=record,
        model=model,
        figures={name.partition(".")[0]: image for name, image in figures.items()},
        shown=shown,
        weights=[plots.png(image) for image in plots.weight_images(model.weights[:, shown], model.shape)],
        mistakes=_mistakes(model, test, tested),
        n_mistakes=int((tested.predicted != tested.truth).sum()),
        seconds={name: value for name, value in record["seconds"].items() if name != "total"},
        skipped=skipped[:MOST_SKIPPED],
    )
    with write_atomically(folder / "report.html") as file:
        file.write(page.encode(*READABLE))


def _classes_to_show(tested: Evaluation, n_classes: int) -> Labels:
    """All classes, or where there are too many, those most often confused, int64 (at most MOST_CLASSES,)."""
    if n_classes <= MOST_CLASSES:
        return np.arange(n_classes)
    wrong = tested.predicted != tested.truth
    mistaken = np.bincount(tested.truth[wrong], minlength=n_classes)
    mistaken += np.bincount(tested.predicted[wrong], minlength=n_classes)
    return np.sort(np.argsort(-mistaken, kind="stable")[:MOST_CLASSES])


def _among(shown: Labels, tested: Evaluation) -> tuple[Labels, Labels]:
    """Predicted and true positions within `shown` of the images whose both classes are shown."""
    both = np.isin(tested.predicted, shown) & np.isin(tested.truth, shown)
    return np.searchsorted(shown, tested.predicted[both]), np.searchsorted(shown, tested.truth[both])


def _mistakes(model: RidgeModel, test: Catalogue, tested: Evaluation) -> list[dict[str, Any]]:
    rows = worst_mistakes(tested, MOST_MISTAKES)
    images = test.take(tested.positions[rows])
    pixels = images.reader.read(images.items).pixels
    if len(pixels) < len(rows):  # a file vanished since it was scored
        return []
    return [
        {
            "image": plots.png(image),
            "name": images.name(i),
            "truth": model.class_names[tested.truth[row]],
            "predicted": model.class_names[tested.predicted[row]],
            "margin": float(tested.margin[row]),
        }
        for i, (row, image) in enumerate(zip(rows, pixels, strict=True))
    ]


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
