"""Which way of going parallel will be fastest: a cost model of a few terms, its constants measured here and now.

KeystoneML (Sparks et al., ICDE 2017) chooses its solvers so. What a job does is counted in images read, rows
multiplied, scores computed, matrices decomposed, bytes sent and stages scheduled; what each of these costs on this
cluster takes a second to measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from pyspark import SparkContext

from common.arrays import Floats
from common.data.images import Images, Part
from common.ridge.moments import FoldSums, packed_bytes
from common.ridge.path import RidgePath
from common.run.ridge import Experiment
from spark_jobs.engine.blocks import GATHERED_BYTES, image_parts
from spark_jobs.engine.worker_setup import settle

SAMPLE_IMAGES = 2048
"""Images to measure reading, multiplying and scoring with."""

LARGEST = 512
"""Matrices are decomposed up to this size; larger ones take the cube of the ratio longer."""

SENT_BYTES = 8 << 20
"""How much to broadcast for the measurement."""

TREE_STAGES, TEST_STAGES, OUTER_STAGES = 3, 1, 4
"""How often the driver waits for executors: to reduce moments in a tree, to score test images, in all of outer.

outer has two stages. Both come with the broadcast, upon which Python workers wait in the JVM: they count twice.
"""

MOST_BROADCAST = 1 << 30
"""Bytes of images that every worker process can be asked to hold."""


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        n: training and validation images.
        d: features of each.
        n_classes: how many classes.
        n_lambdas: how many λ.
        n_paths: how many times all λ are fitted: once, or once a fold.
        n_scored: images that validate.
        n_partitions: parts that gram deals the images out in.
        decodes: whether reading is decoding, so that gram keeps what it read.
    """

    n: int
    d: int
    n_classes: int
    n_lambdas: int
    n_paths: int
    n_scored: int
    n_partitions: int
    decodes: bool

    @classmethod
    def of(cls, context: SparkContext, experiment: Experiment) -> Work:
        """That of an experiment."""
        folds, images = experiment.arguments.folds, experiment.train
        return cls(
            n=len(images),
            d=images.n_features,
            n_classes=experiment.n_classes,
            n_lambdas=len(experiment.lambdas),
            n_paths=folds or 1,
            n_scored=len(images) if folds else round(experiment.arguments.validation * len(images)),
            n_partitions=len(image_parts(context, images, None, experiment.moments_bytes)),
            decodes=images.decodes,
        )

    @property
    def groups(self) -> int:
        """How many folds have moments of their own, those always in training among them."""
        return max(2, self.n_paths)


@dataclass(frozen=True)
class Costs:
    """What things cost here, in seconds.

    Attributes:
        cores: that work at the same time.
        stage: to schedule one stage and hear of its end.
        read: to read an image, on one core.
        multiply: to add an image to the moments.
        score: to score an image at one of all λ together, all classes.
        score_alone: to score it at one λ alone.
        decompose: eigenvalues and vectors of the Gram matrix.
        solve: one linear system with it.
        product: the Gram matrix times a matrix of its size, on one core.
        send: a byte from the driver into a worker process.
    """

    cores: int
    stage: float
    read: float
    multiply: float
    score: float
    score_alone: float
    decompose: float
    solve: float
    product: float
    send: float

    @classmethod
    def measure(cls, context: SparkContext, experiment: Experiment) -> Costs:
        """Measure on one executor what executors do, and here what the driver does."""
        images, cores = experiment.train, context.defaultParallelism
        part, n_classes, n_lambdas = _sample(images), experiment.n_classes, len(experiment.lambdas)
        each = range(cores)
        context.parallelize(each, cores).foreach(_warm_up)
        stage = _seconds(lambda: context.parallelize(each, cores).count())
        sent = context.broadcast(np.zeros(SENT_BYTES, np.uint8))
        send = _seconds(
            lambda: context.parallelize(each, cores).map(lambda _: len(sent.value)).collect(), repeats=1
        )
        sent.destroy()
        on_worker = context.parallelize([part], 1).map(lambda own: _on_worker(own, n_classes, n_lambdas)).first()
        d = images.n_features
        size = min(d, LARGEST)
        noise = np.random.default_rng(0).normal(size=(size, size))
        gram, right = noise @ noise.T, np.ones((size, n_classes))
        cube = (d / size) ** 3
        return cls(
            cores=cores,
            stage=stage,
            read=on_worker.read,
            multiply=on_worker.multiply,
            score=on_worker.score,
            score_alone=on_worker.score_alone,
            decompose=cube * _seconds(lambda: np.linalg.eigh(gram)),
            solve=cube * _seconds(lambda: np.linalg.solve(gram, right)),
            product=cube * on_worker.product,
            send=max(send - stage, 0) / SENT_BYTES,
        )


class OnWorker(NamedTuple):
    """What a worker measured: see Costs."""

    read: float
    multiply: float
    score: float
    score_alone: float
    product: float


