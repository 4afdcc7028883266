"""Networks that embed images, exported to ONNX: a pretrained one, or a run of train_cnn.py without its head."""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.arrays import Pixels, Singles
from common.data.decode import PixelFormat
from common.data.imagenet import PHOTOGRAPH_SIDE
from common.errors import InputError
from common.nets.checkpoints import read_weights
from common.nets.heads import head_of
from common.nets.networks import NetworkSpec, build, load_weights
from common.nets.preprocessing import Preprocessing
from common.nets.pretrained import (
    EFFICIENTNET,
    PACKAGES,
    check_installed,
    pretrained_network,
    pretrained_weights,
)
from common.nets.trained import TrainedNetwork
from common.onnx_files import with_metadata

OPSET = 17

IMAGENET_CLASSES = 1000


class Backbone(NamedTuple):
    """A network that embeds images.

    Attributes:
        network: takes preprocessed images (n, channels, height, width), and makes (n, d).
        preprocessing: what happens to images before.
        shape: (height, width, channels) of preprocessed images.
    """

    network: nn.Module
    preprocessing: Preprocessing
    shape: tuple[int, int, int]

    def embed(self, pixels: Pixels) -> Singles:
        """Embed images in torch: uint8 (n, height, width, channels or 1) to float32 (n, d)."""
        with torch.inference_mode():
            x = self.preprocessing.tensor(pixels, torch.device("cpu"), torch.float32)
            x = x.expand(-1, self.shape[2], -1, -1)
            found: Singles = self.network(x).flatten(1).numpy()
            return found

    def onnx(self) -> bytes:
        """Export the network to an ONNX file that takes any number of images.

        Raises:
            InputError: the package onnx is not installed, or PyTorch cannot export the network.
        """
        if find_spec("onnx") is None:
            raise InputError("onnx exports networks, and is not installed; make setup PARTS=deep brings it")
        height, width, channels = self.shape
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter to itself
            try:
                torch.onnx.export(
                    self.network,
                    (torch.zeros(1, channels, height, width),),
                    buffer,  # type: ignore[arg-type]
                    input_names=["images"],
                    output_names=["embedding"],
                    dynamic_axes={"images": {0: "n"}, "embedding": {0: "n"}},
                    opset_version=OPSET,
                    dynamo=False,
                )
            except torch.onnx.errors.OnnxExporterError as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(f"PyTorch cannot export this network ({reason}); export it yourself") from error
        noted = {"mean": self.preprocessing.mean, "deviation": self.preprocessing.deviation}
        return with_metadata(buffer.getvalue(), {key: "/".join(map(repr, of)) for key, of in noted.items()})


def backbone(name: str) -> Backbone:
    """Return a network that embeds images.

    Args:
        name: one of PACKAGES, or the run folder or checkpoint of a network that train_cnn.py has trained.

    Raises:
        InputError: there is none, or what it needs is not installed.
    """
    if name in PACKAGES:
        check_installed(name, f"--features network:{name}")
        return _efficientnet()
    if not Path(name).exists():
        raise InputError(
            f"--features network:{name}: no network and no folder of that name; use "
            f"{', '.join(f'network:{known}' for known in PACKAGES)}, network:FILE.onnx, or network:RUN, a "
            "run folder of train_cnn.py"
        )
    return _trained(Path(name))


def weighted_backbone(name: str, weights: Path) -> Backbone:
    """Return a classifier of torchvision without its head, with weights from a file.

    Args:
        name: of the classifier, such as resnet50.
        weights: the file; what it has for the head is not needed, and may be of any classes.

    Raises:
        InputError: there is no such classifier, it has no linear head, or the file lacks weights of other layers.
    """
    side = PHOTOGRAPH_SIDE
    network = build(NetworkSpec(name, 3, side, side, IMAGENET_CLASSES))
    head = head_of(network)
    if head is None:
        raise InputError(f"{name}: there is no linear layer at its end to cut off; export another network")
    read = read_weights(weights, network.state_dict()).weights
    try:
        left = set(load_weights(network, read))
    except InputError as error:
        raise InputError(f"--weights {weights}: {error}; name those of {name}") from error
    if lacking := sorted(left - {head.weight, head.bias}):
        raise InputError(f"--weights {weights}: no weights that fit {lacking[0]} of {name}; name those of {name}")
    network.set_submodule(head.name, nn.Identity())
    preprocessing = Preprocessing.for_channels(PixelFormat((side, side)), 3)
    return Backbone(network.eval(), preprocessing, (side, side, 3))


def _efficientnet() -> Backbone:
    side = PHOTOGRAPH_SIDE
    network = pretrained_network(EFFICIENTNET, IMAGENET_CLASSES, side)
    weights = torch.load(pretrained_weights(EFFICIENTNET), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    shape = side, side, 3
    without_head = nn.Sequential(_Trunk(network), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Backbone(without_head.eval(), Preprocessing.for_channels(PixelFormat((side, side)), 3), shape)


class _Trunk(nn.Module):
    """All layers of an EfficientNet but its pooling and its head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute the last feature maps."""
        found: Tensor = self.network.extract_features(x)  # type: ignore[operator]
        return found


def whole_network(path: Path) -> tuple[Backbone, tuple[str, ...]]:
    """Return a network that train_cnn.py has trained, head and all, and the names of its classes.

    Raises:
        InputError: there is no checkpoint, or the file is something else.
    """
    trained = TrainedNetwork.load(path)
    network = trained.classifier(torch.device("cpu"), "plain").network
    network = network.to(memory_format=torch.contiguous_format)
    spec = trained.spec
    shape = spec.height, spec.width, spec.channels
    return Backbone(network.eval(), trained.preprocessing, shape), trained.classes.names


def _trained(path: Path) -> Backbone:
    """Return a network that train_cnn.py has trained, up to what its last linear layer takes."""
    whole, _ = whole_network(path)
    head = head_of(whole.network)
    if head is None:
        raise InputError(f"--features network:{path}: its network has no linear layer at its end")
    whole.network.set_submodule(head.name, nn.Identity())
    return whole
