"""A trained network as one program of PyTorch, from pixels to scores, which needs nothing of this project."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.arrays import Pixels
from common.errors import InputError
from common.nets.backbones import whole_network
from common.nets.preprocessing import Preprocessing


class _FromPixels(nn.Module):
    """A network behind its preprocessing.

    Args:
        network: takes preprocessed images (n, channels, height, width).
        preprocessing: what happens to pixels before.
        channels: of the network.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, channels: int) -> None:
        super().__init__()
        self.network = network
        self._preprocessing = preprocessing
        self._channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Score uint8 (n, height, width, channels)."""
        normalised = self._preprocessing.normalise(images.to(torch.float32))
        found: Tensor = self.network(normalised.expand(-1, self._channels, -1, -1))
        return found


def program(run: Path) -> bytes:
    """Return the network of a run as a file that `torch.export.load` reads.

    Raises:
        InputError: there is no network, or PyTorch cannot export it.
    """
    found, _ = whole_network(run)
    height, width, channels = found.shape
    module = _FromPixels(found.network, found.preprocessing, channels).eval()
    two = torch.zeros(2, height, width, found.preprocessing.pixel_format.channels, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter to itself
        try:
            exported = torch.export.export(module, (two,), dynamic_shapes=({0: torch.export.Dim("n")},))
            torch.export.save(exported, buffer)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{run}: PyTorch cannot export this network ({reason}); use --format onnx") from error
    return buffer.getvalue()


def program_scorer(file: bytes) -> Callable[[Pixels], NDArray[np.float32]]:
    """Return a function from uint8 images (n, height, width, channels) to the scores of such a file."""
    module = torch.export.load(io.BytesIO(file)).module()

    def score(pixels: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores: NDArray[np.float32] = module(torch.from_numpy(np.array(pixels))).numpy()
            return scores

    return score
