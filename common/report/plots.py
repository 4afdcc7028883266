"""The figures: SVG for curves and matrices, PNG for anything made of pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from common.arrays import Floats, Labels, Pixels

INK, ACCENT, MUTED = "#1f2933", "#0b6e99", "#9aa5b1"

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
    "svg.fonttype": "none",  # letters that matplotlib's font lacks are shown in the reader's
    "svg.hashsalt": "parallel-image-classification",  # the same figure gives the same bytes
}


Arrow = tuple[str, str]
"""From one box to another, by their labels."""


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def accuracy_over_lambda(
    lambdas: Sequence[float], validation_accuracy: Sequence[float], best: float, test_accuracy: float
) -> bytes:
    """Validation accuracy over λ on a logarithmic axis, the chosen λ marked; SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4))
        axes = figure.subplots()
        order = np.argsort(lambdas)
        x, y = np.asarray(lambdas)[order], np.asarray(validation_accuracy)[order]
        chosen = y[int(np.flatnonzero(x == best)[0])]
        axes.plot(x, y, "o-", color=ACCENT, markersize=4, label="validation")
        axes.plot([best], [chosen], "o", markersize=11, markerfacecolor="none", markeredgecolor="#c0392b",
                  markeredgewidth=1.8, label=f"chosen λ = {best:.3g}")  # fmt: skip
        axes.axhline(test_accuracy, color=MUTED, linestyle="--", linewidth=1, label=f"test {test_accuracy:.4f}")
        positive = x[x > 0]
        if len(positive) > 1:
            axes.set_xscale("symlog", linthresh=float(positive[0])) if x[0] == 0 else axes.set_xscale("log")
        axes.set_xlabel("λ")
        axes.set_ylabel("accuracy")
        axes.grid(axis="y", color=MUTED, alpha=0.3)
        axes.legend(frameon=False, loc="best")
        return _svg(figure)


def training_history(epochs: Sequence[Mapping[str, float]], best: int) -> bytes:
    """Loss and accuracy of training and validation images over epochs, the best epoch (from 1) marked; SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.0))
        x = range(1, len(epochs) + 1)
        for axes, name in zip(figure.subplots(2, 1, sharex=True), ("loss", "accuracy"), strict=True):
            for key, colour, label in ((name, MUTED, "train"), (f"validation_{name}", ACCENT, "validation")):
                known = [(at, epoch[key]) for at, epoch in zip(x, epochs, strict=True) if key in epoch]
                axes.plot(*zip(*known, strict=True), "o-", color=colour, markersize=3, label=label)
            axes.axvline(best, color="#c0392b", linestyle="--", linewidth=1, label=f"best epoch: {best}")
            axes.set_ylabel(name)
            axes.grid(axis="y", color=MUTED, alpha=0.3)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def thumbnail(pixels: Pixels, side: int) -> Pixels:
    """uint8 (h, w, 1 or 3) as it is, or scaled down to at most `side` pixels a side."""
    height, width, channels = pixels.shape
    if max(height, width) <= side:
        return pixels
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def confusion(matrix: Labels, class_names: Sequence[str]) -> bytes:
    """A confusion matrix (c, c), rows true and columns predicted, coloured by the row's share; SVG."""
    n = len(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [name if len(name) <= 18 else f"{name[:17]}…" for name in class_names]
    with matplotlib.rc_context(STYLE):
        side = 2.2 + 0.4 * n
        figure = Figure(figsize=(side, side))
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(matrix > 0):
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=7.5,
                      color="white" if share[row, column] > 0.5 else INK)  # fmt: skip
        rotation = 0 if max(map(len, names)) <= 3 else 90
        axes.set_xticks(range(n), names, rotation=rotation, parse_math=False)  # names may hold dollars
        axes.set_yticks(range(n), names, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return _svg(figure)


def stages(milliseconds: Mapping[str, Mapping[str, float]]) -> bytes:
    """What each stage takes, by way and stage, as bars of one length a way; SVG."""
    names = list(next(iter(milliseconds.values())))
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.95, len(names)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.1 + 0.6 * len(milliseconds)))
        axes = figure.subplots()
        ways = list(milliseconds)
        left = np.zeros(len(ways))
        for name, colour in zip(names, colours, strict=True):
            widths = np.array([milliseconds[way][name] for way in ways])
            axes.barh(ways, widths, left=left, color=colour, label=name, height=0.6)
            left += widths
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds of a core for an image")
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)
        return _svg(figure)


def pipeline(labels: Sequence[Sequence[str]], arrows: Sequence[Arrow], shares: Mapping[str, float]) -> bytes:
    """Boxes in columns, from left to right, with arrows between them; SVG.

    Args:
        labels: of the boxes of each column, from top to bottom.
        arrows: between boxes.
        shares: by label, from 0 to 1: how dark a box is, and what it says.
    """
    rows = max(map(len, labels))
    place = {
        label: (column, rows / 2 - len(boxes) / 2 + row + 0.5)
        for column, boxes in enumerate(labels)
        for row, label in enumerate(boxes)
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(labels), 0.4 + 0.6 * rows))
        axes = figure.subplots()
        half_width, half_height = 0.34, 0.36
        for start, end in arrows:
            (x0, y0), (x1, y1) = place[start], place[end]
            backwards = x1 <= x0
            axes.annotate(
                "",
                (x1, y1 + half_height) if backwards else (x1 - half_width, y1),
                (x0, y0 + half_height) if backwards else (x0 + half_width, y0),
                arrowprops={
                    "arrowstyle": "-|>", "color": MUTED, "shrinkA": 1, "shrinkB": 1,
                    "connectionstyle": "arc3,rad=0.25" if backwards else "arc3",
                },
            )  # fmt: skip
        for label, (x, y) in place.items():
            share = shares.get(label)
            colour = matplotlib.colormaps["Blues"](0.08 + 0.75 * (share or 0.0))
            axes.add_patch(
                FancyBboxPatch(
                    (x - half_width, y - half_height), 2 * half_width, 2 * half_height,
                    boxstyle="round,pad=0,rounding_size=0.06", facecolor=colour, edgecolor=MUTED,
                )
            )  # fmt: skip
            told = label if share is None else f"{label}\n{share:.0%}"
            axes.text(x, y, told, ha="center", va="center", fontsize=8.5, linespacing=1.15,
                      color="white" if (share or 0.0) > 0.6 else INK)  # fmt: skip
        axes.set_xlim(-0.4, len(labels) - 0.6)
        axes.set_ylim(rows + 0.5, -0.05)
        axes.axis("off")
        return _svg(figure)


def png(pixels: Pixels) -> bytes:
    """uint8 (h, w, 1 or 3) as PNG, pixel by pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def weight_images(weights: Floats, shape: tuple[int, int, int]) -> list[Pixels]:
    """The weights of each class, (d, n_classes), as images: red speaks for the class, blue against it.

    Colour channels are averaged, and each class has a scale of its own, whose ends are the 99.5th percentile of
    its absolute weights: single pixels that hardly ever vary can carry weights that would drown the rest.

    Returns:
        uint8 (h, w, 3), one a class.
    """
    colours = matplotlib.colormaps["RdBu_r"]
    images = []
    for column in weights.T:
        image: NDArray[np.float64] = column.reshape(shape).mean(axis=2)
        scale = np.percentile(np.abs(image), 99.5) or 1.0
        images.append((colours(0.5 + image / (2 * scale))[..., :3] * 255).round().astype(np.uint8))
    return images
