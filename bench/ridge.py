"""`python -m bench.ridge`: the ridge classifier against the alternatives, on MNIST, in one run.

1. The serial fit of the whole λ path against a bare float64 `X.T @ X` of the same images.
2. The same fit against scikit-learn's RidgeClassifierCV on the same grid.
3. outer, inner and gram in a warm Spark session against serial, at four sizes.
4. gram against MLlib's LinearRegression(solver="normal"): one label at one λ is measured, and the time multiplied
   by 10 labels and 10 λ.

Times of jobs are read from their run folders. They leave out opening the data, starting Spark and the report.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pyspark.sql import SparkSession
from sklearn.linear_model import RidgeClassifierCV

from bench.harness import Claim, main, say, seconds, table
from bench.jobs import Job, phases, run, work
from common.data.images import Block
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, inner, outer, serial
from spark_jobs.engine.session import configuration

DATA = ("--data", "mnist")
SIZES = (1_000, 11_000, 21_000, 60_000)
REPEATS = 3
FIGURE = Path(__file__).parent / "results" / "spark_speedup.png"
FIT = {"moments", "path", "validation", "refit"}


def run_mnist(job: Job, *flags: str) -> dict[str, Any]:
    """Run a job on MNIST in this process and return its metrics.json."""
    return run(job, *DATA, *flags)


def against_sklearn(images: Block, test: Block, lambdas: Sequence[float]) -> dict[str, float]:
    """Time serial, the bare product and RidgeClassifierCV on the same images."""
    say("serial against the bare float64 product and RidgeClassifierCV")
    x = images.pixels.reshape(len(images.labels), -1).astype(np.float64)
    pairs = []
    for _ in range(5):  # in turn, so that a slow moment of the machine affects both
        bare = seconds(lambda: x.T @ x, 1)
        metrics = run_mnist(serial.main)
        pairs.append((bare, phases(metrics, FIT)))
    x /= 255
    classifier = RidgeClassifierCV(alphas=lambdas)
    sklearn_s = seconds(lambda: classifier.fit(x, images.labels), 1)
    accuracy = classifier.score(test.pixels.reshape(len(test.labels), -1) / 255, test.labels)
    return {
        "bare_product_s": statistics.median(bare for bare, _ in pairs),
        "serial_fit_s": statistics.median(fit for _, fit in pairs),
        "serial_over_bare": statistics.median(fit / bare for bare, fit in pairs),
        "sklearn_s": sklearn_s,
        "sklearn_test_accuracy": float(accuracy),
        "serial_test_accuracy": metrics["test_accuracy"],
    }


def engines() -> list[dict[str, Any]]:
    """Return the median seconds of every job at every size; Spark is warm."""
    jobs: dict[str, Job] = {"serial": serial.main, "outer": outer.main, "inner": inner.main, "gram": gram.main}
    for job in jobs.values():
        run_mnist(job, "--limit", str(SIZES[0]))
    rows = []
    for size in SIZES:
        row: dict[str, Any] = {"images": size}
        for name, job in jobs.items():
            say(f"{name} at {size:,} images")
            row[name] = statistics.median(work(run_mnist(job, "--limit", str(size))) for _ in range(REPEATS))
        rows.append(row)
    return rows


def mllib_fit(session: SparkSession, images: Block, lambda_: float) -> float:
    """Return the seconds of one LinearRegression(solver="normal"): one label, one λ, cached data."""
    from pyspark.ml.linalg import Vectors
    from pyspark.ml.regression import LinearRegression

    say("MLlib: one label at one λ")
    targets = np.where(images.labels == 0, 1.0, -1.0)
    rows = session.sparkContext.parallelize(range(len(images.labels)), 8).mapPartitions(
        _vectors(session, images.pixels.reshape(len(images.labels), -1), targets)
    )
    frame = rows.map(lambda row: (row[0], Vectors.dense(row[1]))).toDF(["label", "features"]).cache()
    frame.count()
    # MLlib divides its loss by 2n and ours is a sum; features are in [0, 1] and not standardised
    regression = LinearRegression(solver="normal", regParam=lambda_ / len(images.labels), standardization=False)
    started = time.perf_counter()
    regression.fit(frame)
    fit_s = time.perf_counter() - started
    frame.unpersist()
    return fit_s


def _vectors(session: SparkSession, pixels: Any, targets: Any) -> Any:
    shared = session.sparkContext.broadcast((pixels, targets))

    def rows(part: Any) -> Any:
        x, y = shared.value
        for i in part:
            yield float(y[i]), (x[i] / 255.0).tolist()

    return rows


def draw(rows: list[dict[str, Any]], cores: int) -> None:
    """Draw the speed-up over serial against the number of images, as the published study does."""
    figure = Figure(figsize=(6.4, 3.6), dpi=120)
    axes = figure.subplots()
    x = [row["images"] for row in rows]
    for name, colour in (("outer", "#0b6e99"), ("inner", "#c0392b"), ("gram", "#2e7d32")):
        axes.plot(x, [row["serial"] / row[name] for row in rows], "o-", color=colour, label=name)
    axes.axhline(1, color="#9aa5b1", linestyle="--", linewidth=1)
    axes.annotate("serial", (x[0], 1.02), color="#52606d", fontsize=9)
    axes.set_xlabel("training images")
    axes.set_ylabel("speed-up over serial")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Spark on {cores} cores, warm, against one process with {cores} BLAS threads", fontsize=9)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, bbox_inches="tight")


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the tables and return what was measured and the claims."""
    arguments = ridge_parser("").parse_arguments([*DATA, "--quiet"])
    ridge_run = RidgeRun.open("bench", arguments)
    problem = ridge_run.problem
    train, test = problem.load(ridge_run.console), ridge_run.load_test()
    single = against_sklearn(train, test, problem.lambdas)

    # MLlib caches the images as doubles in the JVM, for which Spark's default of 1 GiB is too little
    conf = configuration("bench", live=False).set("spark.driver.memory", "4g").set("spark.ui.enabled", "false")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    rows = engines()
    cores = session.sparkContext.defaultParallelism
    kept = train.folds != 0
    training = train._replace(pixels=train.pixels[kept], labels=train.labels[kept])
    mllib_s = mllib_fit(session, training, 1.0)
    session.stop()
    draw(rows, cores)

    fits = len(problem.lambdas) * problem.n_classes
    seconds_by_fit = {
        "bare float64 X.T @ X": f"{single['bare_product_s']:.2f}",
        "serial: moments, path of 10 λ, validation, refit": f"{single['serial_fit_s']:.2f}",
        "scikit-learn RidgeClassifierCV, the same 10 λ": f"{single['sklearn_s']:.2f}",
        f"MLlib LinearRegression, {kept.sum():,} images, one label at one λ": f"{mllib_s:.2f}",
        f"MLlib, {fits} such fits (multiplied, not measured)": f"{mllib_s * fits:.0f}",
    }
    print(
        table(
            [f"one machine, {len(train.labels):,} images", "seconds"],
            [list(row) for row in seconds_by_fit.items()],
        )
    )
    print()
    print_engines(rows)
    accuracy_lead = single["serial_test_accuracy"] - single["sklearn_test_accuracy"]
    claims = [
        Claim.at_most("serial fit / bare float64 X.T @ X", single["serial_over_bare"], 1.6),
        Claim.at_least("RidgeClassifierCV / serial fit", single["sklearn_s"] / single["serial_fit_s"], 25),
        Claim.at_least("test accuracy: serial - RidgeClassifierCV", accuracy_lead, 0),
        Claim.at_least(f"MLlib × {fits} / gram at {SIZES[-1]:,}", mllib_s * fits / rows[-1]["gram"], 100),
    ]
    return {"single": single, "engines": rows, "mllib_one_fit_s": mllib_s, "mllib_fits": fits}, claims


def print_engines(rows: list[dict[str, Any]]) -> None:
    """Print the table of all jobs at all sizes."""
    jobs = ["serial", "outer", "inner", "gram"]
    cells = []
    for row in rows:
        speed_ups = [f"{row['serial'] / row[job]:.2f}" for job in jobs[1:]]
        cells.append([f"{row['images']:,}", *(f"{row[job]:.2f}" for job in jobs), *speed_ups])
    print(table(["images", *(f"{job} s" for job in jobs), *(f"{job} speed-up" for job in jobs[1:])], cells))


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
