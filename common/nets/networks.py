"""The networks: a small one of our own, and those of torchvision by name."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import InputError

SMALL = "small"
AUXILIARY = {"googlenet", "inception_v3"}
"""Networks that have a second head for training, which is left out here."""


class NetworkSpec(NamedTuple):
    """What a network is built from.

    Attributes:
        name: "small", or a classifier of torchvision.
        channels: of its images.
        height: of its images.
        width: of its images.
        n_classes: how many there are.
        batch_norm: whether the small one normalises by batch.
    """

    name: str
    channels: int
    height: int
    width: int
    n_classes: int
    batch_norm: bool = True


def build(spec: NetworkSpec) -> nn.Module:
    """A network with random weights, from torch's generator.

    Raises:
        InputError: there is none of that name, or it cannot take images of that size.
    """
    if spec.name == SMALL:
        return small(spec)
    # imported here, because it takes a second, which the small network has no use for
    from torchvision import models

    classifiers = models.list_models(module=models)  # and not all that get_model() knows
    if spec.name not in classifiers:
        raise InputError(f"--network {spec.name}: no such network; use one of {', '.join([SMALL, *classifiers])}")
    without = {"aux_logits": False, "init_weights": True} if spec.name in AUXILIARY else {}
    network: nn.Module = models.get_model(spec.name, weights=None, num_classes=spec.n_classes, **without)
    _try(network, spec)
    return network


def small(spec: NetworkSpec) -> nn.Module:
    """Two 3×3 convolutions of 16 with batch norm, ReLU and 2×2 pooling, then 256, 256, classes."""

    def convolution(channels: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.BatchNorm2d(16)] if spec.batch_norm else []
        return [nn.Conv2d(channels, 16, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    height, width = spec.height // 4, spec.width // 4
    if not height * width:
        raise InputError(f"images of {spec.height}x{spec.width} are too small for this network; --image-size 8")
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*convolution(spec.channels), *convolution(16)),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(
                nn.Linear(16 * height * width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                nn.Linear(256, spec.n_classes),
            ),
        )
    )  # fmt: skip


def _try(network: nn.Module, spec: NetworkSpec) -> None:
    """See whether it takes images of this size."""
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, spec.channels, spec.height, spec.width))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(
            f"--network {spec.name} cannot take images of {spec.height}x{spec.width} "
            f"({str(error).splitlines()[0]}); another --image-size, mostly 224, is the remedy"
        ) from error
    network.train()


def needs_two(network: nn.Module, spec: NetworkSpec) -> bool:
    """Whether a batch of one image leaves batch norm a single value to normalise, which it refuses."""
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    image = next(network.parameters()).new_zeros(1, spec.channels, spec.height, spec.width)
    network.train()
    try:
        with torch.no_grad():
            network(image)
    except ValueError:
        return True
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])
    return False


def load_weights(network: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Start from the weights of another network: all that fit by name and shape.

    Args:
        network: to load them into.
        weights: by name, as state_dict() has them.

    Returns:
        the names of the network's own that were left as they are, such as those of a head for other classes.

    Raises:
        InputError: none fits.
    """
    own = network.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if isinstance(value, Tensor) and name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise InputError("its weights are of another network: no name and shape agrees")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
