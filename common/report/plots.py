"""The figures of reports, one function each: SVG for curves and matrices, PNG for images made of pixels.

Figures are functions of plain data: numbers, names and arrays. They know nothing of models, jobs or run folders.

To add a figure:

1. Write a function here that draws within `matplotlib.rc_context(STYLE)` and returns `_svg(figure)`.
2. Call it in the module of the report, such as report/ridge.py, and pass the bytes to `render`. `write_figures`
   also saves them in the run folder.
3. Show it in the report's template: `<img class="figure" alt="…" src="{{ figure|data_uri }}">`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from common.arrays import Floats, Labels, Pixels

INK, ACCENT, MUTED, MARK = "#1f2933", "#0b6e99", "#9aa5b1", "#c0392b"

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: the reader's fonts have letters that matplotlib's font lacks
    "svg.hashsalt": "parallel-image-classification",  # the same figure gives the same bytes
}

MOST_LETTERS = 18
"""Letters of a class name that fit beside a confusion matrix."""

WEIGHT_PERCENTILE = 99.5
"""Percentile of a class's absolute weights at which its colours saturate."""

HALF_WIDTH, HALF_HEIGHT = 0.34, 0.36
"""Half the size of a box in the figure of a pipeline, whose columns and rows are 1 apart."""

Arrow = tuple[str, str]
"""From one box of a pipeline to another, by their labels."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class PowersOfTen(LogFormatter):
    """Labels ticks as 10⁻³, or as plain numbers where the axis spans less than two powers of ten.

    matplotlib's own labels are formulas, whose parser would take a fifth of the time of a report.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of the tick at x."""
        if not super().__call__(x, pos):  # a tick between others, which would crowd
            return ""
        low, high = self.axis.get_view_interval() if self.axis else (0.0, np.inf)
        is_narrow = low > 0.001 and high < min(100 * low, 10_000)
        exponent = np.log10(x) if x > 0 else np.nan
        if is_narrow or not np.isclose(exponent, np.round(exponent), rtol=0, atol=1e-9):
            return f"{x:g}"
        return "10" + f"{exponent:.0f}".translate(SUPERSCRIPTS)


def accuracy_over_lambda(
    lambdas: Sequence[float], validation_accuracy: Sequence[float], best: float, test_accuracy: float
) -> bytes:
    """Draw validation accuracy over λ on a logarithmic axis, with the chosen λ marked; SVG."""
    order = np.argsort(lambdas)
    x, y = np.asarray(lambdas)[order], np.asarray(validation_accuracy)[order]
    chosen = y[int(np.flatnonzero(x == best)[0])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4))
        axes = figure.subplots()
        axes.plot(x, y, "o-", color=ACCENT, markersize=4, label="validation")
        axes.plot(
            [best],
            [chosen],
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=MARK,
            markeredgewidth=1.8,
            clip_on=False,
            label=f"chosen λ = {best:.3g}",
        )
        axes.axhline(test_accuracy, color=MUTED, linestyle="--", linewidth=1, label=f"test {test_accuracy:.4f}")
        positive = x[x > 0]
        if len(positive) > 1:
            if x[0] == 0:
                axes.set_xscale("symlog", linthresh=float(positive[0]))
                axes.set_xlim(left=-positive[0] / 4)
            else:
                axes.set_xscale("log")
            for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                set_formatter(PowersOfTen())
        axes.set_xlabel("λ")
        axes.set_ylabel("accuracy")
        axes.grid(axis="y", color=MUTED, alpha=0.3)
        axes.legend(frameon=False, loc="best")
        return _svg(figure)


