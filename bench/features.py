"""`python -m bench.features SET`: the ridge classifier on features, on one set of images.

SET is mnist, fashion, cifar, hands, mnist-large, cifar-large, mnist-patient or moments. For sets of images, λ is
chosen on validation:

1. Accuracy of test images at the spec that the documentation recommends, and the seconds of each phase: two seeds,
   or one for cifar, the large ones and mnist-patient. Two ranks train a network on the same training images before
   the large ones, whose features are the network's, for cifar-large beside those of filters.
2. The small network of train_cnn.py on two ranks, a few epochs.
3. The same number of features by scikit-learn, RBFSampler and then Nystroem, each with RidgeClassifierCV. Each is
   stopped after ten times our time, or when its half of what is left of nine minutes is over.

The last two are left out beside the large ones. `mnist-patient` leaves out the network, and lets RBFSampler take
sixteen times our time, which is about twenty minutes.

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
from bench.ranks import ROOT as CHECKOUT
from bench.ranks import launch
from bench.ranks import run as run_ranks
from common.blas import blas_threads, limit_blas
from common.int8 import int8_kernel
from common.ridge.gram import BlasProduct, GramProduct, Int8Product
from spark_jobs import serial

SEEDS = (0, 1)
IMAGES = 16_384
"""Images of noise that products are timed with."""

FIT = ("train network", "learn features", "read", "moments", "path", "validation", "refit")
"""The phases that end in a fitted model."""

LARGE_S = 600
"""Seconds that a seed of a large case may take, the training of the network included."""

LIMIT_S = 540
"""Seconds after which scikit-learn is stopped, counted from the start, unless a case has more patience."""

PATIENCE = 10
"""Scikit-learn is stopped after so many times our time, unless a case has more patience."""

STARTING_S = 30
"""Seconds that a process of scikit-learn may take to start and read images."""

KERNELS = ("RBFSampler", "Nystroem")
"""Approximations of a Gaussian kernel in scikit-learn."""

ROOT = Path(os.environ.get("IMAGE_DATA_ROOT", "data"))
TRAIN = CHECKOUT / "mpi_jobs" / "train_cnn.py"


@dataclass(frozen=True)
class Case:
    """A fit to a set of images.

    Attributes:
        images: the name of the set.
        spec: of the features.
        flags: further flags of the job.
        accuracy: the least accuracy of the test images, of any seed.
        network: flags of the training of a network, whose path is appended to the spec; empty for none.
        beside: flags of the small network beside.
        seeds: the seeds of the fits.
        patience: let RBFSampler alone take so many times our time, and no network; 0 for what LIMIT_S and PATIENCE
            say.
        is_small: so few images that scikit-learn may be as fast.
    """

    images: str
    spec: str
    flags: tuple[str, ...]
    accuracy: float
    network: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("--epochs", "3")
    seeds: tuple[int, ...] = SEEDS
    patience: int = 0
    is_small: bool = False


CASES = {
    "mnist": Case("mnist", "patches:64+landmarks:8192,width=0.5", ("--lambdas=-4:2:10",), 0.993),
    "fashion": Case("fashion", "patches:256,cells=4,mirror", ("--lambdas=-2:2:10",), 0.915),
    "cifar": Case(
        "cifar",
        "patches:1024,mirror",
        ("--lambdas=-1:4:10",),
        0.765,
        beside=("--epochs", "3", "--image-size", "32"),
        seeds=(0,),
    ),
    "hands": Case(
        "hands",
        "patches:128,cells=6+landmarks:1200",
        ("--size", "48x48", "--lambdas=-4:2:10"),
        0.95,
        beside=("--epochs", "20", "--image-size", "48"),
        is_small=True,
    ),
    "mnist-large": Case(
        "mnist",
        "network:",
        ("--lambdas=-2:4:10",),
        0.995,
        network=("--network", "medium", "--augment", "crop", "--label-smoothing", "0.1", "--epochs", "8"),
        seeds=(0,),
    ),
    "cifar-large": Case(
        "cifar",
        "patches:1024,mirror++network:",
        ("--lambdas=-1:2:7",),
        0.80,
        network=(
            *("--network", "medium", "--image-size", "32", "--augment", "flip,crop", "--label-smoothing", "0.1"),
            *("--epochs", "8"),
        ),
        seeds=(0,),
    ),
    "mnist-patient": Case(
        "mnist",
        "patches:64+landmarks:8192,width=0.5",
        ("--lambdas=-4:2:10",),
        0.993,
        seeds=(0,),
        patience=16,
    ),
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
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from common.data.images import Images
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from common.console import Console
name, d, flags = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
opened = RidgeRun.open("bench", ridge_parser("").parse_arguments([*flags, "--quiet"]))
train, test = opened.problem.load(Console(quiet=True)), opened.load_test()
x, x_test = (block.pixels.reshape(len(block.labels), -1).astype(np.float32) / 255 for block in (train, test))
some = x[:1000]
squares = (some ** 2).sum(axis=1)
gamma = 1 / np.median(squares[:, None] + squares - 2 * some @ some.T)
kernels = {"RBFSampler": RBFSampler, "Nystroem": Nystroem}
started = time.perf_counter()
kernel = kernels[name](gamma=gamma, n_components=d, random_state=0)
model = make_pipeline(kernel, RidgeClassifierCV(np.logspace(-4, 2, 10)))
model.fit(x, train.labels)
fit_s = time.perf_counter() - started
print(json.dumps({"seconds": fit_s, "test_accuracy": model.score(x_test, test.labels)}))
"""


