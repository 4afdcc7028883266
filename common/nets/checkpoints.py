"""Checkpoints: all that a run needs to continue as if nothing had happened, and all that prediction needs.

They hold no state of a random generator, because none lives from step to step: the order of images, their
augmentation and dropout follow from the seed and the numbers of epoch, step, image and replica.

A replica is one of several copies of a network that are trained together. They share their parameters; each has
its own buffers, such as the running averages of batch norm.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.atomic import write_atomically
from common.data.catalogue import Classes
from common.errors import InputError, RunError
from common.nets.networks import NetworkSpec
from common.nets.preprocessing import Preprocessing

FORMAT = "checkpoint of a convolutional network, version 1"
LAST, BEST = "last.pt", "best.pt"

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep weights beside other things."""
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that DistributedDataParallel, torch.compile and Lightning put before the names of weights."""


@dataclass
class Progress:
    """How far training has come. Field names are keys of the file.

    Attributes:
        epoch: the current epoch, from 0.
        step: the number of its steps that are done.
        cut: the number of images and of steps of that epoch.
        updates: the number of updates of the parameters since training began.
        frozen_updates: how many of these left the backbone as it was.
        images: the number of images that each replica has used in the epoch.
        loss: the sum of the loss over these images.
        correct: the number of these images that were classified correctly when they were trained on.
        seconds: the duration of the epoch's steps.
        history: one record per completed epoch.
        skipped: names and reasons of skipped images.
        ridge_head: figures of the ridge classifier that the head began as; empty if there was none.
    """

    epoch: int = 0
    step: int = 0
    cut: list[int] = field(default_factory=list)
    updates: int = 0
    frozen_updates: int = 0
    images: list[int] = field(default_factory=list)
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)
    ridge_head: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The number of the epoch with the highest validation accuracy, from 1; the first if several are equal.

        A network whose head began as a ridge classifier is epoch 0.
        """
        accuracies = self._accuracies
        return max(accuracies, key=lambda epoch: (accuracies[epoch], -epoch), default=0)

    @property
    def best_accuracy(self) -> float:
        """The highest validation accuracy."""
        return self._accuracies[self.best]

    @property
    def _accuracies(self) -> dict[int, float]:
        """The validation accuracy of each epoch that counts."""
        start = {0: self.ridge_head["validation_accuracy"]} if self.ridge_head else {}
        return start | {i: record["validation_accuracy"] for i, record in enumerate(self.history, start=1)}


