"""The network that a run begins with: built on every rank, with given weights on rank 0."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from common.console import Console
from common.errors import InputError
from common.nets.checkpoints import read_weights
from common.nets.classifier import Classifier
from common.nets.heads import Head, head_of
from common.nets.networks import NetworkSpec, build, load_weights
from common.nets.pretrained import pretrained_weights
from mpi_jobs.engine.world import World
from mpi_jobs.training.flags import RIDGE
from mpi_jobs.training.plan import TrainingPlan
from mpi_jobs.training.ridge_head import check_head


def make_classifier(
    world: World, arguments: argparse.Namespace, plan: TrainingPlan, device: torch.device, console: Console
) -> Classifier:
    """Make this rank's network, with the weights of --weights or --pretrained on rank 0. All ranks call this.

    Raises:
        AgreedError: the network cannot be made, or the weights are not there or belong to another.
    """
    network = world.everywhere(lambda: _built(plan.spec, arguments.seed))
    if arguments.weights is not None or arguments.pretrained:
        world.at_root(
            lambda: _load_weights(
                arguments.weights or pretrained_weights(arguments.network),
                network,
                console,
                arguments.head == RIDGE,
            )
        )
    return Classifier(plan.spec, network, plan.preprocessing, plan.classes.names, device, arguments.bf16)


def _built(spec: NetworkSpec, seed: int) -> nn.Module:
    """Make a network with random weights."""
    torch.manual_seed(seed % 2**63)
    try:
        return build(spec)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the network cannot be made ({reason}); a smaller --image-size may help") from error


def _load_weights(path: Path, network: nn.Module, console: Console, head_is_fitted: bool) -> None:
    """Load the weights in a file into rank 0's network, whose parameters all ranks get later."""
    weights, unwrapped = read_weights(path, network.state_dict())
    try:
        left = load_weights(network, weights)
    except InputError as error:
        raise InputError(f"--weights {path}: {error}; --network says which network to build") from error
    if unwrapped:
        console.say(f"{path.name}: its weights were unwrapped from {', '.join(map(repr, unwrapped))}")
    foreign = len(weights.keys() - network.state_dict().keys())
    if foreign:
        console.say(f"{path.name}: {foreign} of its {len(weights)} weights are of no use to this network")
    head = head_of(network) if head_is_fitted else None
    left = [name for name in left if head is None or name not in (head.weight, head.bias)]
    if left:
        console.say(f"{path.name} has no weights that fit {', '.join(left)}: these start at random")


def find_head(world: World, arguments: argparse.Namespace, network: nn.Module) -> Head | None:
    """Return the head of the network; None if no flag asks for it. All ranks call this.

    Raises:
        AgreedError: the network has none, or --head ridge cannot fit it.
    """

    def find() -> Head:
        head = head_of(network)
        if head is None:
            raise InputError(
                f"--network {arguments.network}: there is no linear layer at its end, which --freeze, "
                "--backbone-lr and --head ridge need; leave them out, or take another network"
            )
        if arguments.head == RIDGE:
            check_head(head.layer)
        return head

    needed = arguments.freeze or arguments.backbone_lr != 1 or arguments.head == RIDGE
    return world.everywhere(find) if needed else None
