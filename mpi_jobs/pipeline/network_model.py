"""Networks in the pipeline: torch computes, on processors or GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.arrays import Pixels
from common.data.catalogue import Classes
from common.data.decode import DecodingSteps, PixelFormat
from common.nets.classifier import Classifier
from common.nets.devices import limit_thread
from common.nets.measuring import predicting_seconds
from common.nets.trained import MODES, TrainedNetwork, decoding_steps
from common.predict.predictions import BestClasses, RowFormat
from mpi_jobs.engine.world import World
from mpi_jobs.training.devices import find_device


@dataclass(frozen=True)
class NetworkModel:
    """A trained network, as `pipeline.models.Model` says.

    Attributes:
        network: the network.
        modes: all modes.
    """

    network: TrainedNetwork
    modes: tuple[str, ...] = MODES

    @property
    def name(self) -> str:
        """The name of the network."""
        return self.network.spec.name

    @property
    def digest(self) -> str:
        """The digest of the network."""
        return self.network.digest

    @property
    def classes(self) -> Classes:
        """The classes that it distinguishes."""
        return self.network.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the decoded images that it takes."""
        return self.network.shape

    @property
    def pixel_format(self) -> PixelFormat:
        """The format that files are decoded into."""
        return self.network.preprocessing.pixel_format

    def described(self) -> dict[str, Any]:
        """Return the name of the network."""
        return {"network": self.name}

    def decoding_steps(self, mode: str) -> DecodingSteps:
        """Return the decoding steps of a mode."""
        return decoding_steps(mode)

    def find_device(self, choice: str, ranks: World | None) -> str:
        """Return the processor, or one of the GPUs; this rank alone takes the first."""
        if ranks is not None:
            return str(find_device(ranks, choice, False))
        return "cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu"

    def scorer(self, device: str, mode: str, threads: int) -> NetworkScorer:
        """Build the network on a device."""
        torch.set_num_threads(threads)
        return NetworkScorer(self.network.classifier(torch.device(device), mode), threads)


@dataclass(frozen=True)
class NetworkScorer:
    """A network in use, as `pipeline.models.Scorer` says.

    Attributes:
        classifier: a classifier whose network is in evaluation mode.
        threads: the number of threads of torch.
    """

    classifier: Classifier
    threads: int

    @property
    def device(self) -> str:
        """The type of the network's device."""
        return self.classifier.device.type

    def begin_thread(self) -> None:
        """Let torch use `threads` threads in this thread of Python."""
        limit_thread(self.threads)

    def best_classes(self, pixels: Pixels, row_format: RowFormat) -> BestClasses:
        """Score images; scores and margins are probabilities by softmax, float32."""
        top = row_format.top
        with torch.inference_mode():
            logits = self.classifier.logits(pixels)
            values, classes = logits.topk(min(max(2, top), logits.shape[1]), dim=1)
            probabilities = (values - logits.logsumexp(dim=1, keepdim=True)).exp()
            scores, best = probabilities.cpu().numpy(), classes.cpu().numpy()
        margins = scores[:, 0] - scores[:, -1 if scores.shape[1] < 2 else 1]
        return BestClasses(best[:, :top], scores[:, :top] if row_format.scores else None, margins)

    def seconds(self, pixels: Pixels, batch: int, enough_s: float) -> dict[str, float]:
        """Measure the steps from bytes to scores."""
        torch.set_num_threads(self.threads)  # fast decoding leaves this thread with one
        return predicting_seconds(self.classifier, pixels, batch, self.threads, enough_s)


def load_network(location: Path) -> NetworkModel:
    """Load a network.

    Args:
        location: a run folder of train_cnn.py, or a checkpoint file.

    Raises:
        InputError: there is no checkpoint, or the file is something else.
    """
    return NetworkModel(TrainedNetwork.load(location))
