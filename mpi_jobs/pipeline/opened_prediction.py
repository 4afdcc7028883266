"""The preparation of predictions on rank 0: flags (completed if a run is resumed), model and images."""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.atomic import write_json, written_into
from common.data.measuring import DecodedSample
from common.data.sources.source import Requirements
from common.errors import InputError
from common.predict.files import PredictionFile
from common.predict.inputs import Inputs, open_inputs
from common.predict.predictions import RowFormat
from common.run.folder import RunFolder
from common.run.parser import Parser
from mpi_jobs.pipeline.flags import keep, prediction_parser, recipe
from mpi_jobs.pipeline.models import FAST, PLAIN, Model, load_model
from mpi_jobs.pipeline.profile import Profile

BEGUN = "prediction.json"
"""The file by which a run folder describes a run from its beginning on."""
FORMAT = "run of predict_cnn.py, version 1"

BATCH_BYTES = 1 << 20
"""Bytes of pixels per batch if no batch size is given."""
FEWEST, MOST = 8, 256
"""Bounds of that batch's number of images."""

SAMPLE, SAMPLE_S = 32, 0.5
"""Images that a run measures to find its layout, and the seconds for each of decoding and predicting."""


@dataclass
class OpenedPrediction:
    """A prediction run as rank 0 has opened it.

    Attributes:
        arguments: the flags, complete.
        model: the model that predicts.
        inputs: the images.
        folder: the run folder to make; None if it exists already.
        path: the path of the run folder.
        below: the folder to which relative names in a list of images refer.
        written: the number of rows that the run folder has already.
        lock: the open file whose lock keeps other runs out of the run folder.
    """

    arguments: argparse.Namespace
    model: Model
    inputs: Inputs
    folder: RunFolder | None
    path: Path
    below: Path
    written: int = 0
    lock: IO[bytes] | None = None

    @property
    def row_format(self) -> RowFormat:
        """The columns of a prediction row."""
        return RowFormat(min(self.arguments.top, len(self.model.classes.names)), self.arguments.scores)

    @property
    def mode(self) -> str:
        """The mode of decoding and predicting, "plain" or "fast"."""
        return _mode(self.arguments)

    @property
    def batch(self) -> int:
        """The number of images per chunk."""
        return self.arguments.batch or default_batch(self.inputs)

    @property
    def described(self) -> dict[str, Any]:
        """The run as plain values for prediction.json."""
        return {
            "format": FORMAT,
            "model_sha256": self.model.digest,
            "way": self.mode,
            "file": self.arguments.format,
            "top": self.row_format.top,
            "scores": self.row_format.scores,
            "names_below": str(self.below),
            "recipe": recipe(self.arguments),
        }

    def begin(self) -> Path:
        """Make the run folder if it does not exist, and return its path.

        Raises:
            InputError: the folder cannot be made.
            RunError: the folder cannot be written.
        """
        if self.folder is not None:
            self.path = self.folder.begin()
            with written_into(self.path):
                write_json(self.path / BEGUN, self.described)
            self._lock()
        return self.path

    def _lock(self) -> None:
        """Keep other runs out of this folder for as long as this process lives.

        Raises:
            InputError: another run writes there.
        """
        self.lock = (self.path / BEGUN).open("rb")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self.path}: another run is writing there; wait for its end") from error
        except OSError:  # a file system without locks
            return

    def release(self) -> None:
        """Let other runs write into the run folder again."""
        if self.lock is not None:
            self.lock.close()

    def resume(self, before: Mapping[str, Any]) -> None:
        """Leave out the images whose predictions are in the run folder already.

        Args:
            before: the content of the folder's prediction.json.

        Raises:
            InputError: the predictions in the folder are not what the flags ask for.
        """
        arguments, model, now = self.arguments, self.model, self.described
        if before["model_sha256"] != model.digest:
            raise InputError(
                f"--resume {arguments.resume}: its predictions are by another model than {arguments.model}; "
                "name that one, or predict into a new folder"
            )
        for key, flag in {"way": "--fast", "top": "--top", "scores": "--scores", "file": "--format"}.items():
            if before[key] != now[key]:
                raise InputError(f"--resume {arguments.resume}: {flag} was not as it is now; leave it out")
        self._lock()
        file = PredictionFile.of(arguments.format, self.path, self.row_format, model.classes.written)
        written = file.resume()
        self.written = sum(map(len, written.values()))
        self.inputs.leave_out(written)


def open_run(argv: Sequence[str] | None) -> OpenedPrediction:
    """Read the flags, and open the model and the images that they name.

    Raises:
        InputError: flags, model or images are wrong.
        SystemExit: --help was given, or the flags do not parse.
    """
    arguments, before = _read_flags(argv)
    model = load_model(arguments.model, _mode(arguments), arguments.device)
    below = Path(before["names_below"]) if before else Path.cwd()
    inputs = open_images(arguments, model, _mode(arguments), below)
    if before:
        opened = OpenedPrediction(arguments, model, inputs, None, arguments.resume.resolve(), below)
        opened.resume(before)
        return opened
    kind = arguments.data.partition(":")[0]
    folder = RunFolder(arguments.out, f"predict_cnn-{kind}")
    return OpenedPrediction(arguments, model, inputs, folder, folder.path, below)


