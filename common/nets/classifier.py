"""A network with what is needed to use it: its preprocessing and the names of its classes."""

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
"""Scores that are held at once when images are judged: rows times classes."""


@dataclass
class Classifier:
    """A network in use.

    Attributes:
        spec: what it was built from.
        network: on `device`.
        preprocessing: what its images go through.
        class_names: one name a class.
        device: where it computes.
        bf16: whether it multiplies in bfloat16.
    """

    spec: NetworkSpec
    network: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    device: torch.device
    bf16: bool = False

    def __post_init__(self) -> None:
        # a pixel's channels side by side, as images come: convolutions are half as fast the other way round
        self.network.to(self.device).to(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.network.parameters()).dtype

    def logits(self, pixels: Pixels) -> Tensor:
        """Scores, (n, n_classes), of uint8 (n, height, width, channels)."""
        return self.forward(self.preprocessing.tensor(pixels, self.device, self.dtype))

    def forward(self, batch: Tensor) -> Tensor:
        """Scores of what preprocessing made of images."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.network(batch)
        return logits.float() if self.bf16 else logits

    def score_blocks(self, pixels: Pixels) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """One score a class, as it classifies outside of training, a block at a time.

        Yields:
            the images' positions, and their scores.
        """
        rows = max(1, MOST_SCORES // len(self.class_names))
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(pixels), rows):
                block = slice(start, min(start + rows, len(pixels)))
                yield block, self.logits(pixels[block]).cpu().numpy()
