"""A cost model that predicts which strategy will be fastest, with constants measured on this cluster.

KeystoneML (Sparks et al., ICDE 2017) chooses its solvers in this way. The work of a job is counted in images read,
rows multiplied, scores computed, matrices decomposed, bytes sent and stages scheduled. Measuring what each of
these costs takes about a second.
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
from common.features.augmentation import Augmentation
from common.features.feature_map import FeatureMap
from common.ridge.fit import Problem
from common.ridge.kept import features_of
from common.ridge.moments import FoldSums, packed_bytes
from common.ridge.path import RidgePath
from spark_jobs.engine.blocks import GATHERED_BYTES, image_parts
from spark_jobs.engine.worker_setup import settle

SAMPLE_IMAGES = 2048
"""The number of images to measure reading, multiplying and scoring with."""

LARGEST = 512
"""The largest matrix that is decomposed for the measurement; larger ones take the cube of the ratio longer."""

SENT_BYTES = 8 << 20
"""The number of bytes to broadcast for the measurement."""

TREE_STAGES, TEST_STAGES, OUTER_STAGES = 3, 1, 4
"""How often the driver waits for executors: to reduce moments in a tree, to score test images, in all of outer.

outer has two stages. Both carry the broadcast, and Python workers wait for it in the JVM, so they count twice.
"""

MOST_BROADCAST = 1 << 30
"""The largest size of images that every worker process can be asked to hold."""


@dataclass(frozen=True)
class Work:
    """The amount of work in a problem.

    Attributes:
        n: the number of training and validation images.
        d: the number of features per image.
        n_pixels: the number of bytes per image.
        n_classes: the number of classes.
        n_lambdas: the number of λ.
        n_paths: how often all λ are fitted: once, or once per fold.
        n_scored: the number of held-out images.
        n_partitions: the number of partitions of gram.
        decodes: True if reading means decoding, so that gram keeps what it read.
    """

    n: int
    d: int
    n_pixels: int
    n_classes: int
    n_lambdas: int
    n_paths: int
    n_scored: int
    n_partitions: int
    decodes: bool

    @classmethod
    def of(cls, context: SparkContext, problem: Problem) -> Work:
        """Count the work of a problem."""
        images, rule = problem.images, problem.rule
        return cls(
            n=len(images),
            d=problem.n_features,
            n_pixels=images.n_pixels,
            n_classes=problem.n_classes,
            n_lambdas=len(problem.lambdas),
            n_paths=rule.k or 1,
            n_scored=len(images) if rule.k else round(rule.validation * len(images)),
            n_partitions=len(image_parts(context, images, None, problem.moments_bytes)),
            decodes=images.decodes,
        )

    @property
    def groups(self) -> int:
        """The number of moments that gram sums: one per fold, the images that always train included."""
        return max(2, self.n_paths)


@dataclass(frozen=True)
class Costs:
    """The costs of operations on this cluster, in seconds.

    Attributes:
        cores: the number of cores that work at the same time.
        stage: scheduling one stage and learning of its end.
        read: reading an image, on one core.
        multiply: computing the features of an image and adding it to the moments, on one core.
        score: scoring an image at one λ, all classes, when all λ are scored together.
        score_alone: scoring an image at one λ alone.
        decompose: the eigendecomposition of the Gram matrix.
        solve: solving one linear system with the Gram matrix.
        product: multiplying the Gram matrix by a matrix of its size, on one core.
        send: sending a byte from the driver into a worker process.
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
    def measure(cls, context: SparkContext, problem: Problem) -> Costs:
        """Measure the work of executors on one executor, and the work of the driver here."""
        cores = context.defaultParallelism
        part, n_classes, n_lambdas = _sample(problem.images), problem.n_classes, len(problem.lambdas)
        features, augmentation = problem.features, problem.augmentation
        each = range(cores)
        context.parallelize(each, cores).foreach(_warm_up)
        stage = _seconds(lambda: context.parallelize(each, cores).count())
        sent = context.broadcast(np.zeros(SENT_BYTES, np.uint8))
        send = _seconds(
            lambda: context.parallelize(each, cores).map(lambda _: len(sent.value)).collect(), repeats=1
        )
        sent.destroy()
        sample = context.parallelize([part], 1)
        on_worker = sample.map(lambda own: _on_worker(own, features, augmentation, n_classes, n_lambdas)).first()
        d = problem.n_features
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
    """Costs that a worker measured; see Costs."""

    read: float
    multiply: float
    score: float
    score_alone: float
    product: float