def against_sklearn(kernel: str, d: int, flags: tuple[str, ...], limit_s: float) -> dict[str, float | None]:
    """Fit a kernel of KERNELS and RidgeClassifierCV in a process of their own.

    Returns:
        "seconds" and "test_accuracy", both None if it did not finish; and "limit_s", 0 if it failed before that.
    """
    say(f"scikit-learn: {kernel} of {d:,} and RidgeClassifierCV, for at most {limit_s:.0f} s")
    words = [sys.executable, "-c", SKLEARN, kernel, str(d), *flags]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=True)
    except subprocess.TimeoutExpired:
        return {"seconds": None, "test_accuracy": None, "limit_s": limit_s}
    except subprocess.CalledProcessError as error:
        say(error.stderr.strip().splitlines()[-1] if error.stderr else f"killed by signal {-error.returncode}")
        return {"seconds": None, "test_accuracy": None, "limit_s": 0.0}
    return {**json.loads(done.stdout), "limit_s": limit_s}


def network(data: tuple[str, ...], flags: tuple[str, ...]) -> dict[str, float | None]:
    """Train the small network on two ranks."""
    say(f"the small network on 2 ranks, {' '.join(flags)}")
    found = run_ranks(2, TRAIN, *data, *flags)
    return {"seconds": found.metrics["seconds"]["total"], "test_accuracy": found.metrics["test_accuracy"]}


def fit_s(metrics: dict[str, Any]) -> float:
    """Return the seconds of all phases of FIT."""
    return float(sum(metrics["seconds"].get(phase, 0) for phase in FIT))


