"""The figures of bench.scaling: heat maps over ranks × threads, and bars of the parts of a fit's time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from common.report.plots import INK, STYLE

COLOURS = "cividis"
"""A map of even lightness that colour-blind eyes see alike (Nuñez, Anderton and Renslow, PLOS ONE 13, 2018)."""

BOX = {"edgecolor": "none", "pad": 1.2}

PARTS = {
    "parallel_s": ("#0b6e99", "parallel"),
    "communication_s": ("#e0a100", "communication"),
    "overhead_s": ("#7b8794", "overhead"),
}

FIXED, GROWING = {"fixed"}, {"alone", "growing"}
MAPS = [
    (FIXED, "speedup", "Speed-up\n(fixed problem)"),
    (GROWING, "speedup", "Scaled speed-up\n(growing problem)"),
    (FIXED, "efficiency", "Efficiency\n(fixed problem)"),
]


def heat_maps(cells: Sequence[dict[str, Any]]) -> bytes:
    """Draw speed-up, scaled speed-up and efficiency: ranks upwards, threads to the right; PNG."""
    ranks, threads = _grid(cells)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(3.7 * len(MAPS), 0.75 * len(ranks) + 2.1), dpi=120, layout="constrained")
        for axes, (problems, key, title) in zip(figure.subplots(1, len(MAPS)), MAPS, strict=True):
            shown = {(c["ranks"], c["threads"]): c for c in cells if c["problem"] in problems}
            _heat_map(figure, axes, [[shown[p, t] for t in threads] for p in ranks], key)
            axes.set_xticks(range(len(threads)), [str(t) for t in threads])
            axes.set_yticks(range(len(ranks)), [str(p) for p in ranks])
            axes.tick_params(length=0)
            axes.set_xlabel("threads per rank")
            axes.set_ylabel("ranks")
            axes.set_title(title, fontsize=10.5)
        if any(cell["oversubscribed"] for cell in cells):
            figure.legend(handles=[_oversubscribed()], loc="outside lower center", frameon=False)
        return _png(figure)


def _heat_map(figure: Figure, axes: Axes, rows: Sequence[Sequence[dict[str, Any]]], key: str) -> None:
    """Draw one value of each cell as a colour and a number; hatch oversubscribed cells."""
    values = np.array([[cell[key] for cell in row] for row in rows])
    top = max(1.0, values.max())
    image = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=top, origin="lower", aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        ink = INK if value > 0.55 * top else "white"
        box = {"facecolor": image.cmap(image.norm(value)), **BOX}
        axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=ink, zorder=3, bbox=box)
        if rows[y][x]["oversubscribed"]:
            hatched = Rectangle(
                (x - 0.5, y - 0.5), 1, 1, fill=False, hatch="//", edgecolor=ink, linewidth=0, alpha=0.5
            )
            axes.add_patch(hatched)
    figure.colorbar(image, ax=axes, shrink=0.85)


def amdahl_bars(cells: Sequence[dict[str, Any]]) -> bytes:
    """Draw the time of the fixed problem over threads, split into its parts, for each number of ranks; PNG."""
    ranks, threads = _grid(cells)
    fixed = {(c["ranks"], c["threads"]): c for c in cells if c["problem"] == "fixed"}
    usual = [cell["fit_s"] for cell in fixed.values() if not cell["oversubscribed"]]
    # oversubscribed cells can take many times as long: their bars are cut off and marked with an arrow
    top = 1.15 * min(max(usual) * 2, max(cell["fit_s"] for cell in fixed.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(ranks) + 0.6, 3.6), dpi=120, layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(ranks), sharey=True))
        for axes, p in zip(panels, ranks, strict=True):
            for x, t in enumerate(threads):
                _bar(axes, x, fixed[p, t], top)
            axes.set_xticks(range(len(threads)), [str(t) for t in threads])
            axes.set_xlabel("threads per rank")
            axes.set_title(f"{p} {'rank' if p == 1 else 'ranks'}", fontsize=10.5)
            axes.set_ylim(0, top)
        panels[0].set_ylabel("seconds of the fit")
        handles = [Patch(color=colour, label=label) for colour, label in PARTS.values()]
        if any(cell["oversubscribed"] for cell in fixed.values()):
            handles.append(_oversubscribed())
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        return _png(figure)


def _bar(axes: Axes, x: int, cell: dict[str, Any], top: float) -> None:
    """Draw the parts of a cell's time on top of each other, and the total above them."""
    total, hatch = 0.0, "///" if cell["oversubscribed"] else None
    for part, (colour, _) in PARTS.items():
        axes.bar(x, cell[part], 0.7, total, color=colour, edgecolor="white", linewidth=0.5, hatch=hatch)
        total += cell[part]
    text = f"{total:.2f}{' ↑' if total > top else ''}"
    box = {"facecolor": "white", **BOX}
    axes.text(x, min(total + 0.01 * top, 0.94 * top), text, ha="center", va="bottom", fontsize=9, bbox=box)


def _grid(cells: Sequence[dict[str, Any]]) -> tuple[list[int], list[int]]:
    """Return the numbers of ranks and of threads, sorted."""
    return sorted({cell["ranks"] for cell in cells}), sorted({cell["threads"] for cell in cells})


def _oversubscribed() -> Patch:
    return Patch(facecolor="#e4e7eb", edgecolor=INK, hatch="////", label="oversubscribed: more threads than cores")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
