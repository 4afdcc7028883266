"""One set of parameters, and gradients that are summed over all ranks while backward still runs.

All parameters lie in one flat vector, the last layer's first, because their gradients are computed first. The
vector is cut into buckets. When the gradients of a bucket are complete on a rank, their sum over the ranks begins,
and the rank goes on with backward.

The ranks of a machine share memory where they can. Each machine then has one copy of the parameters and of the
optimiser's state, and one gradient vector per rank. For each bucket a rank

- adds up one slice over the gradients of its neighbours, straight from their memory;
- sums the slice, by a message, with the ranks that hold the same slice on other machines;
- steps the optimiser on that slice of the shared parameters.

So nothing is copied within a machine, and each byte travels between machines once per machine and not once per
rank. This is a reduce-scatter, a sharded optimiser (as in ZeRO, Rajbhandari et al. 2020) and an all-gather, which
costs nothing in shared memory.

A rank that shares no memory counts as a machine of its own: each bucket is then all-reduced by a message, as DDP
does (Li et al. 2020).

vector.py holds the vectors, exchange.py the sum of each bucket, staging.py the way from a GPU to MPI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.nets.linear import LARGE, WeightGradient
from mpi_jobs.engine.world import World
from mpi_jobs.training.exchange import Exchange, Links
from mpi_jobs.training.staging import Staging
from mpi_jobs.training.vector import ParameterVectors, VectorLayout

WIRES = ("fp32", "fp16")


@dataclass(frozen=True)
class ExchangeSettings:
    """Settings of the exchange of gradients.

    Attributes:
        shared: whether the ranks of a machine share memory, if they can.
        bucket_bytes: size of each bucket but the first; no parameter is cut in two.
        wire: precision of gradients between machines: one of WIRES.
        direct: whether MPI reads and writes the memory of the device itself.
    """

    shared: bool = True
    bucket_bytes: int = 25 << 20
    wire: str = "fp32"
    direct: bool = False


def passes_through_host(device: torch.device, direct: bool) -> bool:
    """Return True if gradients on this device reach MPI by way of host memory."""
    return device.type == "cuda" and not direct


class Replica:
    """A rank's copy of a network, whose parameters lie in one flat vector and whose gradients are exchanged.

    All ranks make it, from networks of the same shape; everyone then has the parameters of rank 0.

    Args:
        world: the ranks.
        network: on its device; its parameters become views of the vector.
        n_states: the number of vectors that the optimiser keeps.
        settings: how gradients are exchanged.
        backbone: names of the parameters that freeze() freezes, or that are trained at a rate of their own.

    Attributes:
        layout: the positions of the parameters.
        vectors: parameters, states of the optimiser and gradients.
        slices: the slices that this rank's optimiser steps.
        exchange: the sums of a step.
    """

    def __init__(
        self,
        world: World,
        network: nn.Module,
        n_states: int,
        settings: ExchangeSettings,
        backbone: Collection[str] = frozenset(),
    ) -> None:
        self.layout = layout = VectorLayout(network, settings.bucket_bytes, backbone)
        cuda = layout.device.type == "cuda"
        through_host = world.size > 1 and passes_through_host(layout.device, settings.direct)
        share = settings.shared and not cuda and not through_host
        self.vectors = vectors = ParameterVectors(world, layout, n_states, share)
        own, peers = self._share_work(world)
        self.slices = vectors.slices(own)
        links = None
        if peers is not None and peers.size > 1:
            links = Links(peers, Staging(vectors.gradient, through_host, settings.wire == "fp16"))
        self.exchange = Exchange(layout, own, vectors, links)
        self._views = [layout.view(vectors.gradient, i) for i in range(len(layout.parameters))]
        for i, parameter in enumerate(layout.parameters):
            parameter.register_post_accumulate_grad_hook(self._hook(i))  # type: ignore[no-untyped-call]
        self._add_weight_gradients(network)

    def _share_work(self, world: World) -> tuple[list[slice], World | None]:
        """Return this rank's slice of each bucket, and the ranks that have the same slices on other machines.

        Every machine cuts buckets into as many slices as the smallest machine has ranks; other ranks have none.
        """
        machine = self.vectors.machine
        n_slices = min(world.all_gather(machine.size))
        if machine.rank < n_slices:
            return self.layout.shares(machine.rank, n_slices), world.split(machine.rank)
        return self.layout.nothing(), world.split(None)

    def _hook(self, i: int) -> Callable[[Tensor], None]:
        """Return a hook that moves the gradient of parameter number i into the vector."""

        def arrived(parameter: Tensor) -> None:
            # none if no gradient reaches it, or if a WeightGradient has computed it and tells of it itself
            if parameter.grad is not None:
                self._views[i].copy_(parameter.grad)
                parameter.grad = None
                self.exchange.arrive([i])

        return arrived

    def _add_weight_gradients(self, network: nn.Module) -> None:
        """Let large linear layers compute their gradients in the vector."""
        numbers = {parameter: i for i, parameter in enumerate(self.layout.parameters)}
        layers = [module for module in network.modules() if type(module) is nn.Linear]
        users = Counter(layer.weight for layer in layers)
        for layer in layers:
            if layer.weight.numel() >= LARGE and users[layer.weight] == 1:
                own = [numbers[parameter] for parameter in layer.parameters()]  # weight, and bias if there is one
                views = [self._views[i] for i in own]
                bias = views[1] if len(views) > 1 else None
                WeightGradient(layer, views[0], bias, partial(self.exchange.arrive, own))

    def freeze(self, frozen: bool) -> None:
        """Leave the backbone as it is in the next steps, or train it: all ranks say the same, between two steps.

        Gradients of a frozen backbone are neither computed nor summed.
        """
        layout = self.layout
        for parameter, bucket in zip(layout.parameters, layout.bucket_of, strict=True):
            parameter.requires_grad_(not (frozen and layout.in_backbone[bucket]))
        self.exchange.leave_out([frozen and in_backbone for in_backbone in layout.in_backbone])

    def reduce(self) -> None:
        """Wait until the gradients of all ranks are summed, in `slices`; a rank without images adds nothing."""
        for i, arrived in enumerate(self.exchange.arrived):
            if not arrived:
                self._views[i].zero_()
        self.exchange.finish()

    def settle(self) -> None:
        """Wait until all slices of the parameters are stepped."""
        if self.vectors.shared:
            self.vectors.machine.meet()
