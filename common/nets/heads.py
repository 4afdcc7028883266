"""The head of a network: the linear layer at its end, which scores what all layers below it make of an image.

The layers below the head are the backbone. What they make of an image is its embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.arrays import Pixels
from common.nets.classifier import Classifier


class Head(NamedTuple):
    """The head of a network.

    Attributes:
        name: the name of the layer in the network.
        layer: the layer, which takes embeddings (n, d) and returns scores (n, n_classes).
    """

    name: str
    layer: nn.Linear

    @property
    def weight(self) -> str:
        """The name of its weight in the network."""
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        """The name of its bias in the network."""
        return f"{self.name}.bias"

    def embed(self, classifier: Classifier, pixels: Pixels) -> Tensor:
        """Return the embeddings of images in evaluation mode.

        Args:
            classifier: the classifier whose network has this head.
            pixels: uint8 (n, height, width, channels).

        Returns:
            (n, d), on the classifier's device.
        """
        caught: list[Tensor] = []
        catching = self.layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        classifier.network.eval()
        try:
            with torch.inference_mode():
                classifier.logits(pixels)
        finally:
            catching.remove()
        return caught[0]


def head_of(network: nn.Module) -> Head | None:
    """Return the head of a network; None if it ends otherwise, as SqueezeNet does in a convolution."""
    linear = [Head(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else None
