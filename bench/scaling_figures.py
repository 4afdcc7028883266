"""The figures of bench.scaling: heat maps over ranks × threads, and Amdahl bars."""

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
"""Even in lightness, and the same to colour-blind eyes (Nuñez, Anderton and Renslow, PLOS ONE 13, 2018)."""

BOX = {"edgecolor": "none", "pad": 1.2}

PARTS = {"parallel_s": ("#0b6e99", "parallel"), "communication_s": ("#e0a100", "communication"),
         "overhead_s": ("#7b8794", "overhead")}  # fmt: skip

FIXED, GROWING = {"fixed"}, {"alone", "growing"}
MAPS = [
    (FIXED, "speedup", "Speed-up\n(fixed problem)"),
    (GROWING, "speedup", "Scaled speed-up\n(growing problem)"),
    (FIXED, "efficiency", "Efficiency\n(fixed problem)"),
]


def heat_maps(cells: Sequence[dict[str, Any]]) -> bytes:
    """Speed-up, scaled speed-up and efficiency: ranks upwards, threads to the right; PNG."""
    ranks, threads = _axes(cells)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(3.7 * len(MAPS), 0.75 * len(ranks) + 2.1), dpi=120, layout="constrained")
        for axes, (problems, key, title) in zip(figure.subplots(1, len(MAPS)), MAPS, strict=True):
            own = {(c["ranks"], c["threads"]): c for c in cells if c["problem"] in problems}
            values = np.array([[own[p, t][key] for t in threads] for p in ranks])
            top = max(1.0, values.max())
            image = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=top, origin="lower", aspect="auto")
            for row, p in enumerate(ranks):
                for column, t in enumerate(threads):
                    value = values[row, column]
                    light = value > 0.55 * top
                    ink, box = INK if light else "white", {"facecolor": image.cmap(image.norm(value)), **BOX}
                    axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, zorder=3, bbox=box)
                    if own[p, t]["oversubscribed"]:
                        _hatch(axes, column, row, ink)
            axes.set_xticks(range(len(threads)), [str(t) for t in threads])
            axes.set_yticks(range(len(ranks)), [str(p) for p in ranks])
            axes.tick_params(length=0)
            axes.set_xlabel("threads per rank")
            axes.set_ylabel("ranks")
            axes.set_title(title, fontsize=10.5)
            figure.colorbar(image, ax=axes, shrink=0.85)
        if any(cell["oversubscribed"] for cell in cells):
            legend = Patch(
                facecolor="#e4e7eb", edgecolor=INK, hatch="////", label="oversubscribed: more threads than cores"
            )
            figure.legend(handles=[legend], loc="outside lower center", frameon=False)
        return _png(figure)


def amdahl_bars(cells: Sequence[dict[str, Any]]) -> bytes:
    """Time of the fixed problem against threads, split into its parts, for each number of ranks; PNG."""
    ranks, threads = _axes(cells)
    own = {(c["ranks"], c["threads"]): c for c in cells if c["problem"] == "fixed"}
    usual = [cell["fit_s"] for cell in own.values() if not cell["oversubscribed"]]
    # oversubscribed cells can take many times as long: they are cut off, and say so
    top = 1.15 * min(max(usual) * 2, max(cell["fit_s"] for cell in own.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(ranks) + 0.6, 3.6), dpi=120, layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(ranks), sharey=True))
        for axes, p in zip(panels, ranks, strict=True):
            for x, t in enumerate(threads):
                cell, below = own[p, t], 0.0
                for part, (colour, _) in PARTS.items():
                    axes.bar(x, cell[part], 0.7, bottom=below, color=colour, edgecolor="white", linewidth=0.5,
                             hatch="///" if cell["oversubscribed"] else None)  # fmt: skip
                    below += cell[part]
                told = f"{below:.2f}{' ↑' if below > top else ''}"
                axes.text(x, min(below + 0.01 * top, 0.94 * top), told, ha="center", va="bottom", fontsize=9,
                          bbox={"facecolor": "white", **BOX})  # fmt: skip
            axes.set_xticks(range(len(threads)), [str(t) for t in threads])
            axes.set_xlabel("threads per rank")
            axes.set_title(f"{p} {'rank' if p == 1 else 'ranks'}", fontsize=10.5)
            axes.set_ylim(0, top)
        panels[0].set_ylabel("seconds of the fit")
        handles = [Patch(color=colour, label=label) for colour, label in PARTS.values()]
        if any(cell["oversubscribed"] for cell in own.values()):
            handles.append(_crowded())
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        return _png(figure)


def _axes(cells: Sequence[dict[str, Any]]) -> tuple[list[int], list[int]]:
    return sorted({cell["ranks"] for cell in cells}), sorted({cell["threads"] for cell in cells})


def _crowded() -> Patch:
    return Patch(facecolor="#e4e7eb", edgecolor=INK, hatch="////", label="oversubscribed: more threads than cores")


def _hatch(axes: Axes, column: int, row: int, colour: str) -> None:
    axes.add_patch(
        Rectangle(
            (column - 0.5, row - 0.5), 1, 1, fill=False, hatch="//", edgecolor=colour, linewidth=0, alpha=0.5
        )
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