def _mode(arguments: argparse.Namespace) -> str:
    return FAST if arguments.fast else PLAIN


def _read_flags(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the flags, and the content of prediction.json if a run is resumed."""
    parser = prediction_parser()
    arguments = parser.parse_arguments(argv)
    before: dict[str, Any] = {}
    if arguments.resume is not None:
        if arguments.out is not None:
            raise InputError("--resume completes a run in its own folder: no --out")
        before = _read_begun(arguments.resume)
        arguments = _complete(parser, before, argv)
    for flag in ("model", "data"):
        if getattr(arguments, flag) is None:
            parser.error(f"--{flag} is missing")
    if arguments.ratio is not None and arguments.profile is not None:
        parser.error("--ratio and --profile: one of them is enough")
    return arguments, before


def _read_begun(folder: Path) -> dict[str, Any]:
    path = folder / BEGUN
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"--resume {folder}: no run of predict_cnn.py ({BEGUN} is missing)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"--resume {folder}: {BEGUN} cannot be read ({error})") from error
    keys = ("model_sha256", "way", "top", "scores", "file", "names_below", "recipe")
    complete = isinstance(content, dict) and all(key in content for key in keys)
    if not complete or content.get("format") != FORMAT:
        raise InputError(f"{path}: not what predict_cnn.py writes ({FORMAT})")
    return dict(content)


def _complete(parser: Parser, before: dict[str, Any], argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags again, with the flags of the resumed run as defaults."""
    try:
        keep(parser, before["recipe"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{BEGUN}: its recipe is damaged ({error})") from error
    return parser.parse_arguments(argv)


def open_images(arguments: argparse.Namespace, model: Model, mode: str, below: Path) -> Inputs:
    """Open the images of --data as the model takes them.

    Args:
        arguments: the flags.
        model: the model.
        mode: the mode of decoding, "plain" or "fast".
        below: the folder to which relative names in a list of images refer.

    Raises:
        InputError: there are no images, or the source is wrong.
    """
    pixel_format = replace(model.pixel_format, max_pixels=arguments.max_pixels)
    wanted = Requirements(pixel_format, model.shape, model.classes, model.decoding_steps(mode))
    inputs = open_inputs(arguments.data, arguments.data_root, arguments.split, wanted, below)
    *size, channels = inputs.reader.shape
    if tuple(size) != model.shape[:2] or channels not in (1, model.shape[2]):
        has, takes = ("×".join(map(str, shape)) for shape in (inputs.reader.shape, model.shape))
        raise InputError(
            f"--data {arguments.data}: its images are {has}, and the model takes {takes}; resize them"
        )
    return inputs


def default_batch(inputs: Inputs) -> int:
    """Return the number of images that have about 1 MiB of pixels.

    Those are a few photographs, whose activations then stay in the cache, or many small images.
    """
    return int(np.clip(BATCH_BYTES // int(np.prod(inputs.reader.shape)), FEWEST, MOST))


def wait_for_first(inputs: Inputs) -> bool:
    """Wait until an image has arrived; return False if none will."""
    while not len(inputs.peek(1)):
        if inputs.complete:
            return False
        time.sleep(0.01)
    return True


def find_profile(opened: OpenedPrediction, threads: int) -> Profile:
    """Read the profile of --profile, or measure one on the first images.

    Args:
        opened: the run.
        threads: the number of threads of each predictor.

    Raises:
        InputError: the file of --profile is no profile, or is one of another model or other images.
    """
    if opened.arguments.profile is not None:
        return _load_profile(opened)
    items = opened.inputs.peek(SAMPLE).items
    opened.inputs.reader.read(items[:1])  # not measured: the first image includes late imports
    decoded = DecodedSample.of(opened.inputs.reader, items, SAMPLE_S)
    model = opened.model
    scorer = model.scorer(model.find_device(opened.arguments.device, None), opened.mode, threads)
    return Profile.measure(model.name, scorer, opened.mode, decoded, opened.batch, SAMPLE_S)


def _load_profile(opened: OpenedPrediction) -> Profile:
    path, shape = opened.arguments.profile, opened.inputs.reader.shape
    profile = Profile.load(path, opened.mode)
    if (profile.model, profile.shape) != (opened.model.name, shape):
        profiled = _model_and_images(profile.model, profile.shape)
        here = _model_and_images(opened.model.name, shape)
        raise InputError(f"--profile {path}: of {profiled}, and this run has {here}: profile that")
    return profile


def _model_and_images(name: str, shape: Sequence[int]) -> str:
    return f"{name} on images of {'×'.join(map(str, shape))}"
