"""A faster way from files to predictions, which come out the same.

Files: JPEGs are decoded straight into an array, all are resized by torch, which differs from Pillow by a rounded
level here and there; together that takes half as long. Networks: batch norm is folded into the convolutions before
it, and where the device multiplies in bfloat16 the network does; images whose two best classes come out close are
scored again in float32.
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
from common.data.decode import MAX_PIXELS, STAGES, PixelFormat, Stages, UndecodableImageError, header
from common.nets.classifier import Classifier
from common.nets.devices import limit_thread, multiplies_in_bf16

CLOSE = 0.02
"""Of the largest score's magnitude: how far the two best must be apart to be told apart in bfloat16. Its numbers
have eight bits; what comes out of dozens of layers is off by less than half of this."""


def hasten(classifier: Classifier) -> Classifier:
    """The same classifier, faster."""
    exact = Classifier(
        classifier.spec, _folded(classifier.network), classifier.preprocessing, classifier.class_names,
        classifier.device,
    )  # fmt: skip
    return FastClassifier.of(exact) if multiplies_in_bf16(classifier.device) else exact


def _folded(network: nn.Module) -> nn.Module:
    """A copy with batch norm folded into convolutions; the network itself where it cannot be traced."""
    from torch.fx.experimental.optimization import fuse

    network.eval()
    try:
        folded: nn.Module = fuse(network)
    except Exception:  # tracing fails in as many ways as networks are written
        return network
    return folded.eval()


class FastClassifier(Classifier):
    """One that multiplies in bfloat16, and scores again in float32 what is close.

    Attributes:
        exact: the one in float32.
    """

    exact: Classifier

    @classmethod
    def of(cls, exact: Classifier) -> FastClassifier:
        """A copy in bfloat16 of one in float32."""
        network = deepcopy(exact.network).to(torch.bfloat16)
        fast = cls(exact.spec, network, exact.preprocessing, exact.class_names, exact.device)
        fast.exact = exact
        return fast

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that it takes: normalised in float32, and then rounded once."""
        return torch.float32

    def forward(self, batch: Tensor) -> Tensor:
        """Scores, of which the close ones are exact."""
        logits = self.network(batch.to(torch.bfloat16)).float()
        if logits.shape[1] > 1:
            best = logits.topk(2, dim=1).values
            close = (best[:, 0] - best[:, 1]) < CLOSE * logits.abs().amax(1)
            if close.any():
                logits[close] = self.exact.forward(batch[close])
        result: Tensor = logits
        return result


# stages of decoding, whose images are tensors (channels, height, width)

_known = threading.local()

JPEG = b"\xff\xd8"
MAY_TURN = (b"Exif\0\0", b"tiff:Orientation")
"""What a file has in it that may have to be turned: EXIF or XMP."""


def _stay_alone() -> None:
    """Let torch use this thread only: it is one of several that decode."""
    if not getattr(_known, "alone", False):
        limit_thread(1)
        _known.alone = True


def _load(data: bytes, form: PixelFormat) -> Tensor:
    _stay_alone()
    pixels: Pixels | None = None
    if _is_usual(data):
        # what it refuses, Pillow may be more patient with, or says in fewer words what is wrong
        with suppress(ValueError):
            pixels = simplejpeg.decode_jpeg(data, "GRAY" if form.channels == 1 else "RGB")
    if pixels is None:
        image = np.array(STAGES["decode"](data, form))
        pixels = image.reshape(*image.shape[:2], form.channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _is_usual(data: bytes) -> bool:
    """Whether this is a JPEG, grey or in colour, upright as it is stored, of a size that is allowed."""
    if not data.startswith(JPEG):
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        turned = any(word in data for word in MAY_TURN) and not header(io.BytesIO(data)).upright
    except (ValueError, UndecodableImageError):
        return False
    return colours in ("YCbCr", "Gray", "RGB") and height * width <= MAX_PIXELS and not turned


def _resize(image: Tensor, form: PixelFormat) -> Tensor:
    size = form.resized(*image.shape[1:])
    if image.shape[1:] == size:
        return image
    return interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def _crop(image: Tensor, form: PixelFormat) -> Tensor:
    rows, columns = form.centre(*image.shape[1:])
    return image[:, rows, columns]


def _to_bytes(image: Tensor, form: PixelFormat) -> Pixels:
    pixels: Pixels = STAGES["to bytes"](image.permute(1, 2, 0).numpy(), form)
    return pixels


FAST_STAGES: Stages = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
