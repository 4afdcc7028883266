"""One set of parameters, and gradients that are summed over all ranks while backward still runs.

All parameters lie in one flat vector, the last layer's first, because its gradients are there first. The vector is
cut into buckets. When the gradients of a bucket are complete on a rank, their sum over the ranks begins, and the
rank goes on with backward.

The ranks of a machine share memory where they can. There is then one copy of the parameters and of the optimiser's
state on each machine, and a gradient vector for each rank. Of each bucket a rank adds up one slice over the
gradients of its neighbours, straight from their memory; sums the slice with those ranks that have the same place
on other machines, by a message; and steps the optimiser on that slice of the shared parameters. So nothing is
copied within a machine, and between machines each byte travels once for a machine and not once for a rank. This is
a reduce-scatter, a sharded optimiser (as in ZeRO, Rajbhandari et al. 2020) and an all-gather, of which the shared
memory makes the last one free.

Ranks that share no memory are machines of their own: then each bucket is all-reduced by a message, as DDP does
(Li et al. 2020).
"""

from __future__ import annotations

import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.data.splits import shard
from common.nets.linear import LARGE, Sink
from mpi_jobs.engine.waiting import Begun
from mpi_jobs.engine.world import World
from mpi_jobs.training.shared_memory import shared_bytes

FIRST_BUCKET_BYTES = 1 << 20
"""Of the first bucket, which is small, so that the first sum begins early."""

ALIGNED = 16
"""Numbers that parameters and slices begin at a multiple of: a cache line of the smallest type there is."""

WIRE_SCALE = 1024.0
"""By which gradients grow for a wire of half precision, so that the small ones of many classes are not lost."""

CHUNK = 1 << 15
"""Numbers that are added up at once: few enough to stay in a core's cache while all neighbours' come by."""

WIRES = ("fp32", "fp16")


@dataclass(frozen=True)
class ExchangeSettings:
    """How gradients are exchanged.

    Attributes:
        shared: whether ranks of a machine share memory, if they can.
        bucket_bytes: of each bucket but the first; no parameter is cut in two.
        wire: in which precision gradients travel between machines: one of WIRES.
        direct: whether MPI reads and writes the memory of the device itself.
        staged: whether gradients go through host memory of their own, as those of a GPU do.
    """

    shared: bool = True
    bucket_bytes: int = 25 << 20
    wire: str = "fp32"
    direct: bool = False
    staged: bool = False


class Piece(NamedTuple):
    """What this rank's optimiser steps on: views, flat, of equal length.

    Attributes:
        values: of parameters.
        gradient: summed over all ranks, once reduce() has returned.
        states: of the optimiser.
    """

    values: Tensor
    gradient: Tensor
    states: tuple[Tensor, ...]


