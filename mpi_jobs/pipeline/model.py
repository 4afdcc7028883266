"""The model that predicts: what travels to predictors, and what they build of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.catalogue import Classes
from common.data.decode import STAGES, Stages
from common.errors import InputError
from common.nets.checkpoints import BEST, LAST, Checkpoint
from common.nets.classifier import Classifier
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing
from common.predict.inputs import Wanted

WAYS = ("plain", "fast")


class Model(NamedTuple):
    """A trained network as arrays.

    Attributes:
        spec: what it is built from.
        weights: parameters and buffers by name.
        preprocessing: what its images go through.
        classes: that it knows.
        digest: equal only for models that predict the same.
    """

    spec: NetworkSpec
    weights: dict[str, NDArray[Any]]
    preprocessing: Preprocessing
    classes: Classes
    digest: str

    @classmethod
    def load(cls, place: Path) -> Model:
        """Read the best checkpoint of a run folder, or the last if none was best yet, or a file.

        Raises:
            InputError: there is none, or it is something else.
        """
        path = place
        if place.is_dir():
            found = [place / name for name in (BEST, LAST) if (place / name).exists()]
            if not found:
                kind = (
                    ": it is a ridge job's; spark_jobs/predict.py predicts by those"
                    * (place / "model.npz").exists()
                )
                raise InputError(f"--model {place}: no {BEST} in it{kind or '; train_cnn.py leaves one'}")
            path = found[0]
        checkpoint = Checkpoint.load(path)
        checkpoint.check(build(checkpoint.spec))
        weights = {name: value.detach().numpy() for name, value in checkpoint.state_dict().items()}
        described = [checkpoint.spec, checkpoint.preprocessing.described(), checkpoint.classes]
        digest = hashlib.sha256(json.dumps(described).encode())
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
        return cls(checkpoint.spec, weights, checkpoint.preprocessing, checkpoint.classes, digest.hexdigest())

    def wanted(self, way: str) -> Wanted:
        """What it asks of images, decoded in one of WAYS."""
        form = self.preprocessing.form
        shape = (self.spec.height, self.spec.width, form.channels)
        return Wanted(form, shape, self.classes, stages_of(way))

    def classifier(self, device: torch.device, way: str) -> Classifier:
        """A network that is ready to predict.

        Args:
            device: where.
            way: one of WAYS.
        """
        network = build(self.spec)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.weights.items()})
        network.eval()
        made = Classifier(self.spec, network, self.preprocessing, self.classes.names, device)
        if way == "plain":
            return made
        from common.nets.fast import hasten

        return hasten(made)


def stages_of(way: str) -> Stages:
    """How files are decoded."""
    if way == "plain":
        return STAGES
    # imported here, because it brings torch, which those that decode the plain way need not wait for
    from common.nets.fast import FAST_STAGES

    return FAST_STAGES
