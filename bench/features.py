"""`python -m bench.features SET`: the ridge classifier on features, on one set of images.

SET is mnist, fashion, cifar, hands or moments. For the sets of images, two seeds each, λ chosen on validation:

1. Accuracy of test images at the spec that the documentation recommends, and the seconds of each phase.
2. The same number of features by scikit-learn, Nystroem + RidgeClassifierCV, stopped after ten times our time or
   when the benchmark has taken nine minutes.

`moments` times the Gram product of 8-bit integers against the one in float32, on noise of 4,096 and 784 features,
by one thread and by all.

Data: MNIST and hands under IMAGE_DATA_ROOT (default: data), the archive cifar10.tar.gz of JPEGs there, which is
unpacked into the system's temporary folder, and Fashion-MNIST there or where Debian's dataset-fashion-mnist puts
it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Claim, conclude, parser, say, seconds, table
from bench.jobs import run
from common.blas import blas_threads, limit_blas
from common.ridge.gram import BlasProduct, GramProduct, Int8Product
from spark_jobs import serial

SEEDS = (0, 1)
IMAGES = 16_384
"""Images of noise that products are timed with."""

LIMIT_S = 540
"""Seconds after which scikit-learn is stopped, counted from the start."""

ROOT = Path(os.environ.get("IMAGE_DATA_ROOT", "data"))


@dataclass(frozen=True)
class Case:
    """A fit to a set of images.

    Attributes:
        spec: of the features.
        flags: further flags of the job.
        accuracy: the least accuracy of the test images, of any seed.
    """

    spec: str
    flags: tuple[str, ...]
    accuracy: float


CASES = {
    "mnist": Case("patches:64+landmarks:8192", ("--lambdas=-4:2:10",), 0.993),
    "fashion": Case("patches:256,cells=4,mirror", ("--lambdas=-2:2:10",), 0.915),
    "cifar": Case("patches:1024,mirror", ("--lambdas=-1:4:10",), 0.765),
    "hands": Case("patches:128,cells=6+landmarks:1200", ("--size", "48x48", "--lambdas=-4:2:10"), 0.95),
}


@contextmanager
def opened(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the flags that name a set."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "cifar":
            with tarfile.open(ROOT / "cifar10.tar.gz") as archive:
                archive.extractall(folder, filter="data")
            yield "--data", f"folder:{folder}"
        elif name == "fashion":
            yield "--data", "fashion-mnist", "--data-root", str(ROOT)
        elif name == "hands":
            yield "--data", f"folder:{ROOT / 'hands'}"
        else:
            yield "--data", name, "--data-root", str(ROOT)


SKLEARN = """
import json, sys, time
import numpy as np
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from common.data.images import Images
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from common.console import Console
d, flags = int(sys.argv[1]), sys.argv[2:]
opened = RidgeRun.open("bench", ridge_parser("").parse_arguments([*flags, "--quiet"]))
train, test = opened.problem.load(Console(quiet=True)), opened.load_test()
x, x_test = (block.pixels.reshape(len(block.labels), -1).astype(np.float32) / 255 for block in (train, test))
some = x[:1000]
squares = (some ** 2).sum(axis=1)
gamma = 1 / np.median(squares[:, None] + squares - 2 * some @ some.T)
grid = np.logspace(-4, 2, 10)
started = time.perf_counter()
model = make_pipeline(Nystroem(gamma=gamma, n_components=d, random_state=0), RidgeClassifierCV(grid))
model.fit(x, train.labels)
fit_s = time.perf_counter() - started
print(json.dumps({"seconds": fit_s, "test_accuracy": model.score(x_test, test.labels)}))
"""


def against_sklearn(d: int, flags: tuple[str, ...], limit_s: float) -> dict[str, float | None]:
    """Fit Nystroem and RidgeClassifierCV in a process of their own; None where they do not finish."""
    say(f"scikit-learn: Nystroem of {d:,} and RidgeClassifierCV, for at most {limit_s:.0f} s")
    words = [sys.executable, "-c", SKLEARN, str(d), *flags]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=True)
    except subprocess.TimeoutExpired:
        return {"seconds": None, "test_accuracy": None}
    except subprocess.CalledProcessError as error:
        say(error.stderr.strip().splitlines()[-1] if error.stderr else f"killed by signal {-error.returncode}")
        return {"seconds": None, "test_accuracy": None}
    found: dict[str, float | None] = json.loads(done.stdout)
    return found


def fit_s(metrics: dict[str, Any]) -> float:
    """Return the seconds of all that ends in a fitted model: features, moments, path, validation, refit."""
    phases = ("learn features", "read", "moments", "path", "validation", "refit")
    return float(sum(metrics["seconds"].get(phase, 0) for phase in phases))


def measure_set(name: str) -> tuple[dict[str, Any], list[Claim]]:
    """Fit to a set, with every seed, and by scikit-learn."""
    started, case = time.perf_counter(), CASES[name]
    with opened(name) as data:
        runs = []
        for seed in SEEDS:
            say(f"{name}: {case.spec}, seed {seed}")
            flags = (*data, "--features", case.spec, *case.flags, "--seed", str(seed))
            runs.append(run(serial.main, *flags))
        ours_s = statistics.median(map(fit_s, runs))
        d = int(runs[0]["n_features"])
        left = LIMIT_S - (time.perf_counter() - started)
        limit_s = max(1.0, min(10 * ours_s, left))
        sizes = tuple(flag for flag in case.flags if not flag.startswith("--lambdas"))
        other = against_sklearn(d, (*data, *sizes), limit_s)
    phases = sorted({phase for metrics in runs for phase in metrics["seconds"]})
    rows = [[phase, *(f"{metrics['seconds'].get(phase, 0):.1f}" for metrics in runs)] for phase in phases]
    rows.append(["test accuracy", *(f"{metrics['test_accuracy']:.4f}" for metrics in runs)])
    print(table([f"{name}, {case.spec}", *(f"seed {seed}" for seed in SEEDS)], rows))
    other_s = other["seconds"]
    shown = f"{other_s:.0f} s, {other['test_accuracy']:.4f}" if other_s else f"not finished after {limit_s:.0f} s"
    print(f"\nscikit-learn, {d:,} features of Nystroem: {shown}")
    claims = [
        Claim.at_least(f"{name}: least test accuracy", min(m["test_accuracy"] for m in runs), case.accuracy),
        Claim.at_least("scikit-learn's time, or the time it was given / ours", (other_s or limit_s) / ours_s, 1),
    ]
    return {"runs": runs, "sklearn": other, "sklearn_limit_s": limit_s}, claims


def gram_seconds(make: Callable[[int], GramProduct], d: int) -> float:
    """Return the seconds of the Gram matrix of images of noise."""
    product = make(d)
    noise = np.random.default_rng(0).integers(-128, 128, (IMAGES, d)).astype(np.int8).astype(product.dtype)
    gram = np.zeros((d, d))

    def multiply() -> None:
        for start in range(0, len(noise), product.rows):
            product.add(noise[start : start + product.rows], gram)

    multiply()
    return seconds(multiply, 3)


def measure_moments() -> tuple[dict[str, Any], list[Claim]]:
    """Time both products, in turn."""
    threads = blas_threads()
    rows, claims, measured = [], [], []
    for n_threads in sorted({1, threads}):
        limit_blas(n_threads)
        for d, least in ((784, 1.0), (4_096, 2.5)):
            say(f"{d:,} features, {n_threads} threads")
            ratios = []
            for _ in range(3):
                single, eight = gram_seconds(BlasProduct, d), gram_seconds(Int8Product, d)
                ratios.append(single / eight)
            ratio = statistics.median(ratios)
            measured.append({"d": d, "threads": n_threads, "float32_s": single, "int8_s": eight, "ratio": ratio})
            rows.append([f"{d:,}", str(n_threads), f"{single:.2f}", f"{eight:.2f}", f"{ratio:.2f}"])
            claims.append(Claim.at_least(f"float32 / int8, d = {d:,}, {n_threads} threads", ratio, least))
    limit_blas(threads)
    print(table(["d", "threads", "float32 s", "int8 s", "ratio"], rows))
    return {"products": measured}, claims


def main() -> int:
    """Parse the flags, measure, and conclude."""
    flags = parser(__doc__ or "")
    flags.add_argument("set", choices=(*CASES, "moments"), help="what to measure")
    arguments = flags.parse_args()
    return conclude(arguments, *(measure_moments() if arguments.set == "moments" else measure_set(arguments.set)))


if __name__ == "__main__":
    raise SystemExit(main())
