"""A faster way from files to predictions, which come out the same.

Files: JPEGs are decoded by torchvision straight to bytes, and resized by torch, which differs from Pillow by a
rounded level here and there and takes half as long. Networks: batch norm is folded into the convolutions before
it, and where the device multiplies in bfloat16 the network does; images whose two best classes come out close are
scored again in float32.
"""

from __future__ import annotations

import io
import threading
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from common.decode import STAGES, PixelFormat, Stages, header
from mpi_jobs.cnn.classifier import Classifier
from mpi_jobs.cnn.devices import limit_thread, multiplies_in_bf16

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


# stages of decoding: what is no JPEG goes the usual way

_known = threading.local()


def _stay_alone() -> None:
    """Let torch use this thread only: it is one of several that decode."""
    if not getattr(_known, "alone", False):
        limit_thread(1)
        _known.alone = True


def _load(data: bytes, form: PixelFormat) -> Any:
    _stay_alone()
    found = header(io.BytesIO(data))
    if found.kind != "JPEG" or found.mode not in ("L", "RGB") or form.size is None or form.binarize is not None:
        return STAGES["decode"](data, form)
    mode = ImageReadMode.GRAY if form.channels == 1 else ImageReadMode.RGB
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        return decode_jpeg(raw, mode=mode, apply_exif_orientation=True)
    except RuntimeError:
        return STAGES["decode"](data, form)  # which says in fewer words what is wrong, or can


def _resize(image: Any, form: PixelFormat) -> Any:
    if not isinstance(image, Tensor):
        return STAGES["resize"](image, form)
    size = form.resized(*image.shape[1:])
    if image.shape[1:] == size:
        return image
    return interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def _crop(image: Any, form: PixelFormat) -> Any:
    if not isinstance(image, Tensor):
        return STAGES["crop"](image, form)
    rows, columns = form.centre(*image.shape[1:])
    return image[:, rows, columns]


def _to_bytes(image: Any, form: PixelFormat) -> Any:
    if not isinstance(image, Tensor):
        return STAGES["to bytes"](image, form)
    return np.asarray(image.permute(1, 2, 0))


FAST_STAGES: Stages = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