def _sample(images: Images) -> Part:
    """Return a part of about SAMPLE_IMAGES images."""
    return images.parts(max(1, len(images) // SAMPLE_IMAGES))[0]


def _warm_up(_: int) -> None:
    settle()


def _on_worker(
    part: Part, features: FeatureMap, augmentation: Augmentation, n_classes: int, n_lambdas: int
) -> OnWorker:
    block = next(iter(part.blocks(names=not features.exact)))
    read = _seconds(lambda: next(iter(part.blocks())))  # a second time: each process unpacks an IDX file once
    x = features_of(block, slice(None), features)
    n, d = max(1, len(x)), x.shape[1]

    def score(count: int) -> float:
        weights = np.random.default_rng(0).normal(size=(count, d, n_classes))
        path = RidgePath(weights, np.zeros((count, n_classes)))
        path.count_correct(x[:1], block.labels[:1])  # prepares the weights
        return _seconds(lambda: path.count_correct(x, block.labels)) / n / count

    def multiply() -> None:
        sums = FoldSums(n_classes, features, augmentation)
        sums.add_block(block)
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
    """Return the shortest time of a few runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def _moments(w: Work, c: Costs) -> float:
    """Predict reading all images and reducing their moments, at the driver or in a tree of two levels."""
    size = w.groups * packed_bytes(w.d, w.n_classes)
    summed = w.n * (c.read + c.multiply) / c.cores
    if w.n_partitions * size <= GATHERED_BYTES:
        return summed + c.stage + w.n_partitions * size * c.send
    rounds = ceil(w.n_partitions / c.cores)
    return summed + TREE_STAGES * c.stage + (rounds + 2) * 2 * size * c.send


def _validate(w: Work, c: Costs, score: float) -> float:
    """Predict reading images again, from their source or Spark's store, and scoring those held out."""
    again = w.n_pixels * c.send if w.decodes else c.read
    return c.stage + (w.n * again + w.n_scored * score) / c.cores


def gram_seconds(w: Work, c: Costs) -> float:
    """Predict gram: a pass for the moments, all λ on the driver, a pass to score them together."""
    validate = _validate(w, c, w.n_lambdas * c.score)
    return _moments(w, c) + w.n_paths * c.decompose + validate + c.solve + TEST_STAGES * c.stage


def inner_seconds(w: Work, c: Costs) -> float:
    """Predict inner: a pass for the moments; then per λ an inverse on the executors and a pass to score it."""
    shared = w.n_paths * (c.decompose + 8 * w.d**2 * c.send)
    one = w.n_paths * (c.stage + c.product / c.cores) + _validate(w, c, c.score_alone)
    refit = c.decompose + c.stage + c.product / c.cores
    return _moments(w, c) + shared + w.n_lambdas * one + refit + TEST_STAGES * c.stage


def outer_seconds(w: Work, c: Costs) -> float:
    """Predict outer: the driver reads, every worker receives and sums all images, and λ run in parallel."""
    if w.n * w.n_pixels > MOST_BROADCAST:
        return float("inf")
    each = w.n_paths * c.solve + w.n_scored * c.score_alone
    fit = ceil(w.n_lambdas / c.cores) * each + c.solve
    return w.n * (c.read + w.n_pixels * c.send + c.multiply) + fit + OUTER_STAGES * c.stage


STRATEGIES: dict[str, Callable[[Work, Costs], float]] = {
    "gram": gram_seconds,
    "outer": outer_seconds,
    "inner": inner_seconds,
}


class Choice(NamedTuple):
    """The strategy predicted to be fastest, and the predicted seconds of each."""

    strategy: str
    seconds: dict[str, float]


def choose(work: Work, costs: Costs) -> Choice:
    """Predict the time of each strategy, and choose the shortest."""
    seconds = {name: predict(work, costs) for name, predict in STRATEGIES.items()}
    return Choice(min(seconds, key=lambda name: seconds[name]), seconds)


def reasons(choice: Choice, work: Work, costs: Costs) -> Iterator[str]:
    """Explain the choice in lines of text."""
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
    if work.n * work.n_pixels > MOST_BROADCAST:
        yield f"  outer would send {work.n * work.n_pixels / 2**30:.1f} GiB to each worker: too much"
    yield (
        f"  a stage takes {1000 * costs.stage:.0f} ms to schedule, "
        f"a factorisation for all λ {costs.decompose:.2g} s, a solve for one {costs.solve:.2g} s"
    )
