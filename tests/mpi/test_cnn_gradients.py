"""Gradients and steps of all ranks together equal those of one process with the whole batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common.nets.networks import NetworkSpec, build
from mpi_jobs.engine.world import World
from mpi_jobs.training import vector
from mpi_jobs.training.exchange import BucketState
from mpi_jobs.training.optimisers import STATES, Optimiser
from mpi_jobs.training.replica import ExchangeSettings, Replica
from mpi_jobs.training.shared_memory import shared_bytes
from mpi_jobs.training.vector import VectorLayout

torch.set_num_threads(1)

SPEC = NetworkSpec("small", 1, 8, 8, 10, batch_norm=False)
EXCHANGES = {
    "shared": ExchangeSettings(),
    "messages": ExchangeSettings(shared=False),
    "small buckets": ExchangeSettings(bucket_bytes=5_000),
    "small buckets, messages": ExchangeSettings(shared=False, bucket_bytes=5_000),
    "one bucket": ExchangeSettings(bucket_bytes=1 << 30),
    "staged": ExchangeSettings(bucket_bytes=20_000),
}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that lets `size` consecutive ranks each count as one machine."""

    def pretend(size: int) -> None:
        monkeypatch.setattr(World, "machine", lambda world: world.split(world.rank // size))

    return pretend


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(3)
    return build(SPEC).to(dtype)


def batch(n: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.randint(10, (n,), generator=generator)


def backward(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, n: int) -> None:
    if len(labels):
        (cross_entropy(net(images), labels, reduction="sum") / n).backward()


def gradient_alone(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return torch's own gradient of the whole batch in one process, in the order of our vector."""
    cross_entropy(net(images), labels).backward()
    return torch.cat([p.grad.reshape(-1) for p in reversed(list(net.parameters()))]).double()


def whole_gradient(replica: Replica, world: World) -> torch.Tensor:
    """Put the slices of all ranks together."""
    flat = torch.zeros(replica.layout.length, dtype=torch.float64)
    count = torch.zeros_like(flat)
    for part in replica.slices:
        start = part.gradient.storage_offset() - replica.vectors.gradient.storage_offset()
        flat[start : start + len(part.gradient)] += part.gradient.double()
        count[start : start + len(part.gradient)] += 1
    world.sum(flat.numpy())
    world.sum(count.numpy())
    assert count.min() > 0
    return flat / count


def gradient(replica: Replica, world: World) -> torch.Tensor:
    """Put the slices of all ranks together, without the padding between parameters."""
    flat = whole_gradient(replica, world)
    return torch.cat([flat[span] for span in replica.layout.spans])


def close(found: torch.Tensor, truth: torch.Tensor, tolerance: float) -> bool:
    return bool((found - truth).norm() <= tolerance * truth.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_gradient_is_torchs_own_of_the_whole_batch(
    world: World, exchange: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exchange == "staged":  # as if the gradients were on a GPU
        monkeypatch.setattr("mpi_jobs.training.replica.passes_through_host", lambda _device, _direct: True)
    images, labels = batch(23, dtype)
    truth = gradient_alone(network(dtype), images, labels)
    ours = network(dtype)
    replica = Replica(world, ours, 0, EXCHANGES[exchange])
    for _ in range(2):  # the second step finds nothing left of the first
        own = slice(world.rank, None, world.size)
        backward(ours, images[own], labels[own], 23)
        replica.reduce()
        found = gradient(replica, world)
        assert close(found, truth, 1e-5 if dtype == torch.float32 else 1e-12)
        replica.settle()


@cache
def twenty_steps_alone(dtype: torch.dtype, optimiser: str) -> list[torch.Tensor]:
    """Return the parameters after twenty steps of torch's own optimiser in one process."""
    alone = network(dtype)
    plain: torch.optim.Optimizer
    if optimiser == "adam":
        plain = torch.optim.AdamW(alone.parameters(), lr=1e-3, weight_decay=0.01)
    else:
        plain = torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for step in range(20):
        images, labels = batch(12, dtype, step)
        plain.zero_grad()
        cross_entropy(alone(images), labels).backward()
        plain.step()
    return [parameter.detach() for parameter in alone.parameters()]


@pytest.mark.parametrize("optimiser", STATES)
@pytest.mark.parametrize(
    ("exchange", "ranks_per_machine"),
    [("shared", None), ("messages", None), ("shared", 1), ("shared", 2), ("shared", 3)],
)
def test_twenty_steps_are_torchs_own(
    world: World, exchange: str, ranks_per_machine: int | None, optimiser: str, machines: Callable[[int], None]
) -> None:
    if ranks_per_machine:
        machines(ranks_per_machine)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        # on one rank: torch.optim imports a compiler, seconds for each process
        truths = world.at_root(lambda: twenty_steps_alone(dtype, optimiser))  # noqa: B023
        ours = network(dtype)
        replica = Replica(world, ours, len(STATES[optimiser]), EXCHANGES[exchange])
        assert replica.vectors.shared == (exchange == "shared" and has_neighbours(world, ranks_per_machine))
        steps = Optimiser(optimiser, replica.slices, 0.9, 0.01)
        for step in range(20):
            images, labels = batch(12, dtype, step)
            own = slice(12 * world.rank // world.size, 12 * (world.rank + 1) // world.size)
            backward(ours, images[own], labels[own], 12)
            replica.reduce()
            steps.step(1e-3 if optimiser == "adam" else 0.05)
            replica.settle()
        for ours_, truth in zip(ours.parameters(), truths, strict=True):
            assert close(ours_, truth, tolerance)


FROZEN = (True, True, False, False, True, False)
"""Steps in which all layers below the head are frozen."""


@cache
def frozen_steps_alone(backbone: tuple[str, ...], optimiser: str) -> list[torch.Tensor]:
    """Return the parameters after the steps of torch's own optimiser, which takes small ones below the head."""
    alone = network(torch.float64)
    below = [alone.get_parameter(name) for name in backbone]
    groups: list[dict[str, Any]] = [
        {"params": alone.get_submodule("classifier.4").parameters()},
        {"params": below},
    ]
    plain: torch.optim.Optimizer
    if optimiser == "adam":
        groups[1]["lr"] = 1e-4
        plain = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.01)
    else:
        groups[1]["lr"] = 0.005
        plain = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
    for step, frozen in enumerate(FROZEN):
        images, labels = batch(12, torch.float64, step)
        for parameter in below:
            parameter.requires_grad_(not frozen)
        plain.zero_grad()
        cross_entropy(alone(images), labels).backward()
        plain.step()
    return [parameter.detach() for parameter in alone.parameters()]


@pytest.mark.parametrize("optimiser", STATES)
@pytest.mark.parametrize("exchange", ["shared", "small buckets, messages"])
def test_a_backbone_is_frozen_and_stepped_as_torchs_groups_are(
    world: World, exchange: str, optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpi_jobs.training.replica.LARGE", 3_000)  # hidden layers compute gradients in the vector
    ours = network(torch.float64)
    backbone = tuple(name for name, _ in ours.named_parameters() if not name.startswith("classifier.4"))
    truths = world.at_root(lambda: frozen_steps_alone(backbone, optimiser))
    replica = Replica(world, ours, len(STATES[optimiser]), EXCHANGES[exchange], backbone)
    steps = Optimiser(optimiser, replica.slices, 0.9, 0.01, 0.1)
    for step, frozen in enumerate(FROZEN):
        images, labels = batch(12, torch.float64, step)
        replica.freeze(frozen)
        before = {name: ours.get_parameter(name).detach().clone() for name in backbone}
        world.meet()  # all ranks have copied what they share
        own = slice(12 * world.rank // world.size, 12 * (world.rank + 1) // world.size)
        backward(ours, images[own], labels[own], 12)
        replica.reduce()
        steps.step(1e-3 if optimiser == "adam" else 0.05, frozen)
        replica.settle()
        kept = [torch.equal(ours.get_parameter(name), before[name]) for name in backbone]
        assert all(kept) if frozen else not any(kept)
        if step == 1:  # nobody has computed or summed anything below the head so far
            gradient_of = replica.layout.view
            numbers = [i for i, name in enumerate(replica.layout.names) if name in backbone]
            assert not any(gradient_of(replica.vectors.gradient, i).any() for i in numbers)
        world.meet()
    for ours_, truth in zip(ours.parameters(), truths, strict=True):
        assert close(ours_, truth, 1e-10)


def has_neighbours(world: World, ranks_per_machine: int | None) -> bool:
    size = ranks_per_machine or world.size
    first = world.rank // size * size
    return min(first + size, world.size) - first > 1


@pytest.mark.parametrize("ranks_per_machine", [1, 2])
def test_half_precision_on_the_wire_is_nearly_the_same(
    world: World, ranks_per_machine: int, machines: Callable[[int], None]
) -> None:
    machines(ranks_per_machine)
    images, labels = batch(24, torch.float32)
    found = []
    for wire in ("fp32", "fp16"):
        net = network(torch.float32)
        replica = Replica(world, net, 0, ExchangeSettings(wire=wire))
        own = slice(world.rank, None, world.size)
        backward(net, images[own], labels[own], 24)
        replica.reduce()
        found.append(whole_gradient(replica, world))
    assert close(found[1], found[0], 2e-3)
    assert world.size <= ranks_per_machine or not torch.equal(*found)


def test_half_precision_loses_neither_small_gradients_nor_large_ones(world: World) -> None:
    """Small gradients are those of 64,500 classes, large ones those of a network that diverges."""
    for size, expected in ((1e-7, 1e-7), (1e6, 64 * (1 - 2**-11))):
        net = nn.Linear(3, 4, bias=False)
        replica = Replica(world, net, 0, ExchangeSettings(shared=False, wire="fp16"))
        (net(torch.full((1, 3), size)).sum() / world.size).backward()
        replica.reduce()
        found = gradient(replica, world)
        truth = torch.full_like(found, size if world.size == 1 else expected)
        assert close(found, truth, 0.05)


@pytest.mark.parametrize("exchange", ["shared", "messages"])
def test_ranks_without_images_add_nothing(world: World, exchange: str) -> None:
    images, labels = batch(1, torch.float64)
    truth = gradient_alone(network(torch.float64), images, labels)
    ours = network(torch.float64)
    replica = Replica(world, ours, 0, EXCHANGES[exchange])
    last = world.rank == world.size - 1
    backward(ours, images[: int(last)], labels[: int(last)], 1)
    replica.reduce()
    assert close(gradient(replica, world), truth, 1e-12)


def test_parameters_that_nothing_flows_through_have_no_gradient(world: World) -> None:
    net = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    replica = Replica(world, net, 0, ExchangeSettings())
    net["used"](torch.ones(1, 3)).sum().backward()
    replica.reduce()
    names = {name: replica.layout.spans[i] for i, name in enumerate(replica.layout.names)}
    found = whole_gradient(replica, world)
    assert not found[names["idle.weight"]].any()
    assert found[names["used.weight"]].eq(world.size).all()


def test_every_rank_starts_from_the_parameters_of_rank_0(world: World) -> None:
    for settings in (ExchangeSettings(), ExchangeSettings(shared=False)):
        torch.manual_seed(world.rank)
        net = build(SPEC)
        torch.manual_seed(0)
        truth = build(SPEC)
        Replica(world, net, 0, settings)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), truth.parameters(), strict=True))


def test_vectors_are_filled_from_rank_0_and_named(world: World, machines: Callable[[int], None]) -> None:
    machines(2)
    net = build(SPEC)
    replica = Replica(world, net, 1, ExchangeSettings())
    named = {name: torch.full_like(p, i) for i, (name, p) in enumerate(net.named_parameters())}
    vectors = replica.vectors
    vectors.fill(vectors.states[0], named if world.is_root else None)
    found = vectors.named(vectors.states[0])
    assert found.keys() == named.keys()
    assert all(torch.equal(found[name], named[name]) for name in named)


def test_a_layout_is_cut_at_parameters_from_the_last_to_the_first(world: World) -> None:
    net = nn.Sequential(*(nn.Linear(*ends, bias=False) for ends in ((10, 300), (300, 20), (20, 5))))
    layout = VectorLayout(net, 4 * 5000)
    assert layout.names == ["2.weight", "1.weight", "0.weight"]
    assert layout.spans == [slice(0, 100), slice(112, 6112), slice(6112, 9112)]
    assert layout.buckets == [slice(0, 112), slice(112, 6112), slice(6112, 9120)]
    assert len(VectorLayout(net, 1 << 30).buckets) == 1
    cut = VectorLayout(net, 1 << 30, {"0.weight", "1.weight"})
    assert cut.buckets == [slice(0, 112), slice(112, 9120)]
    assert cut.in_backbone == [False, True]


def test_channels_last_parameters_keep_their_order_in_memory(world: World) -> None:
    net = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    truth = deepcopy(net.weight)
    replica = Replica(world, net, 0, ExchangeSettings())
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net.weight, truth) or not world.is_root
    assert replica.vectors.named(replica.vectors.values)["weight"].is_contiguous()


def test_shared_memory_is_one_and_the_same(world: World) -> None:
    memory = shared_bytes(world, 1000)
    assert memory is not None
    assert memory.shape == (1000,)
    assert not memory.any()
    assert memory.ctypes.data % 64 == 0
    world.meet()
    memory[world.rank] = world.rank + 1
    world.meet()
    assert memory[: world.size].tolist() == list(range(1, world.size + 1))
    world.meet()


def test_one_machine_without_memory_does_not_keep_others_from_sharing(
    world: World, machines: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines(2)
    monkeypatch.setattr(
        vector, "shared_bytes", lambda machine, count: None if world.rank < 2 else shared_bytes(machine, count)
    )
    images, labels = batch(9, torch.float64)
    net = network(torch.float64)
    replica = Replica(world, net, 1, ExchangeSettings())
    assert replica.vectors.shared == ((world.rank == 2 and world.size == 4) or world.rank == 3)
    assert len(replica.vectors.unshared) == (1 if world.size > 1 else 0)
    own = slice(world.rank, None, world.size)
    backward(net, images[own], labels[own], 9)
    replica.reduce()
    truth = gradient_alone(network(torch.float64), images, labels)
    assert close(gradient(replica, world), truth, 1e-12)


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", refuse)


def test_without_shared_memory_ranks_send_messages(world: World, without_memory: None) -> None:
    assert shared_bytes(world, 1000) is None
    net = network(torch.float64)
    replica = Replica(world, net, 1, ExchangeSettings())
    assert not replica.vectors.shared
    images, labels = batch(8, torch.float64)
    own = slice(world.rank, None, world.size)
    backward(net, images[own], labels[own], 8)
    replica.reduce()
    truth = gradient_alone(network(torch.float64), images, labels)
    assert close(gradient(replica, world), truth, 1e-12)


def test_sums_begin_while_backward_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of the last layer's bucket has begun when the first layer's gradient arrives."""
    monkeypatch.setattr(vector, "FIRST_BUCKET_BYTES", 1)
    net = network(torch.float32)
    replica = Replica(world, net, 0, ExchangeSettings(shared=False, bucket_bytes=1))
    launched: list[int] = []
    begun = BucketState.TRAVELLING if world.size > 1 else BucketState.DONE
    first = next(iter(net.parameters()))
    first.register_hook(
        lambda gradient: launched.append([bucket.state for bucket in replica.exchange.buckets].count(begun))
    )
    images, labels = batch(4, torch.float32)
    backward(net, images, labels, 4)
    replica.reduce()
    assert len(launched) == 1
    assert launched[0] >= len(replica.layout.buckets) - 2  # all but those of the first layer
    assert np.isfinite(whole_gradient(replica, world).numpy()).all()


@pytest.mark.parametrize("bias", [True, False])
def test_large_linear_layers_compute_their_gradients_in_place(world: World, bias: bool) -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 600), nn.Tanh(), nn.Linear(600, 700, bias=bias)).double()

    alone, ours = make(), make()
    replica = Replica(world, ours, 0, ExchangeSettings(bucket_bytes=1 << 20))
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(8, 64, generator=generator, dtype=torch.float64)
    labels = torch.randint(700, (8,), generator=generator)
    with torch.no_grad():
        assert torch.equal(ours(images), alone(images))
    truth = gradient_alone(alone, images, labels)
    own = slice(world.rank, None, world.size)
    for _ in range(2):
        backward(ours, images[own], labels[own], 8)
        assert all(parameter.grad is None for parameter in ours.parameters())
        # each arrived once: a bucket that counted one twice would be summed before it is complete
        assert not len(labels[own]) or not any(bucket.missing for bucket in replica.exchange.buckets)
        replica.reduce()
        assert close(gradient(replica, world), truth, 1e-12)
        replica.settle()
    if len(labels[own]):
        ours(images[own])
        with pytest.raises(RuntimeError, match="twice in one step"):
            ours(images[own])
