"""A network with its preprocessing and the names of its classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.arrays import Pixels
from common.nets.networks import NetworkSpec
from common.nets.preprocessing import Preprocessing

MOST_SCORES = 1 << 24
"""The most scores (rows times classes) that are held at once when images are scored."""


@dataclass
class Classifier:
    """A network in use.

    Attributes:
        spec: what the network was built from.
        network: the network, on `device`.
        preprocessing: what happens to its images.
        class_names: one name per class.
        device: the device that it computes on.
        bf16: whether it multiplies in bfloat16.
    """

    spec: NetworkSpec
    network: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    device: torch.device
    bf16: bool = False

    def __post_init__(self) -> None:
        # channels last, the layout of images: with channels first, convolutions take twice as long
        self.network.to(self.device).to(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.network.parameters()).dtype

    def logits(self, pixels: Pixels) -> Tensor:
        """Return scores, (n, n_classes), of uint8 images (n, height, width, channels)."""
        return self.forward(self.preprocessing.tensor(pixels, self.device, self.dtype))

    def forward(self, batch: Tensor) -> Tensor:
        """Return scores, (n, n_classes), of preprocessed images (n, channels, height, width)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.network(batch)
        return logits.float() if self.bf16 else logits

    def score_blocks(self, pixels: Pixels) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Score images in evaluation mode, block by block.

        Yields:
            the positions of the block's images, and their scores: float32 (m, n_classes).
        """
        rows = max(1, MOST_SCORES // len(self.class_names))
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(pixels), rows):
                block = slice(start, min(start + rows, len(pixels)))
                yield block, self.logits(pixels[block]).cpu().numpy()