def fitted(case: Case, data: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Fit a case with one seed, and return the metrics of the run."""
    flags = (*data, *case.flags, "--seed", str(seed))
    if not case.network:
        return run(serial.main, *flags, "--features", case.spec)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        trained, started = Path(folder) / "network", time.perf_counter()
        training = [TRAIN, *data, *case.network, "--seed", seed, "--threads", 1, "--quiet", "--out", trained]
        launch(2, training)
        trained_s = time.perf_counter() - started
        found = run(serial.main, *flags, "--features", f"{case.spec}{trained}")
    return {**found, "seconds": {**found["seconds"], "train network": trained_s}}


def measure_set(name: str, seed: int | None) -> tuple[dict[str, Any], list[Claim]]:
    """Fit to a set, with one seed or with all, and let the alternatives try."""
    started, case = time.perf_counter(), CASES[name]
    seeds = case.seeds if seed is None else (seed,)
    with opened(case.images) as data:
        runs = []
        for number in seeds:
            say(f"{name}: {case.spec}, seed {number}")
            runs.append(fitted(case, data, number))
        print_runs(f"{name}, {case.spec}, seconds", seeds, runs)
        least = min(metrics["test_accuracy"] for metrics in runs)
        claims = [Claim.at_least(f"{name}: least test accuracy", least, case.accuracy)]
        if case.network:
            spent_s = time.perf_counter() - started
            return {"runs": runs}, [*claims, Claim.at_most("seconds in all", spent_s, LARGE_S * len(seeds))]
        ours_s = statistics.median(map(fit_s, runs))
        others = {} if case.patience else {"small network": network(data, case.beside)}
        sizes = tuple(flag for flag in case.flags if not flag.startswith("--lambdas"))
        kernels = KERNELS[:1] if case.patience else KERNELS
        for i, kernel in enumerate(kernels):
            left = LIMIT_S - (time.perf_counter() - started)
            limit_s = case.patience * ours_s + STARTING_S
            if not case.patience:
                limit_s = max(1.0, min(PATIENCE * ours_s, left / (len(kernels) - i)))
            found = against_sklearn(kernel, int(runs[0]["n_features"]), (*data, *sizes), limit_s)
            others[kernel] = found
            taken = (found["seconds"] or found["limit_s"] or 0.0) / ours_s
            # stopped before our time was over, it has shown nothing
            if not case.is_small and (found["seconds"] or limit_s >= ours_s):
                bound = case.patience - 1 if case.patience else 1
                claims.append(Claim.at_least(f"{kernel}: its time, or the time it was given / ours", taken, bound))
            if found["test_accuracy"] is not None:
                claims.append(Claim.at_least(f"our accuracy − {kernel}'s", least - found["test_accuracy"], 0))
    print_others(others, ours_s)
    return {"runs": runs, "others": others}, claims


def print_runs(title: str, seeds: tuple[int, ...], runs: list[dict[str, Any]]) -> None:
    """Print the seconds of each phase and the accuracy of each run."""
    by_phase = [metrics["seconds"] for metrics in runs]
    phases = sorted({phase for found in by_phase for phase in found})
    rows = [[phase, *(f"{found.get(phase, 0):.1f}" for found in by_phase)] for phase in phases]
    rows.append(["all of the fit", *(f"{fit_s(metrics):.1f}" for metrics in runs)])
    rows.append(["test accuracy", *(f"{metrics['test_accuracy']:.4f}" for metrics in runs)])
    print(table([title, *(f"seed {seed}" for seed in seeds)], rows))


def print_others(others: dict[str, dict[str, float | None]], ours_s: float) -> None:
    """Print what the alternatives took and reached."""
    rows = []
    for name, found in others.items():
        took, accuracy = found["seconds"], found["test_accuracy"]
        if took is None or accuracy is None:
            limit_s = found["limit_s"]
            rows.append([name, f"not finished after {limit_s:.0f}" if limit_s else "failed", "—", "—"])
        else:
            rows.append([name, f"{took:.0f}", f"{took / ours_s:.1f}", f"{accuracy:.4f}"])
    print()
    print(table(["alternative", "s", "times our fit", "test accuracy"], rows))


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
    kernel = int8_kernel()
    # without instructions for products of unsigned and signed bytes there is less to gain
    leasts = {784: 1.0, 4_096: 2.5} if kernel is not None and kernel.signed else {784: 0.9, 4_096: 1.3}
    rows, claims, measured = [], [], []
    for n_threads in sorted({1, threads}):
        limit_blas(n_threads)
        for d, least in leasts.items():
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
    flags.add_argument("--seed", type=int, choices=SEEDS, help="fit with this seed alone")
    asked = flags.parse_args()
    return conclude(asked, *(measure_moments() if asked.set == "moments" else measure_set(asked.set, asked.seed)))


if __name__ == "__main__":
    raise SystemExit(main())
