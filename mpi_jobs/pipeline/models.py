"""The two protocols of a model in the pipeline, and the function that loads one.

A new kind of model is a module with two classes, and one line in `load_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from common.arrays import Pixels
from common.data.catalogue import Classes
from common.data.decode import DecodingSteps, PixelFormat
from common.errors import InputError
from common.predict.predictions import BestClasses, RowFormat
from common.ridge.model import is_model
from mpi_jobs.engine.world import World

PLAIN, FAST = "plain", "fast"
"""The modes of decoding and predicting."""


class Scorer(Protocol):
    """A model in use on a rank that predicts."""

    @property
    def device(self) -> str:
        """The device that it computes on, "cpu" or "cuda"."""
        ...

    @property
    def threads(self) -> int:
        """The number of threads that it computes with."""
        ...

    def begin_thread(self) -> None:
        """Prepare the calling thread of Python, which will score images."""
        ...

    def best_classes(self, pixels: Pixels, row_format: RowFormat) -> BestClasses:
        """Score images, uint8 (n, height, width, channels) with n ≥ 1.

        Args:
            pixels: the images.
            row_format: the number of classes per image, and whether their scores are wanted.
        """
        ...

    def seconds(self, pixels: Pixels, batch: int, enough_s: float) -> dict[str, float]:
        """Measure prediction; return seconds of a core per image by step, or of a GPU if it computes on one.

        Args:
            pixels: uint8 (n, height, width, channels), n ≥ 1; repeated if they do not fill a batch.
            batch: the number of images per batch.
            enough_s: seconds after which no further batch is scored.
        """
        ...


class Model(Protocol):
    """A trained model that can be sent to predictors by pickle."""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes of decoding and predicting that it has, PLAIN first."""
        ...

    @property
    def name(self) -> str:
        """The name that reports print; models of one name cost the same per image."""
        ...

    @property
    def digest(self) -> str:
        """A fingerprint: equal if and only if the models are."""
        ...

    @property
    def classes(self) -> Classes:
        """The classes that it distinguishes."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the decoded images that it takes."""
        ...

    @property
    def pixel_format(self) -> PixelFormat:
        """The format that files are decoded into."""
        ...

    def described(self) -> dict[str, Any]:
        """Return what metrics.json says about it."""
        ...

    def decoding_steps(self, mode: str) -> DecodingSteps:
        """Return the decoding steps of a mode, one of `modes`."""
        ...

    def find_device(self, choice: str, ranks: World | None) -> str:
        """Return the device of this rank, such as "cpu" or "cuda:1".

        Args:
            choice: the value of --device.
            ranks: the ranks that share out the devices of a machine, all of which call this; None if this rank is
                alone.

        Raises:
            AgreedError: a rank has no such device.
        """
        ...

    def scorer(self, device: str, mode: str, threads: int) -> Scorer:
        """Prepare to predict on this rank.

        Args:
            device: what `find_device` has found.
            mode: one of `modes`.
            threads: the number of threads to compute with.

        Raises:
            InputError: something that it needs is not installed here.
        """
        ...


def load_model(location: Path, mode: str, device: str) -> Model:
    """Load a model, and nothing that another kind of model would need.

    Args:
        location: the run folder of a ridge job or of train_cnn.py, or a checkpoint file.
        mode: the mode to predict in.
        device: the value of --device.

    Raises:
        InputError: there is no model, or it has no such mode or device.
    """
    if is_model(location):
        from mpi_jobs.pipeline.ridge_model import load_ridge

        return load_ridge(location, mode, device)
    if location.is_dir() and not any(location.glob("*.pt")):
        raise InputError(
            f"--model {location}: no model in it, neither best.pt, which train_cnn.py leaves, nor model.json, "
            "which ridge jobs leave; name a run folder of theirs"
        )
    try:
        # imported here, because a ridge model can be had without torch, and a rank that only writes needs none
        from mpi_jobs.pipeline.network_model import load_network
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"--model {location}: a network needs PyTorch, which is not installed; make setup brings it"
        ) from error
    return load_network(location)
