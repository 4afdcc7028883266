"""The parameters of a network in one flat vector, which the ranks of a machine share where they can."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.data.splits import shard
from mpi_jobs.engine.world import World
from mpi_jobs.training.shared_memory import shared_bytes

FIRST_BUCKET_BYTES = 1 << 20
"""Size of the first bucket, which is small so that the first sum begins early."""

ALIGNED = 16
"""Parameters and slices begin at multiples of this many numbers: a cache line of the smallest type there is."""


class VectorSlice(NamedTuple):
    """The part of one bucket that this rank's optimiser steps: flat views of equal length.

    Attributes:
        values: parameters.
        gradient: their gradient; summed over all ranks once Replica.reduce() has returned.
        states: the optimiser's states.
        in_backbone: True if the parameters belong to the backbone of the layout.
    """

    values: Tensor
    gradient: Tensor
    states: tuple[Tensor, ...]
    in_backbone: bool


class VectorLayout:
    """The position of each parameter in the flat vector, and the buckets that the vector is cut into.

    Args:
        network: its parameters are all of one type and on one device.
        bucket_bytes: size of a bucket; a larger parameter has a bucket of its own.
        backbone: names of parameters that are sometimes frozen, or trained at another rate: no bucket holds both
            these and others.

    Attributes:
        names: names of the parameters, in the order of the vector.
        parameters: the parameters, in the same order.
        spans: where each parameter is; padding lies between them.
        buckets: where each bucket is.
        bucket_of: the bucket of each parameter.
        in_backbone: for each bucket, whether its parameters belong to the backbone.
        length: the number of elements of the vector.
    """

    def __init__(self, network: nn.Module, bucket_bytes: int, backbone: Collection[str] = frozenset()) -> None:
        named = list(network.named_parameters())
        self.names = [name for name, _ in reversed(named)]
        self.parameters = [parameter for _, parameter in reversed(named)]
        self.spans: list[slice] = []
        self.bucket_of: list[int] = []
        self.buckets: list[slice] = []
        self.in_backbone: list[bool] = []
        start = end = 0
        limit = min(FIRST_BUCKET_BYTES, bucket_bytes)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            size = parameter.numel()
            full = (end + size - start) * parameter.element_size() > limit
            if end > start and (full or (name in backbone) != self.in_backbone[-1]):
                self.buckets.append(slice(start, end))
                start, limit = end, bucket_bytes
            if len(self.in_backbone) == len(self.buckets):
                self.in_backbone.append(name in backbone)
            self.spans.append(slice(end, end + size))
            self.bucket_of.append(len(self.buckets))
            end += -(-size // ALIGNED) * ALIGNED
        self.buckets.append(slice(start, end))
        self.length = end

    @property
    def device(self) -> torch.device:
        """The device that all parameters are on."""
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The type of all parameters."""
        return self.parameters[0].dtype

    def view(self, flat: Tensor, i: int) -> Tensor:
        """Return parameter number i of a flat vector, with the parameter's shape and memory format."""
        parameter, part = self.parameters[i], flat[self.spans[i]]
        if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
            n, c, h, w = parameter.shape
            return part.view(n, h, w, c).permute(0, 3, 1, 2)
        return part.view(parameter.shape)

    def shares(self, part: int, n_parts: int) -> list[slice]:
        """Return where part number `part` of each bucket is, when every bucket is cut into even parts."""
        spans = []
        for bucket in self.buckets:
            cut = shard((bucket.stop - bucket.start) // ALIGNED, part, n_parts)
            spans.append(slice(bucket.start + ALIGNED * cut.start, bucket.start + ALIGNED * cut.stop))
        return spans

    def nothing(self) -> list[slice]:
        """Return an empty part of each bucket, for a rank that has none."""
        return [slice(bucket.start, bucket.start) for bucket in self.buckets]


class ParameterVectors:
    """The vectors of a machine: parameters, the optimiser's states, and one gradient per rank.

    All ranks make them, from networks of the same shape. The network's parameters become views of `values`, and
    everyone then has the parameters of rank 0.

    Args:
        world: the ranks.
        layout: the positions of the parameters.
        n_states: the number of vectors that the optimiser keeps.
        share: whether the ranks of a machine share memory, if they can.

    Attributes:
        machine: the ranks that share these vectors: only this rank if it shares with no other.
        values: the parameters.
        states: the optimiser's states, zeros at first.
        gradients: the gradient of each rank of `machine`.
        unshared: names of the machines whose ranks could not be given memory to share.
    """

    def __init__(self, world: World, layout: VectorLayout, n_states: int, share: bool) -> None:
        self._layout = layout
        self.machine, memory = self._allocate(world, n_states, share)
        self.values, self.states, self.gradients = memory[0], memory[1 : 1 + n_states], memory[1 + n_states :]
        unshared = platform.node() if share and not self.shared and world.neighbours > 1 else None
        self.unshared = sorted({host for host in world.all_gather(unshared) if host is not None})
        self._leaders = world.split(None if self.machine.rank else 0)
        self._move_parameters()

    @property
    def shared(self) -> bool:
        """True if this rank shares the vectors with others."""
        return self.machine.size > 1

    @property
    def gradient(self) -> Tensor:
        """The gradient of this rank."""
        return self.gradients[self.machine.rank]

    def slices(self, spans: Sequence[slice]) -> list[VectorSlice]:
        """Return parameters, gradient and states at each span that is not empty; there is one span per bucket."""
        return [
            VectorSlice(
                self.values[span], self.gradient[span], tuple(state[span] for state in self.states), in_backbone
            )
            for span, in_backbone in zip(spans, self._layout.in_backbone, strict=True)
            if span.stop > span.start
        ]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return contiguous copies in host memory of the contents of a flat vector, by parameter."""
        return {
            name: self._layout.view(flat, i).detach().cpu().clone(memory_format=torch.contiguous_format)
            for i, name in enumerate(self._layout.names)
        }

    def fill(self, flat: Tensor, named: Mapping[str, Tensor] | None) -> None:
        """Fill one of these vectors on all ranks, all of which call this.

        Args:
            flat: the vector.
            named: its contents by parameter, as named() returns them; None on ranks other than 0.
        """
        if self._leaders is not None:
            if named is not None:
                for i, name in enumerate(self._layout.names):
                    self._layout.view(flat, i).copy_(named[name])
            _broadcast(self._leaders, flat)
        self.machine.meet()

    def _allocate(self, world: World, n_states: int, share: bool) -> tuple[World, Sequence[Tensor]]:
        """Return the ranks that share memory with this one, and all vectors."""
        length, dtype = self._layout.length, self._layout.dtype
        machine = world.machine() if share else _alone(world)
        count = 1 + n_states + machine.size
        if machine.size > 1:
            memory = shared_bytes(machine, count * length * dtype.itemsize)
            if memory is not None:
                return machine, torch.from_numpy(memory).view(dtype).view(count, length).unbind()
            machine = _alone(machine)
        return machine, torch.zeros(2 + n_states, length, dtype=dtype, device=self._layout.device).unbind()

    def _move_parameters(self) -> None:
        """Copy rank 0's parameters into the vectors of all machines, and let the network use them there."""
        parameters = self._layout.parameters
        named = {name: p.detach() for name, p in zip(self._layout.names, parameters, strict=True)}
        self.fill(self.values, named)
        for i, parameter in enumerate(parameters):
            parameter.data = self._layout.view(self.values, i)


def _broadcast(leaders: World, flat: Tensor) -> None:
    """Copy the first leader's vector to all leaders."""
    host = flat.detach().cpu()
    leaders.broadcast(host.numpy(), 0)
    if flat.is_cuda:
        flat.copy_(host)


def _alone(world: World) -> World:
    """Return a world of this rank alone. All ranks call this."""
    alone = world.split(world.rank)
    if alone is None:
        raise ValueError("a rank that is not in its own world")
    return alone
