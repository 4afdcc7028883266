"""`mpiexec -n P python bench/cnn_rank.py CASE`: ways to train the same network on the same images, in turn.

All ways live in the same processes, and each takes a few steps in each round. A step is forward, backward, the
exchange of gradients, and Adam; images are in memory, normalised. Prints seconds a step, round by round, as JSON.

- shared, messages: ours, with the ranks of a machine sharing memory, or sending each other messages.
- alone: ours without any exchange, so that each rank learns for itself: what is left when communication is free.
- exchange alone: the sum of gradients by messages, with no backward to hide behind.
- ddp: torch's DistributedDataParallel with gloo and torch's defaults.
- ddp tuned: the same with what makes it fast: channels last, fused Adam, gradients as views of buckets, and no
  broadcast of buffers in each step. (A static graph makes no difference here.)
- ddp sharded: the same, and Adam shared out among the ranks by torch's ZeroRedundancyOptimizer.
- published: each parameter's gradient pickled and all-reduced on its own, after backward, and torch's defaults.
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
from mpi_jobs.training.gradients import ExchangeSettings, Replica
from mpi_jobs.training.optimisers import STATES, Optimiser

RATE = 1e-4
Step = Callable[[], object]


class Case(NamedTuple):
    """What is trained.

    Attributes:
        network: its name.
        side: of its images.
        n_classes: how many there are.
        batch: images of a step on each rank.
        rounds: of all ways.
        steps: of each way in a round.
        device: where it computes.
    """

    network: str
    side: int
    n_classes: int
    batch: int
    rounds: int = 5
    steps: int = 2
    device: str = "cpu"


class Bench:
    """One rank's networks.

    Args:
        case: what is trained.
        world: the ranks.
    """

    def __init__(self, case: Case, world: World) -> None:
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
        """Gradients summed over a world."""
        network = self._network(True)
        replica = Replica(world, network, len(STATES["adam"]), ExchangeSettings(shared=shared))
        optimiser = Optimiser("adam", replica.pieces, 0.0, 0.0)

        def step() -> None:
            self._backward(network, True)
            replica.reduce()
            optimiser.step(RATE)
            replica.settle()

        return step

    def exchange_alone(self) -> Step:
        """Only the sum of gradients."""
        replica = Replica(self._world, self._network(True), 0, ExchangeSettings(shared=False))

        def step() -> None:
            replica._arrived = [True] * len(replica._arrived)  # or it would have to fill in zeros first
            replica.reduce()

        return step

    def ddp(self, tuned: bool, sharded: bool = False) -> Step:
        """Torch's own."""
        network = DistributedDataParallel(
            self._network(tuned), gradient_as_bucket_view=tuned, forward_sync_buffers=not tuned
        )
        optimiser = None
        if sharded:
            optimiser = ZeroRedundancyOptimizer(
                network.parameters(), torch.optim.AdamW, lr=RATE, weight_decay=0.0, fused=True,
                parameters_as_bucket_view=True,
            )  # fmt: skip
        return self._torch_step(network, tuned, optimiser)

    def plain(self) -> Step:
        """Torch's own on one rank, with everything switched on."""
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
        """Pickles."""
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
        """Seconds a step, of the slowest rank; the first, which finds others' things in caches, is left out.

        Args:
            step: takes one.
            steps: how many to take.
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


def main() -> int:
    """Measure."""
    case = Case(**json.loads(sys.argv[1]))
    world = World(MPI.COMM_WORLD)
    torch.set_num_threads(max(1, world.cores // world.neighbours))
    bench = Bench(case, world)
    if world.size == 1:
        ways = {"plain": bench.plain(), "ours": bench.ours(world, True)}
    else:
        warnings.filterwarnings(
            "ignore", "Grad strides do not match"
        )  # nor do they in ours, where it costs nothing
        folder = world.at_root(tempfile.mkdtemp)
        distributed.init_process_group("gloo", f"file://{folder}/meet", rank=world.rank, world_size=world.size)
        world.meet()
        shutil.rmtree(folder, ignore_errors=True)
        ways = {
            "shared": bench.ours(world, True),
            "messages": bench.ours(world, False),
            "alone": bench.ours(World(MPI.COMM_SELF), False),
            "exchange alone": bench.exchange_alone(),
            "ddp": bench.ddp(False),
            "ddp tuned": bench.ddp(True),
            "ddp sharded": bench.ddp(True, sharded=True),
            "published": bench.published(),
        }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(case.rounds):
        for name, step in ways.items():
            if name != "published":
                rounds[name].append(bench.seconds(step, case.steps))
            elif turn >= case.rounds - 2:  # it takes as long as all others together
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
    os._exit(code)  # gloo's threads and MPI's do not end well together
