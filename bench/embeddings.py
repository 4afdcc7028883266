"""`python -m bench.embeddings`: deep features in front of the ridge classifier, in one run.

1. Accuracy on apple leaves and on hands, a fifth of the images held out for the test: square roots of what
   EfficientNet-Lite0 makes of images, and for hands that network trained further by train_cnn.py; validation
   chooses. Beside it, the small network from scratch. Networks are trained on two ranks.
2. Images per second and core of embeddings: ours on Spark's executors and on MPI ranks, bare onnxruntime, and
   torch, one thread each, on the same decoded images. Two workers against one.
3. A refit to 50,000 embeddings, ten λ and five folds, against scikit-learn's RidgeClassifierCV and
   LogisticRegressionCV, each stopped after LIMIT_S.

Data: apple-leaves and hands under IMAGE_DATA_ROOT (default: data).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from pyspark import SparkContext

from bench.harness import Claim, main, say, table
from bench.jobs import run
from bench.ranks import DATA_PARALLEL, ROOT
from bench.ranks import run as run_ranks
from common.arrays import Features, Labels, Pixels
from common.blas import limit_blas
from common.data.decode import PixelFormat
from common.data.images import Block
from common.data.labelled import open_splits
from common.features.network import NetworkFeatures
from common.features.network_file import BATCH, NetworkFile, NetworkRequest
from common.features.pixels import PIXELS
from common.nets.backbones import backbone
from common.nets.pretrained import EFFICIENTNET
from common.ridge.moments import FoldSums, total, training_moments
from common.ridge.path import best_lambda, ridge_fit, ridge_path
from common.ridge.scoring import validate
from common.run.features import network_file
from spark_jobs import serial
from spark_jobs.engine.session import configuration

DATA = Path(os.environ.get("IMAGE_DATA_ROOT", "data"))
NETWORK = f"network:{EFFICIENTNET}"
SPECS = (f"{NETWORK},root",)


class Case(NamedTuple):
    """A set of images.

    Attributes:
        epochs: of the small network.
        least: the least accuracy that is claimed.
        tuned: whether to train EfficientNet-Lite0 further.
    """

    epochs: int
    least: float
    tuned: bool


SETS = {"apple-leaves": Case(12, 0.985, False), "hands": Case(20, 0.97, True)}
TUNED = (
    *("--network", EFFICIENTNET, "--pretrained", "--image-size", "96", "--epochs", "10"),
    *("--head", "ridge", "--lr", "0.001", "--augment", "crop"),
)

TRAIN = ROOT / "mpi_jobs" / "train_cnn.py"
IMAGES = 128
ROUNDS = 3
ROWS, WIDTH, CLASSES, FOLDS = 50_000, 1_280, 10, 5
LAMBDAS = np.logspace(-4, 5, 10)
LIMIT_S = 150


def accuracy(name: str) -> tuple[list[dict[str, Any]], list[Claim]]:
    """Fit deep features to a set, and train networks on it: the small one, and where it pays, a pretrained one."""
    case, data = SETS[name], ("--data", f"folder:{DATA / name}")
    rows, tried = [], []

    def note(what: str, seconds: float, validation: float, test: float) -> None:
        tried.append((validation, test))
        rows.append({"set": name, "what": what, "s": seconds, "validation": validation, "test": test})

    for spec in SPECS:
        say(f"{name}: {spec}")
        started = time.perf_counter()
        found = run(serial.main, *data, "--features", spec, "--lambdas=-3:4:15")
        taken = time.perf_counter() - started
        note(spec, taken, max(found["validation_accuracy"]), found["test_accuracy"])
    if case.tuned:
        say(f"{name}: EfficientNet-Lite0, trained further")
        tuned = run_ranks(2, TRAIN, *data, *TUNED)
        note(
            "EfficientNet-Lite0, trained further",
            tuned.wall_s,
            best(tuned.metrics),
            tuned.metrics["test_accuracy"],
        )
    say(f"{name}: the small network")
    flags = ("--image-size", "64", "--epochs", str(case.epochs), "--augment", "crop")
    small = run_ranks(2, TRAIN, *data, *flags)
    chosen = max(tried, key=lambda one: one[0])[1]
    note("small network from scratch", small.wall_s, best(small.metrics), small.metrics["test_accuracy"])
    less = chosen - small.metrics["test_accuracy"]
    claims = [
        Claim.at_least(f"{name}: test accuracy of the pretrained, chosen on validation", chosen, case.least),
        Claim.at_least(f"{name}: that less the small network's", less, 0),
    ]
    return rows, claims


def best(metrics: dict[str, Any]) -> float:
    """Return the best validation accuracy of a network."""
    return max(float(epoch["validation_accuracy"]) for epoch in metrics["epochs"])


def pixels() -> Pixels:
    """Return decoded photographs of leaves, as the network takes them."""
    train, _ = open_splits(f"folder:{DATA / 'apple-leaves'}", pixel_format=PixelFormat((224, 224)))
    return train.sample(IMAGES, 0).pixels


def network() -> NetworkFeatures:
    """Return the map, on one scale whatever the images."""
    return NetworkFeatures(network_file(NetworkRequest(EFFICIENTNET)), WIDTH, 0.0, 50.0, root=False)


def rates() -> tuple[dict[str, list[float]], list[Claim]]:
    """Measure images per second, round by round, in this process and on engines."""
    images, features = pixels(), network()
    torch_network, file = backbone(EFFICIENTNET), features.network
    limit_blas(1)
    torch.set_num_threads(1)
    ways: dict[str, Callable[[], object]] = {
        "onnxruntime": bare(file, images),
        "torch": lambda: [torch_network.embed(images[i : i + BATCH]) for i in range(0, len(images), BATCH)],
        "ours": lambda: features(images),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for turn in range(ROUNDS):
        say(f"embeddings, round {turn + 1} of {ROUNDS}")
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            found[name].append(len(images) / (time.perf_counter() - started))
    for workers in (1, 2):
        say(f"embeddings by {workers} workers")
        found[f"MPI, {workers}"] = [on_mpi(workers)] * ROUNDS
        found[f"Spark, {workers}"] = on_spark(workers, images, features)
    print_rates(found)
    claims = [Claim.at_least("one core: ours / torch", ratio(found, "ours", "torch"), 2)]
    for engine in ("MPI", "Spark"):
        one, two = f"{engine}, 1", f"{engine}, 2"
        claims.append(Claim.at_least(f"{one} / onnxruntime", ratio(found, one, "onnxruntime"), 0.9))
        claims.append(Claim.at_least(f"{two} / {one}", ratio(found, two, one), 1.7))
    return found, claims


def bare(file: NetworkFile, images: Pixels) -> Callable[[], object]:
    """Return what embeds images by onnxruntime alone; they are normalised before."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.model.tobytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = np.ascontiguousarray((images.astype(np.float32) / 255).transpose(0, 3, 1, 2))
    return lambda: [session.run(None, {name: x[i : i + BATCH]}) for i in range(0, len(x), BATCH)]


