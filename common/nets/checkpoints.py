"""Checkpoints: everything that a run needs to go on as if nothing had happened, and all that prediction needs.

There is no state of a random generator in them, because none lives from step to step: the order of images, their
augmentation and dropout follow from the seed and from which epoch, step, image and rank it is.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.atomic import write_atomically
from common.data.catalogue import Classes
from common.errors import InputError
from common.nets.networks import NetworkSpec
from common.nets.preprocessing import Preprocessing

FORMAT = "checkpoint of a convolutional network, version 1"
LAST, BEST = "last.pt", "best.pt"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: from 0; the one that is under way.
        step: steps of it that are done.
        cut: images and steps of such an epoch.
        updates: of the parameters, in all.
        images: that each rank has used in these steps.
        loss: summed over them.
        correct: of them, when they were trained on.
        seconds: that these steps took.
        history: a record for each epoch that ended.
        skipped: names and reasons of images that were unusable.
    """

    epoch: int = 0
    step: int = 0
    cut: list[int] = field(default_factory=list)
    updates: int = 0
    images: list[int] = field(default_factory=list)
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)

    def going_on(self, cut: list[int], ranks: int) -> Progress:
        """The same for a run whose epochs have these images and steps, on so many ranks.

        An epoch that was cut otherwise begins again.
        """
        if self.step and self.cut != cut:
            again = replace(self, step=0, loss=0.0, correct=0, seconds=0.0, images=[0] * ranks)
            return again.going_on(cut, ranks)
        images = self.images
        if len(images) != ranks:
            each, more = divmod(sum(images), ranks)
            images = [each + (rank < more) for rank in range(ranks)]
        return replace(self, cut=cut, images=images)

    @property
    def best(self) -> int:
        """The epoch whose validation accuracy is highest, the first of equals."""
        return max(range(len(self.history)), key=lambda i: (self.history[i]["validation_accuracy"], -i))


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        spec: what the network was built from.
        parameters: by name.
        buffers: by name, with an axis of ranks before all others: (ranks, ...).
        optimiser: its vectors, each by parameter.
        progress: how far it has come.
        classes: their names, and what the source called them.
        preprocessing: what images go through.
        arguments: the flags, as plain values.
        images: digests of the training, validation and test images.
        ranks: how many there were.
    """

    spec: NetworkSpec
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimiser: dict[str, dict[str, Tensor]]
    progress: Progress
    classes: Classes
    preprocessing: Preprocessing
    arguments: dict[str, Any]
    images: dict[str, str]
    ranks: int

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers as the network takes them, buffers averaged over ranks."""
        return self.parameters | averaged(self.buffers, self.progress.images)

    def check(self, network: nn.Module) -> None:
        """Make sure that it is of this network.

        Raises:
            InputError: its parameters or buffers have other names or shapes.
        """
        parameters = _shapes(dict(network.named_parameters()))
        buffers = {name: (self.ranks, *shape) for name, shape in _shapes(dict(network.named_buffers())).items()}
        vectors = [self.parameters, *self.optimiser.values()]
        if _shapes(self.buffers) != buffers or any(_shapes(each) != parameters for each in vectors):
            raise InputError("the checkpoint is damaged: its parameters are not those of its network")

    def save(self, path: Path, best: Path | None = None) -> None:
        """Write it, atomically.

        Args:
            path: its name; what was there before stays until this is whole.
            best: another name for it, if it is the best so far.

        Raises:
            InputError: it cannot be written; what was there is still there.
        """
        described = {
            "format": FORMAT,
            "spec": self.spec._asdict(),
            "parameters": self.parameters,
            "buffers": self.buffers,
            "optimiser": self.optimiser,
            "progress": vars(self.progress),
            "class_names": list(self.classes.names),
            "class_ids": None if self.classes.ids is None else list(self.classes.ids),
            "preprocessing": self.preprocessing.described(),
            "arguments": self.arguments,
            "images": self.images,
            "ranks": self.ranks,
        }
        try:
            with write_atomically(path) as file:
                torch.save(described, file)
                if best is not None:
                    # before the last one is: whoever resumes finds a best one that is not older than the last
                    file.flush()
                    os.fsync(file.fileno())
                    _link(Path(file.name), best)
        # torch's writer turns what the system says into errors of its own
        except (OSError, RuntimeError) as error:
            kept = "the one before is still there" if path.exists() else "there is none"
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise InputError(f"{path}: the checkpoint cannot be written ({reason}); {kept}") from error

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what save() wrote.

        Raises:
            InputError: there is no such file, or it is something else.
        """
        described = load_tensors(path)
        if described.get("format") != FORMAT:
            raise InputError(f"{path}: no checkpoint of train_cnn.py ({FORMAT})")
        try:
            return cls(
                NetworkSpec(**described["spec"]),
                described["parameters"],
                described["buffers"],
                described["optimiser"],
                Progress(**described["progress"]),
                _classes(described["class_names"], described.get("class_ids")),  # which older ones do not have
                Preprocessing.of(described["preprocessing"]),
                dict(described["arguments"]),
                dict(described["images"]),
                int(described["ranks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _classes(names: Sequence[object], ids: Sequence[object] | None) -> Classes:
    return Classes(tuple(map(str, names)), None if ids is None else tuple(map(str, ids)))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _link(path: Path, name: Path) -> None:
    """Give a file another name, which it has at once or not at all."""
    partial = name.with_name(f".{name.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            partial.hardlink_to(path)  # its first name goes to the next file, and nobody writes to this one
        except OSError:  # a file system without links
            shutil.copyfile(path, partial)
        partial.replace(name)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what a run left that was killed while it saved."""
    for name in (LAST, BEST):
        for partial in folder.glob(f".{name}.*.partial"):
            partial.unlink(missing_ok=True)


def averaged(buffers: Mapping[str, Tensor], images: Sequence[int]) -> dict[str, Tensor]:
    """The mean over ranks, as far as they saw images; of integers, which count, the largest.

    Args:
        buffers: by name, (ranks, ...).
        images: that each rank saw.
    """
    weights = torch.tensor(images, dtype=torch.float64)
    if not weights.any():
        weights = torch.ones(len(weights), dtype=torch.float64)
    weights /= weights.sum()
    return {
        name: torch.tensordot(weights, ranks.double(), 1).to(ranks.dtype)
        if ranks.is_floating_point()
        else ranks.amax(0)
        for name, ranks in buffers.items()
    }


def read_weights(path: Path) -> Mapping[str, Any]:
    """Weights by name: of a checkpoint of ours, or as others save them.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    found = load_tensors(path)
    if "format" in found:
        return Checkpoint.load(path).state_dict()
    for key in ("state_dict", "model"):  # as training scripts often wrap them
        if isinstance(found.get(key), dict):
            weights: dict[str, Any] = found[key]
            return weights
    return found


def load_tensors(path: Path) -> Mapping[str, Any]:
    """A dictionary that torch saved, without running anything that is in the file.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    try:
        described = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # torch's unpickler raises almost anything on bytes of other kinds
        reason = re.split(r"[.\n]", str(error))[0][:120] or type(error).__name__
        raise InputError(f"{path}: no file of torch's, or one that holds more than weights ({reason})") from error
    if not isinstance(described, dict):
        raise InputError(f"{path}: a {type(described).__name__} where a dictionary was expected")
    return described


def find(run: Path) -> Path:
    """The last checkpoint of a run folder, or the file itself.

    Raises:
        InputError: there is none.
    """
    path = run / LAST if run.is_dir() else run
    if not path.exists():
        raise InputError(f"--resume {run}: no {LAST} there; a run has one from its first epoch on")
    return path
