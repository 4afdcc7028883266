"""`python -m bench.scaling`: how the data-parallel ridge fit scales over ranks × threads, here or on your cluster.

Each cell of the grid is the job itself, started by the launcher, for a problem of fixed size and for one that
grows with ranks × threads. Speed-up is the time at 1 × 1 over the time of the cell. Scaled speed-up is the same
for the growing problem, which 1 × 1 solves at each size too (Gustafson, CACM 31, 1988). Efficiency is speed-up
over ranks × threads. The time is the time of the fit: moments, their sum over the ranks, the path of all λ,
validation, refit. It has three parts:

    parallel        computing, the mean over ranks
    communication   exchanging data, the mean over ranks
    overhead        the rest, which is waiting for slower ranks

The table also shows the time of what rank 0 does alone (opening the data, the report) and of launching processes.
A cost model is fitted to the cells that have a core per thread, and the table shows its predictions for them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.augmented import write_mnist
from bench.cost_model import Cell, CostModel, FitSize
from bench.harness import Claim, conclude, parser, say, table
from bench.ranks import DATA_PARALLEL, FIT, LAUNCHER, ROOT, Run, launch, run
from bench.scaling_figures import amdahl_bars, heat_maps
from common.run.flag_types import positive_integer
from common.run.flags import data_root_flag

RESULTS = ROOT / "bench" / "results"
NETWORK_ALPHA_S, NETWORK_BETA_S = 5e-6, 1 / 12.5e9
"""Seconds that a network adds per message, and per byte at 100 Gbit/s."""

ELSEWHERE = {
    "64 ranks × 8 threads, 10⁶ images": (FitSize(10**6, 784, 10, 10), 64, 8),
    "512 ranks × 1 thread, 10⁶ images": (FitSize(10**6, 784, 10, 10), 512, 1),
    "1,000 nodes of 1 × 16, 10⁹ images": (FitSize(10**9, 784, 10, 10), 1_000, 16),
    "1,000 nodes of 16 × 1, 10⁹ images": (FitSize(10**9, 784, 10, 10), 16_000, 1),
}


def flags() -> argparse.ArgumentParser:
    """Return a parser of the benchmark's flags."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--ranks", type=_counts, default=[1, 2, 4], metavar="P,P,...", help="1,2,4")
    arguments.add_argument("--threads", type=_counts, default=[1, 2, 4], metavar="T,T,...", help="1,2,4")
    arguments.add_argument(
        "--images",
        type=positive_integer,
        default=60_000,
        metavar="N",
        help="images of the fixed problem (default: 60000)",
    )
    arguments.add_argument(
        "--each",
        type=positive_integer,
        default=15_000,
        metavar="N",
        help="images of the growing problem, per rank and thread (default: 15000)",
    )
    arguments.add_argument(
        "--repeats", type=positive_integer, default=5, metavar="R", help="runs per cell (default: 5)"
    )
    arguments.add_argument(
        "--cores",
        type=positive_integer,
        metavar="C",
        help="cores of all machines together (default: cores of this machine)",
    )
    arguments.add_argument(
        "--launcher",
        default=LAUNCHER,
        metavar="COMMAND",
        help=f"command that starts ranks (default: {LAUNCHER!r}), such as 'srun -n {{ranks}} -c {{threads}}'",
    )
    arguments.add_argument(
        "--folder",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="folder of the figures and of the images, which all machines must see (default: bench/results)",
    )
    data_root_flag(arguments)
    return arguments


def _counts(text: str) -> list[int]:
    counts = sorted({positive_integer(word) for word in text.split(",")})
    return counts if counts[0] == 1 else [1, *counts]  # speed-ups are relative to 1


