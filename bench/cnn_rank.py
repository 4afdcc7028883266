"""`mpiexec -n P python bench/cnn_rank.py CASE`: train one network on the same images in several ways, in turn.

All ways run in the same processes, and each takes a few steps per round. A step is forward, backward, the exchange
of gradients, and Adam. Images are in memory, normalised. The seconds per step are printed as JSON, round by round.
CASE is a `TrainingCase` as a JSON object.

- shared, messages: our training, in which the ranks of a machine share memory or send each other messages.
- alone: our training without any exchange: the time of a step if communication were free.
- exchange alone: the sum of gradients by messages, without a backward pass that could hide it.
- ddp: torch's DistributedDataParallel with gloo and torch's defaults.
- ddp tuned: the same, made fast: channels last, fused Adam, gradients as views of buckets, and no broadcast of
  buffers in each step. (A static graph makes no difference here.)
- ddp sharded: the same, with the state of Adam sharded over the ranks by torch's ZeroRedundancyOptimizer.
- published: the gradient of each parameter pickled and all-reduced on its own after backward, and torch's
  defaults.
- plain: torch without any of this, for one rank.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from mpi4py import MPI
from torch import distributed, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from common.nets.networks import NetworkSpec, build
from mpi_jobs.engine.world import World
from mpi_jobs.training.optimisers import STATES, Optimiser
from mpi_jobs.training.replica import ExchangeSettings, Replica

RATE = 1e-4
Step = Callable[[], object]


class TrainingCase(NamedTuple):
    """A network, its images and how often to measure.

    Attributes:
        network: name of the network.
        side: height and width of the images.
        n_classes: the number of classes.
        batch: images per step and rank.
        rounds: the number of rounds.
        steps: steps per round and way.
        device: device that computes.
    """

    network: str
    side: int
    n_classes: int
    batch: int
    rounds: int = 3
    steps: int = 2
    device: str = "cpu"


class Bench:
    """The networks of one rank, and a step of training in each way.

    Args:
        case: the network and its images.
        world: the ranks.
    """

    def __init__(self, case: TrainingCase, world: World) -> None:
        self._case, self._world = case, world
        self._device = torch.device(case.device)
        generator = torch.Generator().manual_seed(world.rank)
        size = (case.batch, 3, case.side, case.side)
        self._images = torch.randn(size, generator=generator).to(self._device)
        self._labels = torch.randint(case.n_classes, (case.batch,), generator=generator).to(self._device)
        self._channels_last = self._images.contiguous(memory_format=torch.channels_last)

    def _network(self, tuned: bool) -> nn.Module:
        torch.manual_seed(0)
        case = self._case
        network = build(NetworkSpec(case.network, 3, case.side, case.side, case.n_classes)).to(self._device)
        return network.to(memory_format=torch.channels_last) if tuned else network

    def _backward(self, network: nn.Module, tuned: bool) -> None:
        images = self._channels_last if tuned else self._images
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            logits = network(images)
        cross_entropy(logits.float(), self._labels).backward()  # type: ignore[no-untyped-call]

    def ours(self, world: World, shared: bool) -> Step:
        """Return a step of our training, whose gradients are summed over a world."""
        network = self._network(True)
        replica = Replica(world, network, len(STATES["adam"]), ExchangeSettings(shared=shared))
        optimiser = Optimiser("adam", replica.slices, 0.0, 0.0)

        def step() -> None:
            self._backward(network, True)
            replica.reduce()
            optimiser.step(RATE)
            replica.settle()

        return step

    def exchange_alone(self) -> Step:
        """Return a step that only sums gradients, by messages."""
        replica = Replica(self._world, self._network(True), 0, ExchangeSettings(shared=False))

        def step() -> None:
            replica.exchange.arrive(range(len(replica.layout.parameters)))  # or zeros would be filled in first
            replica.reduce()

        return step

    def ddp(self, tuned: bool, sharded: bool = False) -> Step:
        """Return a step of torch's DistributedDataParallel."""
        network = DistributedDataParallel(
            self._network(tuned), gradient_as_bucket_view=tuned, forward_sync_buffers=not tuned
        )
        optimiser = None
        if sharded:
            optimiser = ZeroRedundancyOptimizer(
                network.parameters(),
                torch.optim.AdamW,
                lr=RATE,
                weight_decay=0.0,
                fused=True,
                parameters_as_bucket_view=True,
            )
        return self._torch_step(network, tuned, optimiser)

    def plain(self) -> Step:
        """Return a step of torch on one rank, with everything that makes it fast."""
        return self._torch_step(self._network(True), True)

    def _torch_step(self, network: nn.Module, tuned: bool, sharded: torch.optim.Optimizer | None = None) -> Step:
        plain = partial(torch.optim.AdamW, network.parameters(), lr=RATE, weight_decay=0.0, fused=tuned or None)
        optimiser = sharded or plain()

        def step() -> None:
            optimiser.zero_grad()
            self._backward(network, tuned)
            optimiser.step()

        return step

    def published(self) -> Step:
        """Return a step of the published pattern: pickled gradients, one parameter at a time."""
        network = self._network(False)
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE)

        def step() -> None:
            optimiser.zero_grad()
            self._backward(network, False)
            for parameter in network.parameters():
                if parameter.grad is not None:
                    total = MPI.COMM_WORLD.allreduce(parameter.grad.numpy())
                    parameter.grad = torch.from_numpy(total / self._world.size)
            optimiser.step()

        return step

    def seconds(self, step: Step, steps: int) -> float:
        """Return the seconds per step of the slowest rank, without a first step, which finds cold caches.

        Args:
            step: takes one step.
            steps: the number of steps.
        """
        step()
        self._wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self._wait()
        return (time.perf_counter() - started) / steps

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._world.meet()


def ways_to_train(bench: Bench, world: World) -> dict[str, Step]:
    """Return a step of each way, by name; torch's process group is started if there are several ranks."""
    if world.size == 1:
        return {"plain": bench.plain(), "ours": bench.ours(world, True)}
    # strides of gradients differ in our training too, where that costs nothing
    warnings.filterwarnings("ignore", "Grad strides do not match")
    folder = world.at_root(tempfile.mkdtemp)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=world.rank, world_size=world.size)
    world.meet()
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "shared": bench.ours(world, True),
        "messages": bench.ours(world, False),
        "alone": bench.ours(World(MPI.COMM_SELF), False),
        "exchange alone": bench.exchange_alone(),
        "ddp": bench.ddp(False),
        "ddp tuned": bench.ddp(True),
        "ddp sharded": bench.ddp(True, sharded=True),
        "published": bench.published(),
    }


def main() -> int:
    """Measure all ways, round by round, and print the seconds."""
    case = TrainingCase(**json.loads(sys.argv[1]))
    world = World(MPI.COMM_WORLD)
    torch.set_num_threads(max(1, world.cores // world.neighbours))
    bench = Bench(case, world)
    ways = ways_to_train(bench, world)
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(case.rounds):
        for name, step in ways.items():
            if name != "published":
                rounds[name].append(bench.seconds(step, case.steps))
            elif turn == case.rounds - 1:  # it takes as long as all other ways together
                rounds[name].append(bench.seconds(step, 1))
    if world.is_root:
        print(json.dumps(rounds), flush=True)
    world.meet()
    if world.size > 1:
        distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    code = main()
    MPI.Finalize()
    sys.stdout.flush()
    os._exit(code)  # the threads of gloo and of MPI do not survive an ordinary exit together