def training_history(epochs: Sequence[Mapping[str, float]], best: int) -> bytes:
    """Draw loss and accuracy of training and validation images over epochs; SVG.

    Args:
        epochs: loss, accuracy, validation_loss and validation_accuracy of each epoch; an epoch may lack some.
        best: the epoch to mark, counted from 1.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.0))
        for axes, name in zip(figure.subplots(2, 1, sharex=True), ("loss", "accuracy"), strict=True):
            for key, colour, label in ((name, MUTED, "train"), (f"validation_{name}", ACCENT, "validation")):
                points = [(number, epoch[key]) for number, epoch in enumerate(epochs, start=1) if key in epoch]
                axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, label=label)
            axes.axvline(best, color=MARK, linestyle="--", linewidth=1, label=f"best epoch: {best}")
            axes.set_ylabel(name)
            axes.grid(axis="y", color=MUTED, alpha=0.3)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def confusion(matrix: Labels, class_names: Sequence[str]) -> bytes:
    """Draw a confusion matrix (c, c), rows true and columns predicted, coloured by the share of the row; SVG."""
    n = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in class_names]
    with matplotlib.rc_context(STYLE):
        side = 2.2 + 0.4 * n
        figure = Figure(figsize=(side, side))
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(matrix > 0):
            ink = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=7.5, color=ink)
        rotation = 0 if max(map(len, names)) <= 3 else 90
        axes.set_xticks(range(n), names, rotation=rotation, parse_math=False)  # names may contain dollar signs
        axes.set_yticks(range(n), names, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return _svg(figure)


def prediction_steps(milliseconds: Mapping[str, Mapping[str, float]]) -> bytes:
    """Draw how long each step of a prediction takes, one bar per mode; SVG.

    Args:
        milliseconds: by mode and step; all modes have the same steps.
    """
    modes, steps = list(milliseconds), list(next(iter(milliseconds.values())))
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.95, len(steps)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.6 * len(modes)))
        axes = figure.subplots()
        left = np.zeros(len(modes))
        for step, colour in zip(steps, colours, strict=True):
            widths = np.array([milliseconds[mode][step] for mode in modes])
            axes.barh(modes, widths, left=left, color=colour, label=step, height=0.6)
            left += widths
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds of one core per image")
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)
        return _svg(figure)


def pipeline(labels: Sequence[Sequence[str]], arrows: Sequence[Arrow], shares: Mapping[str, float]) -> bytes:
    """Draw boxes in columns, from left to right, with arrows between them; SVG.

    Args:
        labels: labels of the boxes of each column, from top to bottom.
        arrows: arrows between boxes.
        shares: by label, a number from 0 to 1 that the box shows as a percentage and by how dark it is.
    """
    rows = max(map(len, labels))
    centres = {
        label: (float(column), rows / 2 - len(boxes) / 2 + row + 0.5)
        for column, boxes in enumerate(labels)
        for row, label in enumerate(boxes)
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(labels), 0.4 + 0.6 * rows))
        axes = figure.subplots()
        for start, end in arrows:
            _draw_arrow(axes, centres[start], centres[end])
        for label, centre in centres.items():
            _draw_box(axes, label, centre, shares.get(label))
        axes.set_xlim(-0.4, len(labels) - 0.6)
        axes.set_ylim(rows + 0.5, -0.05)
        axes.axis("off")
        return _svg(figure)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow between the centres of two boxes: sideways to the right, or an arc from below to the left."""
    (x0, y0), (x1, y1) = start, end
    backwards = x1 <= x0
    head = (x1, y1 + HALF_HEIGHT) if backwards else (x1 - HALF_WIDTH, y1)
    tail = (x0, y0 + HALF_HEIGHT) if backwards else (x0 + HALF_WIDTH, y0)
    curve = "arc3,rad=0.25" if backwards else "arc3"
    style = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 1, "shrinkB": 1, "connectionstyle": curve}
    axes.annotate("", head, tail, arrowprops=style)


def _draw_box(axes: Axes, label: str, centre: tuple[float, float], share: float | None) -> None:
    x, y = centre
    axes.add_patch(
        FancyBboxPatch(
            (x - HALF_WIDTH, y - HALF_HEIGHT),
            2 * HALF_WIDTH,
            2 * HALF_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=matplotlib.colormaps["Blues"](0.08 + 0.75 * (share or 0.0)),
            edgecolor=MUTED,
        )
    )
    text = label if share is None else f"{label}\n{share:.0%}"
    ink = "white" if (share or 0.0) > 0.6 else INK
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5, linespacing=1.15, color=ink)


def weight_images(weights: Floats, shape: tuple[int, int, int]) -> list[Pixels]:
    """Show the weights of each class, (d, n_classes), as an image: red speaks for the class, blue against it.

    Colour channels are averaged. Each class has its own scale, which ends at a percentile of its absolute weights:
    single pixels that hardly ever vary can have weights that would drown the rest.

    Returns:
        One image uint8 (h, w, 3) per class.
    """
    colours = matplotlib.colormaps["RdBu_r"]
    images = []
    for column in weights.T:
        image: NDArray[np.float64] = column.reshape(shape).mean(axis=2)
        scale = np.percentile(np.abs(image), WEIGHT_PERCENTILE) or 1.0
        images.append((colours(0.5 + image / (2 * scale))[..., :3] * 255).round().astype(np.uint8))
    return images


def png(pixels: Pixels) -> bytes:
    """Encode uint8 (h, w, 1 or 3) as PNG, pixel by pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _svg(figure: Figure) -> bytes:
    """Encode a figure as SVG; call it within the figure's `rc_context`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks are the reader's font's concern
        # measured here: savefig would draw the figure once more to do so
        box = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])
        figure.savefig(buffer, format="svg", bbox_inches=box, metadata={"Date": None})
    return buffer.getvalue()