def on_mpi(ranks: int) -> float:
    """Return images per second of all ranks together, by a job's phase of features and moments."""
    data = ("--data", f"folder:{DATA / 'apple-leaves'}", "--limit", str(IMAGES * ranks), "--lambdas", "1")
    metrics = run_ranks(ranks, DATA_PARALLEL, *data, "--features", NETWORK).metrics
    return float(sum(rank["images"] / rank["seconds"]["moments"] for rank in metrics["ranks"]))


def on_spark(cores: int, images: Pixels, features: NetworkFeatures) -> list[float]:
    """Return images per second of all executors' cores, in rounds, by the clocks of their tasks."""

    def rate(part: Pixels) -> float:
        started = time.perf_counter()
        features(part)
        return len(part) / (time.perf_counter() - started)

    conf = configuration("bench", live=False).setMaster(f"local[{cores}]").set("spark.ui.enabled", "false")
    with SparkContext(conf=conf) as context:
        rates = context.parallelize([images] * cores, cores).map(rate)
        rates.collect()  # workers start, and load the network
        return [sum(rates.collect()) for _ in range(ROUNDS)]


def ratio(found: dict[str, list[float]], fast: str, slow: str) -> float:
    """Return the median over rounds of one rate over another's."""
    return statistics.median(a / b for a, b in zip(found[fast], found[slow], strict=True))