def measure_grid(arguments: argparse.Namespace, data_root: Path) -> list[dict[str, Any]]:
    """Run the job for every cell of both problems and return the cells with their times."""
    grid = [(ranks, threads) for ranks in arguments.ranks for threads in arguments.threads]
    grown = sorted({ranks * threads for ranks, threads in grid})
    settings = [("fixed", ranks, threads, arguments.images) for ranks, threads in grid]
    settings += [("alone", 1, 1, arguments.each * times) for times in grown]
    settings += [("growing", ranks, threads, arguments.each * ranks * threads) for ranks, threads in grid[1:]]
    cells: list[dict[str, Any]] = [
        {"problem": problem, "ranks": ranks, "threads": threads, "images": images}
        | {"oversubscribed": ranks * threads > arguments.cores}
        for problem, ranks, threads, images in settings
    ]
    runs: list[list[Run]] = [[] for _ in cells]
    for turn in range(arguments.repeats):
        for cell, done in zip(cells, runs, strict=True):
            if cell["oversubscribed"] and turn:
                continue  # one run shows that it does not pay
            ranks, threads, images = cell["ranks"], cell["threads"], cell["images"]
            say(f"{turn + 1}/{arguments.repeats}: {images:,} images, {ranks} × {threads}")
            words: list[str | Path] = ["--data", "mnist", "--data-root", data_root, "--limit", str(images)]
            done.append(run(ranks, DATA_PARALLEL, *words, threads=threads, launcher=arguments.launcher))
    for cell, done in zip(cells, runs, strict=True):
        cell |= summary(done)
    return cells


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the parts of the run whose fit took the median time."""
    chosen = sorted(runs, key=lambda done: done.fit_s)[(len(runs) - 1) // 2]
    metrics, ranks = chosen.metrics, chosen.metrics["ranks"]

    def mean(kind: str) -> float:
        return float(statistics.mean(sum(rank[kind][phase] for phase in FIT) for rank in ranks))

    communication = mean("communicated")
    parallel = mean("seconds") - mean("waited") - communication
    root_only = metrics["seconds"]["open"] + metrics["seconds"]["report"]
    return {
        "repeats": len(runs),
        "fit_s": chosen.fit_s,
        "fastest_s": min(done.fit_s for done in runs),
        "slowest_s": max(done.fit_s for done in runs),
        "parallel_s": parallel,
        "communication_s": communication,
        "overhead_s": chosen.fit_s - parallel - communication,
        "root_only_s": root_only,
        "launch_s": chosen.wall_s - metrics["seconds"]["total"],
        "wall_s": chosen.wall_s,
        "phases": chosen.phases,
    }


def add_speedups(cells: list[dict[str, Any]]) -> None:
    """Add speed-up and efficiency, relative to one rank and one thread at the same problem."""
    alone = {
        (cell["problem"] == "fixed", cell["images"]): cell["fit_s"]
        for cell in cells
        if cell["ranks"] == cell["threads"] == 1
    }
    for cell in cells:
        cell["speedup"] = alone[cell["problem"] == "fixed", cell["images"]] / cell["fit_s"]
        cell["efficiency"] = cell["speedup"] / (cell["ranks"] * cell["threads"])


def fit_model(cells: list[dict[str, Any]], launcher: str) -> CostModel:
    """Fit the cost model to the cells that have a core per thread, and add its predictions to all cells."""
    measured = [
        Cell(size_of(cell), cell["ranks"], cell["threads"], cell["phases"])
        for cell in cells
        if not cell["oversubscribed"]
    ]
    sums = json.loads(launch(2, [ROOT / "bench" / "collectives.py"], launcher=launcher))
    model = CostModel.fitted(measured, sums)
    for cell in cells:
        cell["predicted"] = model.phases(size_of(cell), cell["ranks"], cell["threads"])
        cell["predicted_s"] = sum(cell["predicted"].values())
    return model


def size_of(cell: dict[str, Any]) -> FitSize:
    """Return the size of a cell's fit: MNIST with the job's default λ and hold-out."""
    return FitSize(cell["images"], 784, 10, 10)


def main() -> int:
    """Measure the grid, draw the figures, print the tables and check the claim."""
    arguments = flags().parse_args()
    arguments.cores = arguments.cores or len(os.sched_getaffinity(0))
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    largest = max(arguments.images, arguments.each * max(arguments.ranks) * max(arguments.threads))
    with tempfile.TemporaryDirectory(dir=folder) as images:
        say(f"making {largest:,} images from MNIST")
        write_mnist(arguments.data_root, largest, Path(images))
        cells = measure_grid(arguments, Path(images))
    add_speedups(cells)
    model = fit_model(cells, arguments.launcher)
    far = model.on(model.alpha + NETWORK_ALPHA_S, max(model.beta, NETWORK_BETA_S))
    elsewhere = {name: far.phases(*case) for name, case in ELSEWHERE.items()}
    (folder / "scaling_heat_maps.png").write_bytes(heat_maps(cells))
    (folder / "scaling_amdahl.png").write_bytes(amdahl_bars(cells))

    print(table(COLUMNS, [row(cell) for cell in cells]))
    print()
    rows = []
    for name, phases in elsewhere.items():
        rows.append([name, *(f"{phases[phase]:.4f}" for phase in FIT), f"{sum(phases.values()):.3f}"])
    print(table(["elsewhere, predicted", *(f"{phase} s" for phase in FIT), "fit s"], rows))
    off = [abs(cell["predicted_s"] / cell["fit_s"] - 1) for cell in cells if not cell["oversubscribed"]]
    measured = {"cells": cells, "model": model_record(model), "elsewhere": elsewhere}
    measured |= {"cores": arguments.cores, "launcher": arguments.launcher}
    claims = [Claim.at_most("cost model: the farthest prediction is off by", max(off), 0.25)]
    print(f"\n{folder}/scaling_heat_maps.png and scaling_amdahl.png are drawn", file=sys.stderr)
    return conclude(arguments, measured, claims)


COLUMNS = [
    *("ranks × threads", "images", "fit s", "parallel", "communication", "overhead"),
    *("rank 0 only", "launch", "speed-up", "efficiency", "predicted s"),
]


def row(cell: dict[str, Any]) -> list[str]:
    """Return a cell as a row under COLUMNS."""
    oversubscribed = cell["oversubscribed"]
    seconds = [cell[part] for part in ("fit_s", "parallel_s", "communication_s", "overhead_s")]
    return [
        f"{cell['ranks']} × {cell['threads']}{' oversubscribed' if oversubscribed else ''}",
        f"{cell['images']:,}",
        *(f"{value:.3f}" for value in seconds),
        f"{cell['root_only_s']:.2f}",
        f"{cell['launch_s']:.2f}",
        f"{cell['speedup']:.2f}",
        f"{cell['efficiency']:.2f}",
        "" if oversubscribed else f"{cell['predicted_s']:.3f}",
    ]


def model_record(model: CostModel) -> dict[str, Any]:
    """Return the fitted unit costs as JSON."""
    costs = {"product": model.product, "system": model.system, "score": model.score}
    return {name: {"unit_s": cost.unit_s, "serial": cost.serial} for name, cost in costs.items()} | {
        "pack_s_a_byte": model.pack,
        "alpha_s": model.alpha,
        "beta_s_a_byte": model.beta,
    }


if __name__ == "__main__":
    raise SystemExit(main())
