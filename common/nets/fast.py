"""The fast mode: faster decoding and a faster network, with the same predictions but for rare close calls.

Files: JPEGs are decoded straight into an array, and all images are resized by torch, which differs from Pillow by
a rounded level here and there. Together that takes half as long. Networks: batch norm is folded into the
convolutions before it, and the network multiplies in bfloat16 where the device does; images whose two best classes
come out close are scored again in float32.
"""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from copy import deepcopy

import numpy as np
import simplejpeg
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from common.arrays import Pixels
from common.data.decode import DECODING_STEPS, DecodingSteps, PixelFormat
from common.data.pillow import UndecodableImageError, header
from common.nets.classifier import Classifier
from common.nets.devices import limit_thread, multiplies_in_bf16

CLOSE = 0.02
"""Margin below which two classes are not told apart in bfloat16, as a fraction of the largest score's magnitude.
Its numbers have eight significant bits, and after dozens of layers scores are off by less than half of this."""


def speed_up(classifier: Classifier) -> Classifier:
    """Return a faster classifier with the same network."""
    exact = Classifier(
        classifier.spec,
        _folded(classifier.network),
        classifier.preprocessing,
        classifier.class_names,
        classifier.device,
    )
    return FastClassifier.of(exact) if multiplies_in_bf16(classifier.device) else exact


def _folded(network: nn.Module) -> nn.Module:
    """Return a copy with batch norm folded into convolutions, or the network itself if it cannot be traced."""
    from torch.fx.experimental.optimization import fuse

    network.eval()
    try:
        folded: nn.Module = fuse(network)
    except Exception:  # tracing fails in as many ways as networks are written
        return network
    return folded.eval()


class FastClassifier(Classifier):
    """A classifier that multiplies in bfloat16, and scores again in float32 where two classes are close.

    Attributes:
        exact: the same classifier in float32.
    """

    exact: Classifier

    @classmethod
    def of(cls, exact: Classifier) -> FastClassifier:
        """Return a copy in bfloat16 of a classifier in float32."""
        network = deepcopy(exact.network).to(torch.bfloat16)
        fast = cls(exact.spec, network, exact.preprocessing, exact.class_names, exact.device)
        fast.exact = exact
        return fast

    @property
    def dtype(self) -> torch.dtype:
        """The type of the input: images are normalised in float32, and then rounded once."""
        return torch.float32

    def forward(self, batch: Tensor) -> Tensor:
        """Return scores, (n, n_classes), of preprocessed images; exact ones where two classes are close."""
        logits: Tensor = self.network(batch.to(torch.bfloat16)).float()
        if logits.shape[1] > 1:
            best = logits.topk(2, dim=1).values
            close = (best[:, 0] - best[:, 1]) < CLOSE * logits.abs().amax(1)
            if close.any():
                logits[close] = self.exact.forward(batch[close])
        return logits


# decoding steps; between them, images are tensors (channels, height, width)

_thread = threading.local()

JPEG = b"\xff\xd8"
"""The first bytes of a JPEG."""
MAY_TURN = (b"Exif\0\0", b"tiff:Orientation")
"""Marks of EXIF and XMP: a file with one of them may have to be turned upright."""


def _limit_this_thread() -> None:
    """Let torch use only this thread, because it is one of several that decode."""
    if not getattr(_thread, "limited", False):
        limit_thread(1)
        _thread.limited = True


def _load(data: bytes, pixel_format: PixelFormat) -> Tensor:
    _limit_this_thread()
    pixels: Pixels | None = None
    if _is_usual(data, pixel_format.max_pixels):
        # Pillow may decode a file that this decoder refuses, or say in fewer words what is wrong with it
        with suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(data, "GRAY" if pixel_format.channels == 1 else "RGB")
    if pixels is None:
        image = np.array(DECODING_STEPS["decode"](data, pixel_format))
        pixels = image.reshape(*image.shape[:2], pixel_format.channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _is_usual(data: bytes, max_pixels: int) -> bool:
    """Return True for a JPEG, grey or in colour, that is stored upright and of an allowed size."""
    if not data.startswith(JPEG):
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        turned = any(mark in data for mark in MAY_TURN) and not header(io.BytesIO(data), max_pixels).upright
    except (ValueError, UndecodableImageError):
        return False
    return colours in ("YCbCr", "Gray", "RGB") and height * width <= max_pixels and not turned


def _resize(image: Tensor, pixel_format: PixelFormat) -> Tensor:
    size = pixel_format.resized(*image.shape[1:])
    if image.shape[1:] == size:
        return image
    return interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def _crop(image: Tensor, pixel_format: PixelFormat) -> Tensor:
    rows, columns = pixel_format.centre(*image.shape[1:])
    return image[:, rows, columns]


def _to_bytes(image: Tensor, pixel_format: PixelFormat) -> Pixels:
    pixels: Pixels = DECODING_STEPS["to bytes"](image.permute(1, 2, 0).numpy(), pixel_format)
    return pixels


FAST_DECODING_STEPS: DecodingSteps = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
"""The decoding steps of the fast mode."""