def print_rates(found: dict[str, list[float]]) -> None:
    """Print the table of rates."""
    rows = [[name, f"{statistics.median(rounds):.1f}"] for name, rounds in found.items()]
    print(table(["embeddings, workers of one core", "images/s"], rows))


REFIT = """
import json, sys, time
import numpy as np
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from bench.embeddings import FOLDS, LAMBDAS, embeddings
x, y = embeddings(int(sys.argv[2]))
x = x.astype(np.float32) / 255
ridge = sys.argv[1] == "RidgeClassifierCV"
model = RidgeClassifierCV(LAMBDAS, cv=FOLDS) if ridge else LogisticRegressionCV(cv=FOLDS)
started = time.perf_counter()
model.fit(x[::2], y[::2])
print(json.dumps({"s": time.perf_counter() - started, "test": model.score(x[1::2], y[1::2])}))
"""


def embeddings(rows: int) -> tuple[Features, Labels]:
    """Return twice so many images like embeddings, uint8 (n, WIDTH), half of their values 0; and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 2 * rows)
    centres = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    noise = rng.standard_normal((2 * rows, WIDTH), np.float32)
    noise *= 10
    noise += centres[labels]
    return np.clip(noise * 12, 0, 255).astype(np.uint8), labels


def refit() -> tuple[dict[str, Any], list[Claim]]:
    """Fit ten λ and five folds to stored embeddings, and let scikit-learn try."""
    say("a refit to stored embeddings")
    x, labels = embeddings(ROWS)
    folds = (np.arange(len(x) // 2) % FOLDS).astype(np.int16)
    limit_blas(os.cpu_count() or 1)
    started = time.perf_counter()
    sums = FoldSums(CLASSES)
    train = Block(x[::2].reshape(-1, 1, 1, WIDTH), labels[::2], folds, None, [])
    sums.add_block(train)
    moments = sums.result()
    correct = np.zeros(len(LAMBDAS), np.int64)
    for fold, others in training_moments(moments).items():
        correct += validate({fold: ridge_path(others, LAMBDAS.tolist())}, PIXELS, [train])[1]
    best = LAMBDAS[best_lambda(correct, LAMBDAS.tolist())]
    path = ridge_fit(total(moments), float(best))
    ours_s = time.perf_counter() - started
    ours = float(path.count_correct(x[1::2], labels[1::2])[0]) / ROWS
    found: dict[str, Any] = {"ours": {"s": ours_s, "test": ours}}
    claims = []
    for name, least in (("RidgeClassifierCV", 10), ("LogisticRegressionCV", 50)):
        say(f"scikit-learn's {name}, for at most {LIMIT_S} s")
        words = [sys.executable, "-c", REFIT, name, str(ROWS)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True)
            found[name] = json.loads(done.stdout)
            claims.append(Claim.at_least(f"ours less {name}'s test accuracy", ours - found[name]["test"], -0.001))
        except subprocess.TimeoutExpired:
            found[name] = {"s": None, "test": None}
        taken = (found[name]["s"] or LIMIT_S) / ours_s
        claims.append(Claim.at_least(f"{name}, or the time it was given / ours", taken, least))
    rows = [
        [name, f"{of['s']:.1f}" if of["s"] else f"over {LIMIT_S}", f"{of['test']:.4f}" if of["test"] else "—"]
        for name, of in found.items()
    ]
    print(table([f"{ROWS:,} × {WIDTH:,}, {len(LAMBDAS)} λ, {FOLDS} folds", "s", "test accuracy"], rows))
    return found, claims


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the tables and return what was measured and the claims."""
    measured_refit, claims = refit()
    measured_rates, of_rates = rates()
    claims += of_rates
    fits: list[dict[str, Any]] = []
    for name in SETS:
        rows, of_set = accuracy(name)
        fits += rows
        claims += of_set
    shown = []
    for row in fits:
        shares = (f"{row[key]:.4f}" for key in ("validation", "test"))
        shown.append([row["set"], row["what"], f"{row['s']:.0f}", *shares])
    print(table(["images", "by", "s", "validation", "test"], shown))
    return {"refit": measured_refit, "rates": measured_rates, "fits": fits}, claims


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
