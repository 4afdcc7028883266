"""Pages and figures of a run folder. A page is self-contained: one HTML file with all its images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader

from common.arrays import Pixels
from common.atomic import READABLE, write_atomically
from common.data.thumbnails import scaled_down
from common.evaluate.evaluation import Mistake
from common.report import plots

LARGEST_SIDE = 128
"""The largest side of the picture of a mistake, in pixels."""

PICTURED = (1, 3)
"""Numbers of channels of grey images and of colour."""

MOST_CLASSES = 30
"""The largest number of classes that a matrix or a row of images can show legibly."""

MOST_BARS = 60
"""Classes that fit into a readable bar chart."""


def render(template: str, **values: Any) -> bytes:
    """Render a template of common/report/templates as bytes; values are escaped, for they come from users."""
    return _environment().get_template(template).render(values).encode(*READABLE)


@cache
def _environment() -> Environment:
    """Return the environment that compiles templates, and caches them."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    return environment


def _source(name: str) -> str:
    # resources and not paths, because the project may run from a zip
    return resources.files("common.report").joinpath("templates", name).read_text("utf-8")


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def write_figures(folder: Path, figures: dict[str, bytes]) -> dict[str, bytes]:
    """Write figures into a run folder, and return them under their names without suffix, as templates use them."""
    (folder / "figures").mkdir(exist_ok=True)
    for name, image in figures.items():
        with write_atomically(folder / "figures" / name) as file:
            file.write(image)
    return {name.partition(".")[0]: image for name, image in figures.items()}


def write_page(folder: Path, page: bytes) -> None:
    """Write report.html."""
    with write_atomically(folder / "report.html") as file:
        file.write(page)


def picture(pixels: Pixels) -> bytes | None:
    """Return an image, uint8 (h, w, channels), as a small PNG; None for stored features, which are no picture."""
    return plots.png(scaled_down(pixels, LARGEST_SIDE)) if pixels.shape[2] in PICTURED else None


def shown_mistake(mistake: Mistake, class_names: Sequence[str]) -> dict[str, Any]:
    """Return a mistake as templates show it."""
    return {
        "image": picture(mistake.pixels),
        "name": mistake.name,
        "truth": class_names[mistake.truth],
        "predicted": class_names[mistake.predicted],
        "margin": mistake.margin,
    }
