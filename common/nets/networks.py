"""Networks: a small and a medium one of our own, a pretrained one, and torchvision's classifiers by name."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.nets.pretrained import PACKAGES, pretrained_network

SMALL, MEDIUM = OWN = ("small", "medium")
"""Networks of our own, which take images of any number of channels; all others take colour."""

AUXILIARY = {"googlenet", "inception_v3"}
"""Networks with a second head for training, which is left out here."""


class NetworkSpec(NamedTuple):
    """The specification of a network.

    Attributes:
        name: "small", "medium", one of pretrained.PACKAGES, or the name of a torchvision classifier.
        channels: the number of channels of its images.
        height: the height of its images, in pixels.
        width: the width of its images, in pixels.
        n_classes: the number of classes.
        batch_norm: whether the small network normalises by batch.
    """

    name: str
    channels: int
    height: int
    width: int
    n_classes: int
    batch_norm: bool = True


def build(spec: NetworkSpec) -> nn.Module:
    """Return a network with random weights from torch's generator.

    Raises:
        InputError: there is no network of that name, or it cannot take images of that size.
    """
    if spec.name == SMALL:
        return small(spec)
    if spec.name == MEDIUM:
        return medium(spec)
    if spec.name in PACKAGES:
        pretrained = pretrained_network(spec.name, spec.n_classes, max(spec.height, spec.width))
        _check_image_size(pretrained, spec)
        return pretrained
    # imported here because it takes a second, which the small network does not need
    from torchvision import models

    classifiers = models.list_models(module=models)  # get_model() knows detectors and others as well
    if spec.name not in classifiers:
        names = ", ".join([*OWN, *PACKAGES, *classifiers])
        raise InputError(f"--network {spec.name}: no such network; use one of {names}")
    options = {"aux_logits": False, "init_weights": True} if spec.name in AUXILIARY else {}
    network: nn.Module = models.get_model(spec.name, weights=None, num_classes=spec.n_classes, **options)
    _check_image_size(network, spec)
    return network


def small(spec: NetworkSpec) -> nn.Module:
    """Return the small network: two convolutional blocks, then linear layers of 256, 256 and n_classes.

    A block is a 3×3 convolution of 16 channels, batch norm, ReLU and 2×2 pooling.

    Raises:
        InputError: the images are smaller than 4×4.
    """

    def block(channels: int) -> list[nn.Module]:
        norm: list[nn.Module] = [nn.BatchNorm2d(16)] if spec.batch_norm else []
        return [nn.Conv2d(channels, 16, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    height, width = spec.height // 4, spec.width // 4
    if not height * width:
        raise InputError(f"images of {spec.height}x{spec.width} are too small for this network; --image-size 8")
    # in this order, because each layer takes its random weights from torch's generator when it is made
    features = nn.Sequential(*block(spec.channels), *block(16))
    hidden = [nn.Linear(16 * height * width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    classifier = nn.Sequential(*hidden, nn.Linear(256, spec.n_classes))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def medium(spec: NetworkSpec) -> nn.Module:
    """Return the medium network: five 3×3 convolutions in three blocks, the mean of each channel, a linear layer.

    A convolution is followed by batch norm and ReLU, and the first two blocks by 2×2 pooling. The blocks have 32,
    64 and 128 channels.

    Raises:
        InputError: the images are smaller than 4×4.
    """

    def convolution(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    if min(spec.height, spec.width) < 4:
        raise InputError(f"images of {spec.height}x{spec.width} are too small for this network; --image-size 8")
    features = nn.Sequential(
        *(*convolution(spec.channels, 32), nn.MaxPool2d(2)),
        *(*convolution(32, 64), *convolution(64, 64), nn.MaxPool2d(2)),
        *(*convolution(64, 128), *convolution(128, 128)),
    )
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        OrderedDict(features=features, pool=nn.Sequential(*pooled), classifier=nn.Linear(128, spec.n_classes))
    )


def _check_image_size(network: nn.Module, spec: NetworkSpec) -> None:
    """Try the network on an image of its size.

    Raises:
        InputError: the network cannot take it.
    """
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
    """Return True if training needs at least two images per batch.

    That is so where a single image leaves batch norm with one value per channel, which it refuses to normalise.
    """
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    image = next(network.parameters()).new_zeros(1, spec.channels, spec.height, spec.width)
    network.train()
    try:
        with torch.no_grad():
            network(image)
    except ValueError:
        return True
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
    return False


def load_weights(network: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Load the weights of another network into this one: all that fit by name and shape.

    Args:
        network: the network to load them into.
        weights: weights by name, as in a state_dict().

    Returns:
        the names of the network's weights that were left as they are, such as a head for other classes.

    Raises:
        InputError: no weight fits.
    """
    state = network.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if isinstance(value, Tensor) and name in state and state[name].shape == value.shape
    }
    if not fitting:
        raise InputError("its weights belong to another network: no name and shape agrees")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.load_state_dict(fitting, strict=False)
    return [name for name in state if name not in fitting]