def _sample(images: Images) -> Part:
    """A part of about SAMPLE_IMAGES images."""
    return images.parts(max(1, len(images) // SAMPLE_IMAGES))[0]


def _warm_up(_: int) -> None:
    settle()


def _on_worker(part: Part, n_classes: int, n_lambdas: int) -> OnWorker:
    block = next(iter(part.blocks()))
    read = _seconds(lambda: next(iter(part.blocks())))  # again: a packed file is unpacked once a process
    n, d = max(1, len(block.labels)), int(np.prod(block.pixels.shape[1:]))

    def score(count: int) -> float:
        weights = np.random.default_rng(0).normal(size=(count, d, n_classes))
        path = RidgePath(weights, np.zeros((count, n_classes)))
        path.count_correct(block.pixels[:1], block.labels[:1])  # prepares the weights
        return _seconds(lambda: path.count_correct(block.pixels, block.labels)) / n / count

    def multiply() -> None:
        sums = FoldSums(n_classes)
        sums.add(block.pixels, block.labels, block.folds)
        sums.result()

    size = min(d, LARGEST)
    square: Floats = np.ones((size, size))
    return OnWorker(
        read / n,
        _seconds(multiply) / n,
        score(n_lambdas),
        score(1),
        _seconds(lambda: square @ square),
    )


def _seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _moments(w: Work, c: Costs) -> float:
    """Read all images and reduce their moments: at the driver, or in two levels of a tree to one record."""
    size = w.groups * packed_bytes(w.d, w.n_classes)
    summed = w.n * (c.read + c.multiply) / c.cores
    if w.n_partitions * size <= GATHERED_BYTES:
        return summed + c.stage + w.n_partitions * size * c.send
    rounds = ceil(w.n_partitions / c.cores)
    return summed + TREE_STAGES * c.stage + (rounds + 2) * 2 * size * c.send


def _validate(w: Work, c: Costs, score: float) -> float:
    """Read images again, or out of the store, and score those that validate."""
    again = w.d * c.send if w.decodes else c.read
    return c.stage + (w.n * again + w.n_scored * score) / c.cores


def gram_seconds(w: Work, c: Costs) -> float:
    """One pass for the moments, all λ on the driver, one pass to score them together."""
    validate = _validate(w, c, w.n_lambdas * c.score)
    return _moments(w, c) + w.n_paths * c.decompose + validate + c.solve + TEST_STAGES * c.stage


def inner_seconds(w: Work, c: Costs) -> float:
    """The same moments; then for each λ an inverse spread over the executors, and a pass to score it."""
    shared = w.n_paths * (c.decompose + 8 * w.d**2 * c.send)
    one = w.n_paths * (c.stage + c.product / c.cores) + _validate(w, c, c.score_alone)
    refit = c.decompose + c.stage + c.product / c.cores
    return _moments(w, c) + shared + w.n_lambdas * one + refit + TEST_STAGES * c.stage


def outer_seconds(w: Work, c: Costs) -> float:
    """The driver reads, each worker gets all images and sums them, and λ are solved and scored side by side."""
    if w.n * w.d > MOST_BROADCAST:
        return float("inf")
    each = w.n_paths * c.solve + w.n_scored * c.score_alone
    fit = ceil(w.n_lambdas / c.cores) * each + c.solve
    return w.n * (c.read + w.d * c.send + c.multiply) + fit + OUTER_STAGES * c.stage


STRATEGIES: dict[str, Callable[[Work, Costs], float]] = {
    "gram": gram_seconds,
    "outer": outer_seconds,
    "inner": inner_seconds,
}


class Choice(NamedTuple):
    """The strategy that should be fastest, and what each would take, in seconds."""

    strategy: str
    seconds: dict[str, float]


def choose(work: Work, costs: Costs) -> Choice:
    """Compare the strategies."""
    seconds = {name: predict(work, costs) for name, predict in STRATEGIES.items()}
    return Choice(min(seconds, key=lambda name: seconds[name]), seconds)


def reasons(choice: Choice, work: Work, costs: Costs) -> Iterator[str]:
    """Why, in lines for people."""
    others = ", ".join(
        f"{name} {value:.2f} s" if value < float("inf") else f"{name} impossible"
        for name, value in sorted(choice.seconds.items(), key=lambda item: item[1])
        if name != choice.strategy
    )
    yield f"strategy {choice.strategy}: about {choice.seconds[choice.strategy]:.2f} s of work; {others}"
    alone = work.n * (costs.read + costs.multiply)
    yield (
        f"  {work.n:,} images of {work.d:,} features take one core {alone:.2g} s to read and sum: "
        f"outer does it in each of {costs.cores} workers, gram once over all"
    )
    if work.n * work.d > MOST_BROADCAST:
        yield f"  outer would send {work.n * work.d / 2**30:.1f} GiB to each worker: too much"
    yield (
        f"  a stage takes {1000 * costs.stage:.0f} ms to schedule, "
        f"a factorisation for all λ {costs.decompose:.2g} s, a solve for one {costs.solve:.2g} s"
    )