class Layout:
    """Where each parameter is in the flat vector.

    Args:
        network: whose parameters, all of one type and on one device.
        bucket_bytes: of a bucket; a larger parameter has one of its own.

    Attributes:
        names: of the parameters.
        parameters: in the order of the vector.
        places: of each parameter, where it is; what lies between them is padding.
        buckets: where each is.
        bucket_of: the bucket of each parameter.
        length: of the vector.
    """

    def __init__(self, network: nn.Module, bucket_bytes: int) -> None:
        named = list(network.named_parameters())
        self.names = [name for name, _ in reversed(named)]
        self.parameters = [parameter for _, parameter in reversed(named)]
        self.places: list[slice] = []
        self.bucket_of: list[int] = []
        self.buckets: list[slice] = []
        start = end = 0
        limit = min(FIRST_BUCKET_BYTES, bucket_bytes)
        for parameter in self.parameters:
            size = parameter.numel()
            if end > start and (end + size - start) * parameter.element_size() > limit:
                self.buckets.append(slice(start, end))
                start, limit = end, bucket_bytes
            self.places.append(slice(end, end + size))
            self.bucket_of.append(len(self.buckets))
            end += -(-size // ALIGNED) * ALIGNED
        self.buckets.append(slice(start, end))
        self.length = end

    def view(self, flat: Tensor, i: int) -> Tensor:
        """Parameter number i in a flat vector, in its shape, and its order in memory if that is channels last."""
        parameter, part = self.parameters[i], flat[self.places[i]]
        if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
            n, c, h, w = parameter.shape
            return part.view(n, h, w, c).permute(0, 3, 1, 2)
        return part.view(parameter.shape)


class Replica:
    """The parameters of a network, moved into one flat vector, and the exchange of their gradients.

    All ranks make it, of networks of the same shape; rank 0's parameters are then everyone's.

    Args:
        world: the ranks.
        network: on its device; its parameters become views.
        states: how many vectors the optimiser keeps.
        settings: how gradients are exchanged.

    Attributes:
        layout: where each parameter is.
        values: the flat vector of parameters.
        states: those of the optimiser, zeros at first.
        shared: whether this rank shares them with its neighbours.
        unshared: machines whose ranks could not be given memory to share.
        pieces: what this rank's optimiser steps on.
    """

    def __init__(self, world: World, network: nn.Module, states: int, settings: ExchangeSettings) -> None:
        self._world = world
        self.layout = layout = Layout(network, settings.bucket_bytes)
        first = layout.parameters[0]
        self._device, self._dtype = first.device, first.dtype
        self._staged = world.size > 1 and (
            settings.staged or (self._device.type == "cuda" and not settings.direct)
        )
        self._half = settings.wire == "fp16"
        share = settings.shared and self._device.type == "cpu" and not self._staged
        self._machine, memory = self._find_memory(world, states, share)
        self.shared = self._machine.size > 1
        lonely = platform.node() if share and not self.shared and world.neighbours > 1 else None
        self.unshared = sorted({host for host in world.all_gather(lonely) if host is not None})
        self._gradients = memory[1 + states :]
        self._own = self._gradients[self._machine.rank]
        self.values, self.states = memory[0], memory[1 : 1 + states]

        self._share_values(world)
        workers = min(world.all_gather(self._machine.size))  # so many slices on each machine, however many ranks
        self._works = self._machine.rank < workers
        part = self._machine.rank if self._works else 0
        self._peers = world.split(part if self._works else None)
        self._slices = []
        for bucket in layout.buckets:
            own = shard((bucket.stop - bucket.start) // ALIGNED, part, workers)
            start = bucket.start + ALIGNED * own.start
            self._slices.append(slice(start, bucket.start + ALIGNED * own.stop if self._works else start))
        self.pieces = [
            Piece(self.values[own], self._own[own], tuple(state[own] for state in self.states))
            for own in self._slices
            if own.stop > own.start
        ]
        self._host = self._host_memory()

        self._views = [layout.view(self._own, i) for i in range(len(layout.parameters))]
        for i, parameter in enumerate(layout.parameters):
            parameter.register_post_accumulate_grad_hook(self._hook(i))  # type: ignore[no-untyped-call]
        self._add_sinks(network)
        self._begin()

    def _find_memory(self, world: World, states: int, share: bool) -> tuple[World, Sequence[Tensor]]:
        """Make the vectors: parameters, states of the optimiser, and a gradient for each rank that shares them."""
        length = self.layout.length
        machine = world.machine() if share else _alone(world)
        count = 1 + states + machine.size
        if machine.size > 1:
            memory = shared_bytes(machine, count * length * self._dtype.itemsize)
            if memory is not None:
                return machine, torch.from_numpy(memory).view(self._dtype).view(count, length).unbind()
            machine = _alone(machine)
        return machine, torch.zeros(2 + states, length, dtype=self._dtype, device=self._device).unbind()

    def _share_values(self, world: World) -> None:
        """Move rank 0's parameters into the vectors of all machines."""
        leaders = world.split(None if self._machine.rank else 0)
        if leaders is not None:
            for i, parameter in enumerate(self.layout.parameters):
                self.layout.view(self.values, i).copy_(parameter.detach())
            self.spread(leaders, self.values)
        for i, parameter in enumerate(self.layout.parameters):
            parameter.data = self.layout.view(self.values, i)
        self._leaders = leaders
        self._machine.meet()

    def _host_memory(self) -> Tensor | None:
        """Where gradients are on their way from and to a device that MPI cannot see."""
        if not self._staged:
            return None
        return torch.zeros(self.layout.length, dtype=self._dtype, pin_memory=self._device.type == "cuda")

    # one step

    def _begin(self) -> None:
        """Be ready for the gradients of a step."""
        self._missing = [0] * len(self.layout.buckets)
        for bucket in self.layout.bucket_of:
            self._missing[bucket] += 1
        self._arrived = [False] * len(self._views)
        self._launched = self._summed = 0
        self._meetings: deque[Begun | None] = deque()
        self._copied: list[torch.cuda.Event] = []
        self._sums: list[tuple[slice, Tensor, Begun]] = []

    def _hook(self, i: int) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._views[i].copy_(parameter.grad)
                parameter.grad = None
            self._arrive([i])

        return arrived

    def _add_sinks(self, network: nn.Module) -> None:
        """Let large linear layers compute their gradients in the vector."""
        numbers = {parameter: i for i, parameter in enumerate(self.layout.parameters)}
        layers = [module for module in network.modules() if type(module) is nn.Linear]
        users = Counter(layer.weight for layer in layers)
        for layer in layers:
            if layer.weight.numel() >= LARGE and users[layer.weight] == 1:
                own = [numbers[parameter] for parameter in layer.parameters()]  # weight, and bias if there is one
                views = [self._views[i] for i in own]
                Sink(layer, views[0], views[1] if len(views) > 1 else None, partial(self._arrive, own))

    def _arrive(self, own: Sequence[int]) -> None:
        """Take note of parameters whose gradients are in the vector."""
        for i in own:
            self._arrived[i] = True
            self._missing[self.layout.bucket_of[i]] -= 1
        self._go_on()

    def _go_on(self) -> None:
        """Begin what can begin; always bucket by bucket, so that all ranks do the same in the same order."""
        while self._launched < len(self._missing) and not self._missing[self._launched]:
            if self._host is not None:
                bucket = self.layout.buckets[self._launched]
                self._host[bucket].copy_(self._own[bucket], non_blocking=True)
            if self._device.type == "cuda" and self._world.size > 1:
                self._copied.append(torch.cuda.current_stream().record_event())
            self._meetings.append(self._machine.begin_meeting() if self.shared else None)
            self._launched += 1
        while self._summed < self._launched and self._is_here():
            self._sum()
        for _, _, begun in self._sums:
            begun.done()

    def _is_here(self) -> bool:
        """Whether the next bucket is complete on all neighbours, and where it can be read."""
        meeting = self._meetings[0]
        if meeting is not None and not meeting.done():
            return False
        return not self._copied or bool(self._copied[self._summed].query())  # type: ignore[no-untyped-call]

    def _sum(self) -> None:
        """Add up this rank's slice of the next bucket over its neighbours, and begin to over other machines."""
        started = time.perf_counter()
        own = self._slices[self._summed]
        for start in range(own.start, own.stop, CHUNK) if self.shared else ():
            chunk = slice(start, min(start + CHUNK, own.stop))
            for gradient in self._gradients:
                if gradient is not self._own:
                    self._own[chunk] += gradient[chunk]
        if self._peers is not None and self._peers.size > 1:
            travels = (self._own if self._host is None else self._host)[own]
            if self._half:
                # sums must not overflow either, nor what they are rounded to
                largest = 0.99 * torch.finfo(torch.float16).max / self._peers.size
                travels = (travels * WIRE_SCALE).clamp_(-largest, largest).half()
                if travels.is_cuda:
                    torch.cuda.current_stream().synchronize()
            begun = self._peers.begin_sum(travels if travels.is_cuda else travels.numpy())
            self._sums.append((own, travels, begun))
        self._meetings.popleft()
        self._summed += 1
        self._world.spent.communicating += time.perf_counter() - started

    def reduce(self) -> None:
        """Wait until the gradients of all ranks are summed, in `pieces`; a rank without images adds nothing."""
        for i, arrived in enumerate(self._arrived):
            if not arrived:
                self._views[i].zero_()
        self._missing = [0] * len(self._missing)
        self._go_on()
        while self._summed < self._launched:
            meeting = self._meetings[0]
            if meeting is not None:
                self._machine.complete(meeting, moving=(begun for _, _, begun in self._sums))
            if self._copied:
                self._copied[self._summed].synchronize()
            self._sum()
        for own, travelled, begun in self._sums:
            self._world.complete(begun, communicating=True)
            if self._half or self._host is not None:
                self._own[own].copy_(travelled, non_blocking=True)
            if self._half:
                self._own[own] /= WIRE_SCALE
        self._begin()

    def settle(self) -> None:
        """Wait until all slices of the parameters are stepped."""
        if self.shared:
            self._machine.meet()

    # whole vectors

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Copies of what a flat vector holds, by parameter, in their shapes, in host memory."""
        return {
            name: self.layout.view(flat, i).detach().cpu().clone(memory_format=torch.contiguous_format)
            for i, name in enumerate(self.layout.names)
        }

    def fill(self, flat: Tensor, named: Mapping[str, Tensor] | None) -> None:
        """Fill a flat vector on all ranks with what named() made of one; given on rank 0."""
        if self._leaders is not None:
            if named is not None:
                for i, name in enumerate(self.layout.names):
                    self.layout.view(flat, i).copy_(named[name])
            self.spread(self._leaders, flat)
        self._machine.meet()

    @staticmethod
    def spread(leaders: World, flat: Tensor) -> None:
        """Copy rank 0's vector to all leaders."""
        host = flat.detach().cpu()
        leaders.broadcast(host.numpy(), 0)
        if flat.is_cuda:
            flat.copy_(host)


def _alone(world: World) -> World:
    """A world for each rank."""
    alone = world.split(world.rank)
    if alone is None:
        raise ValueError("a rank that is not in its own world")
    return alone
