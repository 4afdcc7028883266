"""A trained network: how it is loaded, sent to predictors, and built there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.arrays import Pixels
from common.data.catalogue import Classes
from common.data.decode import DECODING_STEPS, DecodingSteps
from common.errors import InputError
from common.nets.checkpoints import BEST, LAST, Checkpoint
from common.nets.classifier import Classifier
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing

MODES = ("plain", "fast")
"""How files are decoded and networks compute: by Pillow and in float32, or as `common.nets.fast` does."""


class TrainedNetwork(NamedTuple):
    """A trained network as arrays, which can be sent to other processes.

    Attributes:
        spec: what the network is built from.
        weights: parameters and buffers by name.
        preprocessing: what happens to its images.
        classes: the classes that it distinguishes.
        digest: SHA-256 of all of these: equal if and only if the networks are.
    """

    spec: NetworkSpec
    weights: dict[str, NDArray[Any]]
    preprocessing: Preprocessing
    classes: Classes
    digest: str

    @classmethod
    def load(cls, location: Path) -> TrainedNetwork:
        """Read a checkpoint.

        Args:
            location: a checkpoint file, or a run folder, of which the best checkpoint is read, or the last one if
                none was best yet.

        Raises:
            InputError: there is no checkpoint, or the file is something else.
        """
        checkpoint = Checkpoint.load(_checkpoint_in(location) if location.is_dir() else location)
        checkpoint.check(build(checkpoint.spec))
        weights = {name: value.detach().numpy() for name, value in checkpoint.state_dict().items()}
        described = [checkpoint.spec, checkpoint.preprocessing.described(), checkpoint.classes]
        digest = hashlib.sha256(json.dumps(described).encode())
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
        return cls(checkpoint.spec, weights, checkpoint.preprocessing, checkpoint.classes, digest.hexdigest())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the decoded images that it takes."""
        return self.spec.height, self.spec.width, self.preprocessing.pixel_format.channels

    def scorer(self) -> Callable[[Pixels], NDArray[np.float32]]:
        """Return a function from uint8 images (n, height, width, channels) to float32 scores, on the processor."""
        classifier = self.classifier(torch.device("cpu"), "plain")
        return lambda pixels: np.concatenate([scores for _, scores in classifier.score_blocks(pixels)])

    def classifier(self, device: torch.device, mode: str) -> Classifier:
        """Build a classifier that is ready to predict.

        Args:
            device: the device that it computes on.
            mode: one of MODES.
        """
        network = build(self.spec)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.weights.items()})
        network.eval()
        plain = Classifier(self.spec, network, self.preprocessing, self.classes.names, device)
        if mode == "plain":
            return plain
        from common.nets.fast import speed_up

        return speed_up(plain)


def _checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint of a run folder to predict by."""
    for name in (BEST, LAST):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"--model {folder}: no {BEST} in it; train_cnn.py leaves one")


def decoding_steps(mode: str) -> DecodingSteps:
    """Return the decoding steps of a mode, one of MODES."""
    if mode == "plain":
        return DECODING_STEPS
    # imported here, so that plain mode works without simplejpeg
    from common.nets.fast import FAST_DECODING_STEPS

    return FAST_DECODING_STEPS
