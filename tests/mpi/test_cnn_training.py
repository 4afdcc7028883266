"""Training on all ranks together compared with training on one of them alone."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from mpi4py import MPI
from torch import nn
from torch.nn.functional import cross_entropy

from common.data.catalogue import Catalogue, ReadResult, Skipped
from common.data.decode import PixelFormat
from common.data.sources.arrays import ArrayReader
from common.errors import InputError
from common.nets.checkpoints import Progress
from common.nets.classifier import Classifier
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.training.loading import Loader, PixelCache
from mpi_jobs.training.optimisers import Optimiser, Schedule
from mpi_jobs.training.order import Order, deal
from mpi_jobs.training.replica import ExchangeSettings, Replica
from mpi_jobs.training.scoring import evaluate
from mpi_jobs.training.trainer import Trainer, TrainingSettings

SPEC = NetworkSpec("small", 1, 8, 8, 3, batch_norm=False)
PREPROCESSING = Preprocessing.for_channels(PixelFormat(), 1)
CPU = torch.device("cpu")


class Damaged(ArrayReader):
    """A reader that skips every seventh image, and claims to decode."""

    decodes = True
    n_read: ClassVar[int] = 0

    def read(self, items: np.ndarray) -> ReadResult:
        Damaged.n_read += len(items)
        kept = np.flatnonzero(items % 7 != 3)
        skipped = [Skipped(self.name(item), "damaged") for item in items if item % 7 == 3]
        return ReadResult(self.pixels[items[kept]], kept, skipped)


def catalogue(n: int, reader: type[ArrayReader] = ArrayReader, side: int = 8) -> Catalogue:
    rng = np.random.default_rng(1)
    labels = np.arange(n) % 3
    pixels = rng.integers(0, 120, (n, 8, 8, 1), np.uint8)
    pixels[np.arange(n), 2 * labels] += 130
    return Catalogue(reader("made", pixels[:, :side, :side]), np.arange(n), labels, ("a", "b", "c"))


def trainer(
    world: World, images: Catalogue, batch: int, spec: NetworkSpec = SPEC, max_corrupt: float = 1.0
) -> tuple[Trainer, Classifier, Loader, Order]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    classifier = Classifier(spec, build(spec), PREPROCESSING, images.class_names, CPU)
    classifier.network.to(torch.float64)
    copy = Replica(world, classifier.network, 2, ExchangeSettings())
    order = Order(len(images), batch, world.size, 5)
    loader = Loader(images.reader, 2)
    settings = TrainingSettings(5, 0.1, max_corrupt, 1e9)
    schedule = Schedule("adam", 1e-3, batch, 100, 3, "cosine")
    optimiser = Optimiser("adam", copy.slices, 0, 0)
    made = Trainer(world, classifier, copy, optimiser, schedule, order, loader, settings)
    return made, classifier, loader, order


def train(world: World, images: Catalogue, made: Trainer, order: Order, epochs: int) -> None:
    numbers = np.arange(len(images))
    for epoch in range(epochs):
        shares = deal(world, order, images if world.is_root else None, numbers if world.is_root else None, epoch)
        made.epoch(shares, None, lambda: None, lambda _: None)
        made.gather()
        made.end_epoch(None)


@pytest.mark.parametrize("batch", [5, 20])
def test_no_number_of_images_hangs(world: World, batch: int) -> None:
    for n in range(20, 21 + batch, 1 if world.size == 4 else 4):  # every remainder of a last step
        images = catalogue(n)
        made, _, loader, order = trainer(world, images, batch)
        train(world, images, made, order, 1)
        loader.close()
        assert made.progress.updates == -(-n // batch)
        assert sum(world.all_gather(made.images)) == n


def test_parameters_are_those_of_one_rank_alone(world: World) -> None:
    for damaged in (False, True):
        images = catalogue(61, Damaged if damaged else ArrayReader)
        found = []
        for ranks in (world, World(MPI.COMM_SELF)):
            made, classifier, loader, order = trainer(ranks, images, 16)
            train(ranks, images, made, order, 5)
            loader.close()
            assert made.progress.updates == 20
            found.append((torch.cat([p.detach().reshape(-1) for p in classifier.network.parameters()]), made))
        (together, a), (alone, b) = found
        assert (together - alone).norm() <= 1e-10 * alone.norm()
        assert a.progress.history[-1]["loss"] == pytest.approx(b.progress.history[-1]["loss"], rel=1e-10)
        assert a.progress.history[-1]["accuracy"] == b.progress.history[-1]["accuracy"]
        assert a.progress.skipped == b.progress.skipped
        assert len(a.progress.skipped) == (9 if damaged else 0)


def test_a_step_is_the_gradient_of_the_mean_over_usable_images(world: World) -> None:
    """One step of plain SGD at a rate of one is the gradient itself."""
    images = catalogue(23, Damaged)
    made, classifier, loader, order = trainer(world, images, 23)
    before = [p.detach().clone() for p in classifier.network.parameters()]
    copy = made._replica
    made._optimiser = Optimiser("sgd", [part._replace(states=part.states[:1]) for part in copy.slices], 0.0, 0.0)
    made._schedule = Schedule("sgd", 1.0, 128, 10, 0, "constant")
    train(world, images, made, order, 1)
    loader.close()
    torch.manual_seed(0)
    alone = build(SPEC).to(torch.float64)
    read = images.reader.read(images.items)
    pixels = torch.from_numpy(read.pixels[..., 0] / 255.0)[:, None]
    logits = alone((pixels - PREPROCESSING.mean[0]) / PREPROCESSING.deviation[0])
    cross_entropy(logits, torch.from_numpy(images.labels[read.kept]), label_smoothing=0.1).backward()
    for was, now, truth in zip(before, classifier.network.parameters(), alone.parameters(), strict=True):
        assert truth.grad is not None
        assert ((was - now) - truth.grad).norm() <= 1e-10 * max(truth.grad.norm(), 1e-3)


def test_too_many_unusable_images_stop_all_ranks(world: World) -> None:
    images = catalogue(61, Damaged)
    made, _, loader, order = trainer(world, images, 16, max_corrupt=0.05)
    with pytest.raises(AgreedError, match="of 61 training images cannot be used") as caught:
        train(world, images, made, order, 1)
    assert caught.value.exit_code == InputError.exit_code == 2
    loader.close()


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own(world: World) -> None:
    orders = []
    for ranks in (1, 2, 3, 5):
        order = Order(47, 10, ranks, 3)
        epoch = order.epoch(2)
        parts = [[epoch[order.share(step, rank)] for rank in range(ranks)] for step in range(order.steps)]
        assert [sum(map(len, step)) for step in parts] == [order.step_size(s) for s in range(order.steps)]
        assert max(max(map(len, step)) - min(map(len, step)) for step in parts) <= 1
        orders.append([np.sort(np.concatenate(step)).tolist() for step in parts])
    assert all(steps == orders[0] for steps in orders)  # a step is the same images for any number of ranks
    assert sorted(number for step in orders[0] for number in step) == list(range(47))
    assert not np.array_equal(Order(47, 10, 1, 3).epoch(0), Order(47, 10, 1, 3).epoch(1))
    assert not np.array_equal(Order(47, 10, 1, 3).epoch(0), Order(47, 10, 1, 4).epoch(0))


def test_only_a_ranks_own_names_are_dealt_out(world: World) -> None:
    images = catalogue(30)
    order = Order(30, 7, world.size, 0)
    shares = deal(world, order, images if world.is_root else None, np.arange(30) if world.is_root else None, 4, 2)
    assert len(shares) == order.steps - 2
    expected = [order.epoch(4)[order.share(step, world.rank)] for step in range(2, order.steps)]
    for share, numbers in zip(shares, expected, strict=True):
        assert np.array_equal(share.numbers, numbers)
        assert np.array_equal(share.labels, numbers % 3)


def test_scores_are_those_of_one_rank_alone(world: World) -> None:
    images = catalogue(61, Damaged)
    _, classifier, loader, _ = trainer(world, images, 16)
    found = []
    for ranks in (world, World(MPI.COMM_SELF)):
        order = Order(61, 8, ranks.size, None)
        numbers = np.arange(61) if ranks.is_root else None
        shares = deal(ranks, order, images if ranks.is_root else None, numbers)
        found.append(evaluate(ranks, classifier, loader, shares, lambda _: None))
    loader.close()
    (together, skipped), (alone, skipped_alone) = found
    assert sorted(skipped) == sorted(skipped_alone)
    assert alone is not None
    if world.is_root:
        assert together is not None
        assert together.loss == pytest.approx(alone.loss, rel=1e-12)
        assert together.evaluation.near == alone.evaluation.near == 61 - len(skipped)
        assert np.array_equal(together.evaluation.confusion.counts, alone.evaluation.confusion.counts)
        assert [m.name for m in together.evaluation.mistakes] == [m.name for m in alone.evaluation.mistakes]


def test_running_averages_are_averaged_over_the_ranks_that_saw_images(world: World) -> None:
    images = catalogue(24)
    made, classifier, loader, _ = trainer(world, images, 24, SPEC._replace(batch_norm=True))
    norm = next(m for m in classifier.network.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean.fill_(world.rank)
    made.progress.images = [rank + 1 for rank in range(world.size)]
    made.average_buffers()
    ranks = np.arange(world.size)
    assert norm.running_mean[0].item() == pytest.approx(np.average(ranks, weights=ranks + 1))
    loader.close()


def test_one_image_is_enough_for_a_network_that_normalises_by_batch(world: World) -> None:
    """The medium network ends at 1×1 pixels here, and a single image has no variance for batch norm to take."""
    spec = NetworkSpec("medium", 1, 7, 7, 3)
    images = catalogue(world.size + 1, side=7)
    made, _, loader, order = trainer(world, images, world.size, spec)
    assert made._fragile
    numbers = np.arange(len(images)) if world.is_root else None
    shares = deal(world, order, images if world.is_root else None, numbers)
    assert {len(share.labels) for share in shares} <= {0, 1}
    made.epoch(shares, None, lambda: None, lambda _: None)
    loader.close()
    assert made.progress.step == order.steps


def usable_below(n: int) -> int:
    return int((np.arange(n) % 7 != 3).sum())


def test_a_cache_is_filled_by_all_ranks_and_read_by_all(world: World) -> None:
    images = catalogue(40, Damaged)
    for budget, kept in ((1 << 20, 40), (65 * 10, 10), (10, 0)):
        cache = PixelCache(world.machine(), 40, images.reader.shape, budget)
        loader = Loader(images.reader, 2, cache)
        plain = Loader(images.reader, 1)
        order = Order(40, 8, world.size, 1)
        read: list[int] = []
        for epoch in range(3):
            numbers = np.arange(40) if world.is_root else None
            shares = deal(world, order, images if world.is_root else None, numbers, epoch)
            Damaged.n_read = 0
            assert sum(len(batch.labels) for batch in loader.batches(shares)) <= 40
            read.append(sum(world.all_gather(Damaged.n_read)))
            for found, truth in zip(loader.batches(shares), plain.batches(shares), strict=True):
                assert np.array_equal(found.pixels, truth.pixels)
                assert np.array_equal(found.labels, truth.labels)
                assert np.array_equal(found.items, truth.items)
                assert found.skipped == truth.skipped
            world.meet()
        assert read == [40, 40 - usable_below(kept), 40 - usable_below(kept)]
        cache.begin_pass()
        usable = np.arange(40) % 7 != 3
        assert np.array_equal(cache.has(np.arange(40)), usable & (np.arange(40) < kept))
        loader.close()
        plain.close()


def test_an_epochs_seconds_are_those_of_its_steps(world: World) -> None:
    images = catalogue(30)
    made, _, loader, order = trainer(world, images, 10)
    numbers = np.arange(30) if world.is_root else None
    for epoch in range(2):
        shares = deal(world, order, images if world.is_root else None, numbers, epoch)
        started = time.perf_counter()
        made.epoch(shares, None, lambda: None, lambda _: None)
        took = time.perf_counter() - started
        made.gather()
        time.sleep(0.3)  # validation, say
        made.end_epoch(None)
        made.gather()
        assert made.progress.history[-1]["seconds"] < took + 0.2  # the record is rank 0's
    loader.close()


def test_an_epoch_that_was_cut_otherwise_begins_again() -> None:
    progress = Progress(
        epoch=3, step=2, cut=[100, 10], images=[10, 10], loss=4.0, correct=7, seconds=1.0, updates=32
    )
    same = Order(100, 10, 2, 0).resume(progress)
    assert same == progress
    more = Order(100, 10, 3, 0).resume(progress)
    assert (more.step, more.images, more.loss) == (2, [7, 7, 6], 4.0)
    again = Order(100, 20, 2, 0).resume(progress)
    assert (again.epoch, again.step, again.images, again.loss, again.updates) == (3, 0, [0, 0], 0.0, 32)