@dataclass
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        spec: what the network was built from.
        parameters: parameters by name.
        buffers: buffers by name, with one row per replica: (n_replicas, ...).
        optimiser: vectors of the optimiser by name, each by parameter.
        progress: how far training has come.
        classes: the classes.
        preprocessing: what happens to images.
        arguments: the flags of the run, as plain values.
        images: digests of the training, validation and test images.
        n_replicas: the number of replicas.
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
    n_replicas: int

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and buffers as the network takes them, with buffers averaged over the replicas."""
        return self.parameters | averaged(self.buffers, self.progress.images)

    def check(self, network: nn.Module) -> None:
        """Make sure that the checkpoint fits a network.

        Raises:
            InputError: its parameters or buffers have other names or shapes.
        """
        parameters = _shapes(dict(network.named_parameters()))
        buffers = {
            name: (self.n_replicas, *shape) for name, shape in _shapes(dict(network.named_buffers())).items()
        }
        vectors = [self.parameters, *self.optimiser.values()]
        if _shapes(self.buffers) != buffers or any(_shapes(vector) != parameters for vector in vectors):
            raise InputError("the checkpoint is damaged: its parameters are not those of its network")

    def save(self, path: Path, best: Path | None = None) -> None:
        """Write the checkpoint, atomically.

        Args:
            path: the file; its former contents stay until the new ones are complete.
            best: a second name for the file, if this is the best checkpoint so far.

        Raises:
            RunError: it cannot be written; the former file is still there.
        """
        try:
            with write_atomically(path) as file:
                torch.save(self._contents(), file)
                if best is not None:
                    # before `path` is replaced, so that a resumed run finds a best one no older than the last
                    file.flush()
                    os.fsync(file.fileno())
                    _link(Path(file.name), best)
        # torch's writer turns errors of the system into errors of its own
        except (OSError, RuntimeError) as error:
            kept = "the one before is still there" if path.exists() else "there is none"
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise RunError(f"{path}: the checkpoint cannot be written ({reason}); {kept}") from error

    def _contents(self) -> dict[str, Any]:
        """Return the contents of the file: tensors and plain values."""
        return {
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
            "ranks": self.n_replicas,
        }

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Return the checkpoint that save() wrote.

        Raises:
            InputError: there is no such file, or it is no checkpoint.
        """
        contents = load_tensors(path)
        if contents.get("format") != FORMAT:
            raise InputError(f"{path}: no checkpoint of train_cnn.py ({FORMAT})")
        try:
            return cls(
                NetworkSpec(**contents["spec"]),
                contents["parameters"],
                contents["buffers"],
                contents["optimiser"],
                Progress(**contents["progress"]),
                _classes(contents["class_names"], contents.get("class_ids")),  # old checkpoints have no ids
                Preprocessing.of(contents["preprocessing"]),
                dict(contents["arguments"]),
                dict(contents["images"]),
                int(contents["ranks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _classes(names: Sequence[object], ids: Sequence[object] | None) -> Classes:
    return Classes(tuple(map(str, names)), None if ids is None else tuple(map(str, ids)))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _link(path: Path, name: Path) -> None:
    """Give a file a second name, in one step."""
    partial = name.with_name(f".{name.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        try:
            partial.hardlink_to(path)  # safe: nobody writes to a file that is complete, and `path` is renamed
        except OSError:  # a file system without links
            shutil.copyfile(path, partial)
        partial.replace(name)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove unfinished files of a run that was killed while it saved."""
    for name in (LAST, BEST):
        for partial in folder.glob(f".{name}.*.partial"):
            partial.unlink(missing_ok=True)


def averaged(buffers: Mapping[str, Tensor], images: Sequence[int]) -> dict[str, Tensor]:
    """Return the mean of buffers over replicas, weighted by their images; of integers, which count, the largest.

    Args:
        buffers: buffers by name, (n_replicas, ...).
        images: the number of images that each replica has used.
    """
    weights = torch.tensor(images, dtype=torch.float64)
    if not weights.any():
        weights = torch.ones(len(weights), dtype=torch.float64)
    weights /= weights.sum()

    def mean(rows: Tensor) -> Tensor:
        if not rows.is_floating_point():
            return rows.amax(0)
        averages: Tensor = torch.tensordot(weights, rows.double(), 1)
        return averages.to(rows.dtype)

    return {name: mean(rows) for name, rows in buffers.items()}


class ReadWeights(NamedTuple):
    """Weights that another training script may have saved.

    Attributes:
        weights: by name, without what wrappers have put around them.
        unwrapped: the keys and prefixes that were taken off, such as "state_dict" and "module.".
    """

    weights: Mapping[str, Any]
    unwrapped: list[str]


def read_weights(path: Path, names: Iterable[str]) -> ReadWeights:
    """Read weights from a checkpoint of ours or a file that another training script saved.

    Args:
        path: the file.
        names: the names that the weights have in the network; a prefix of one of these is no wrapper's.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    contents = load_tensors(path)
    if "format" in contents:
        return ReadWeights(Checkpoint.load(path).state_dict(), [])
    unwrapped: list[str] = []
    while key := next((key for key in WRAPPER_KEYS if isinstance(contents.get(key), dict)), None):
        contents = contents[key]
        unwrapped.append(key)
    wanted = tuple(names)
    prefixes = [prefix for prefix in WRAPPER_PREFIXES if not any(name.startswith(prefix) for name in wanted)]
    while prefix := next((p for p in prefixes if any(str(name).startswith(p) for name in contents)), None):
        contents = {str(name).removeprefix(prefix): value for name, value in contents.items()}
        unwrapped.append(prefix)
    return ReadWeights(contents, unwrapped)


def load_tensors(path: Path) -> Mapping[str, Any]:
    """Return a dictionary that torch saved, without running any code in the file.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; name a file in it") from error
    except Exception as error:  # torch's unpickler raises almost anything on other bytes
        reason = re.split(r"[.\n]", str(error))[0][:120] or type(error).__name__
        raise InputError(
            f"{path}: no file of torch's, or one that holds more than weights ({reason}); "
            "give one that torch.save has written of a state_dict"
        ) from error
    if not isinstance(contents, dict):
        raise InputError(f"{path}: a {type(contents).__name__} where a dictionary was expected")
    return contents


def find_last(run: Path) -> Path:
    """Return the last checkpoint of a run folder, or `run` itself if it is a file.

    Raises:
        InputError: there is none.
    """
    path = run / LAST if run.is_dir() else run
    if not path.exists():
        raise InputError(f"--resume {run}: no {LAST} there; a run has one from its first epoch on")
    return path
