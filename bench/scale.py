"""`python -m bench.scale`: millions of images on a standalone cluster of two executors of one core.

1. Two million images made from MNIST are ingested, and fitted by gram at five sizes. Is time linear in their
   number? Is the driver's memory the same at all sizes? How close do executors come to a bare float32 product?
2. The table's own reader against Spark's mapInArrow and an RDD of records, for the same pixels and moments.
3. 5-fold cross-validation against a single fit.
4. predict against bare numpy scoring.

The driver has 1 GiB and each executor 2 GiB. Executors are warm, and the bare products have one thread each. The
driver's memory is measured in a fresh driver for each size.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from bench.cluster import standalone_cluster, submit
from bench.harness import Claim, main, say, table
from bench.jobs import work
from common.ridge.model import RidgeModel

SIZES = (125_000, 250_000, 500_000, 1_000_000, 2_000_000)
SMALL = 500_000
REPEATS = 3
BARE_ROWS = 8192
FIGURE = Path(__file__).parent / "results" / "scale.png"
BENCH = Path(__file__).parent


def bare_product_rate(seconds: float = 2.0) -> float:
    """Return images per second of a float32 XᵀX with 784 features on one thread, which numpy computes by syrk."""
    x = np.random.default_rng(0).integers(-128, 128, (BARE_ROWS, 784)).astype(np.float32)
    with threadpool_limits(1, user_api="blas"):
        x.T @ x
        started, n = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            x.T @ x
            n += BARE_ROWS
        return n / (time.perf_counter() - started)


def bare_scoring_rate(model: RidgeModel, seconds: float = 2.0) -> float:
    """Return images per second of `(pixels / 255 @ W + b).argmax(1)` on one thread, block by block."""
    pixels = np.random.default_rng(0).integers(0, 256, (64 * 1024, 784), np.uint8)
    with threadpool_limits(1, user_api="blas"):
        started, n = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            for start in range(0, len(pixels), 1024):
                (pixels[start : start + 1024] / 255 @ model.weights + model.intercept).argmax(axis=1)
            n += len(pixels)
        return n / (time.perf_counter() - started)


def draw(fits: dict[int, float], bare: float, cores: int) -> None:
    """Draw the time over the number of images."""
    figure = Figure(figsize=(6.4, 3.6), dpi=120)
    axes = figure.subplots()
    x = [n / 1e6 for n in fits]
    axes.plot(x, list(fits.values()), "o-", color="#0b6e99", label=f"gram, {cores} executors of one core")
    bound = [n / bare / cores for n in fits]
    axes.plot(x, bound, "--", color="#9aa5b1", label="the bare float32 XᵀX of as many threads")
    axes.set_xlabel("images of 28×28, in millions")
    axes.set_ylabel("seconds")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, bbox_inches="tight")


def measure_on(master: str, folder: Path) -> dict[str, Any]:
    """Measure everything that needs the cluster, and the bare products before and after it."""
    model = str(folder / "model")
    tables = {n: str(folder / f"images-{n}") for n in (SIZES[-1], SMALL)}
    big, small = tables[SIZES[-1]], tables[SMALL]
    for n, location in tables.items():
        say(f"making {n:,} images on the executors")
        say(submit(master, str(BENCH / "images.py"), location, "--images", str(n)))
    say("a fresh driver for each size")
    driver = str(BENCH / "scale_driver.py")
    cold = {n: json.loads(submit(master, driver, big, small, "-", "1", str(n))) for n in SIZES}
    gram = str(BENCH.parent / "spark_jobs" / "gram.py")
    submit(master, gram, "--data", f"parquet:{small}", "--out", model, "--quiet")
    say("warm executors")
    bare, scoring = [bare_product_rate()], [bare_scoring_rate(RidgeModel.load(Path(model)))]
    warm = json.loads(submit(master, driver, big, small, model, str(REPEATS), *map(str, SIZES)))
    bare.append(bare_product_rate())
    scoring.append(bare_scoring_rate(RidgeModel.load(Path(model))))
    return {"cold": cold, "bare": bare, "bare_scoring": scoring, **warm}


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the tables and return what was measured and the claims."""
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
        with standalone_cluster(folder / "cluster", environment=environment) as master:
            measured = measure_on(master, folder)
    cores = measured["cores"]
    bare, scoring = statistics.mean(measured["bare"]), statistics.mean(measured["bare_scoring"])
    fits = {n: measured["fits"][str(n)]["work"] for n in SIZES}
    memory = {n: sum(measured["cold"][n]["peaks"].values()) for n in SIZES}
    cold = {n: work(measured["cold"][n]) for n in SIZES}
    delivered, summed = (
        {name: statistics.median(times) for name, times in measured["paths"][kind].items()}
        for kind in ("delivered", "summed")
    )
    predicted = statistics.median(n / seconds / cores for n, seconds in measured["predictions"])
    draw(fits, bare, cores)
    print_fits(fits, bare, cores, memory, cold)
    print()
    print_paths(delivered, summed, cores)
    doubling = fits[SIZES[-1]] / fits[SIZES[-2]]
    spread = max(memory.values()) / min(memory.values()) - 1
    claims = [
        Claim.at_most(f"time at {SIZES[-1]:,} / time at {SIZES[-2]:,}, off from 2", abs(doubling / 2 - 1), 0.2),
        Claim.at_most("driver's peak memory, largest over smallest, less 1", spread, 0.10),
        Claim.at_least("fit, images/s per core / bare product of a thread", fits_rate(fits, cores) / bare, 0.45),
        Claim.at_least(
            "pixels per second: table / an RDD of records", delivered["records"] / delivered["table"], 3
        ),
        Claim.at_least("moments per second: table / an RDD of records", summed["records"] / summed["table"], 2),
        Claim.at_most(f"5 folds / a single fit at {SIZES[-1]:,}", measured["five_folds"], 1.8),
        Claim.at_least(f"predict at {SMALL:,}, images/s per core / bare scoring", predicted / scoring, 0.6),
    ]
    return {**measured, "predicted_per_core": predicted}, claims


def print_fits(
    fits: dict[int, float], bare: float, cores: int, memory: dict[int, int], cold: dict[int, float]
) -> None:
    """Print the table of fits.

    Args:
        fits: seconds by number of images.
        bare: images per second of the bare product.
        cores: cores of all executors.
        memory: bytes that a fresh driver holds at its peak, by number of images.
        cold: seconds in that driver, by number of images.
    """
    rows = []
    for n, seconds in fits.items():
        rate = n / seconds / cores
        peak = f"{memory[n] / 2**20:.0f}"
        rows.append([f"{n:,}", f"{seconds:.2f}", f"{rate:,.0f}", f"{rate / bare:.0%}", peak, f"{cold[n]:.2f}"])
    titles = ["images", "fit, s", "images/s per core", "of bare", "driver's peak, MiB", "fit in a fresh driver, s"]
    print(table(titles, rows))


def print_paths(delivered: dict[str, float], summed: dict[str, float], cores: int) -> None:
    """Print the table of ways to read, from the seconds in which pixels arrive and moments are computed."""
    rows = []
    for name, seconds in summed.items():
        pixels = f"{delivered[name]:.2f}" if name in delivered else ""
        rows.append([name, pixels, f"{seconds:.2f}", f"{SMALL / seconds / cores:,.0f}"])
    print(table([f"{SMALL:,} images", "pixels as arrays, s", "moments, s", "moments, images/s per core"], rows))


def fits_rate(fits: dict[int, float], cores: int) -> float:
    """Return images per second and core at the largest size, for moments, all λ, validation, refit and test."""
    largest = max(fits)
    return largest / fits[largest] / cores


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
