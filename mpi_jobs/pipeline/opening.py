"""What rank 0 does before predictions begin: flags, completed if a run goes on, the model, the images."""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from common.atomic import write_json, written_into
from common.errors import InputError
from common.predict.files import PredictionFile
from common.predict.inputs import Inputs, open_inputs
from common.predict.predictions import Form
from common.run.flags import Parser
from common.run.folder import RunFolder
from mpi_jobs.pipeline.flags import keep, prediction_parser, recipe
from mpi_jobs.pipeline.profile import Profile, Sample, predicting_seconds

if TYPE_CHECKING:
    from mpi_jobs.pipeline.model import Model

BEGUN = "prediction.json"
"""What a run folder says of a run from its beginning on."""
FORMAT = "run of predict_cnn.py, version 1"

BATCH_BYTES = 1 << 20
FEWEST, MOST = 8, 256
"""Pixels of a batch where nobody asks for another size, and its images in any case."""

SAMPLE, SAMPLE_S = 32, 0.5
"""Images that a run looks at to find its layout, and the seconds for each of decoding and predicting."""


@dataclass
class Opened:
    """What rank 0 alone has.

    Attributes:
        arguments: the flags, complete.
        model: what predicts.
        inputs: the images.
        folder: where the run folder will be; None where it is there already.
        path: of the run folder.
        below: the folder that relative names in a list are below.
        written: rows that it has already.
        lock: what keeps another run from this folder.
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
    def form(self) -> Form:
        """What a row says."""
        return Form(min(self.arguments.top, len(self.model.classes.names)), self.arguments.scores)

    @property
    def way(self) -> str:
        """Of decoding and predicting."""
        return "fast" if self.arguments.fast else "plain"

    @property
    def batch(self) -> int:
        """Images of a chunk."""
        return self.arguments.batch or default_batch(self.inputs)

    @property
    def described(self) -> dict[str, Any]:
        """What the run folder says of the run from its beginning on."""
        return {
            "format": FORMAT, "model_sha256": self.model.digest, "way": self.way, "file": self.arguments.format,
            "top": self.form.top, "scores": self.form.scores, "names_below": str(self.below),
            "recipe": recipe(self.arguments),
        }  # fmt: skip

    def begin(self) -> Path:
        """Make the run folder, if it is not there.

        Raises:
            InputError: it cannot be made.
        """
        if self.folder is not None:
            self.path = self.folder.begin()
            with written_into(self.path):
                write_json(self.path / BEGUN, self.described)
            self._lock()
        return self.path

    def _lock(self) -> None:
        """Keep another run from this folder, as long as this one lives.

        Raises:
            InputError: another one has done so.
        """
        self.lock = (self.path / BEGUN).open("rb")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self.path}: another run is writing there; wait for its end") from error
        except OSError:  # a file system without locks
            return

    def release(self) -> None:
        """Let another run go on in this folder."""
        if self.lock is not None:
            self.lock.close()

    def go_on(self, before: Mapping[str, Any]) -> None:
        """Leave out what is written in the run folder.

        Args:
            before: what it says.

        Raises:
            InputError: what is written is not what the flags ask for.
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
        file = PredictionFile.of(arguments.format, self.path, self.form, model.classes.written)
        written = file.resume()
        self.written = sum(map(len, written.values()))
        self.inputs.leave_out(written)


def default_batch(inputs: Inputs) -> int:
    """Images of about 1 MiB: a few photographs, whose layers then stay in the cache, or many small images."""
    return int(np.clip(BATCH_BYTES // int(np.prod(inputs.reader.shape)), FEWEST, MOST))


def open_run(argv: Sequence[str] | None) -> Opened:
    """Read the flags, and open what they name.

    Raises:
        InputError: flags, model or images are wrong.
        SystemExit: --help, or flags that do not parse.
    """
    # imported here, because only rank 0 and predictors wait for torch
    from mpi_jobs.pipeline.model import Model

    parser = prediction_parser()
    arguments = parser.parse_arguments(argv)
    before: dict[str, Any] = {}
    if arguments.resume is not None:
        if arguments.out is not None:
            raise InputError("--resume completes a run in its own folder: no --out")
        before = _begun(arguments.resume)
        arguments = _kept(parser, before, argv)
    for flag in ("model", "data"):
        if getattr(arguments, flag) is None:
            parser.error(f"--{flag} is missing")
    if arguments.ratio is not None and arguments.profile is not None:
        parser.error("--ratio and --profile: one of them is enough")
    model = Model.load(arguments.model)
    way = "fast" if arguments.fast else "plain"
    below = Path(before["names_below"]) if before else Path.cwd()
    inputs = open_inputs(arguments.data, arguments.data_root, arguments.split, model.wanted(way), below)
    if before:
        opened = Opened(arguments, model, inputs, None, arguments.resume.resolve(), below)
        opened.go_on(before)
        return opened
    kind = arguments.data.partition(":")[0]
    folder = RunFolder(arguments.out, f"predict_cnn-{kind}")
    return Opened(arguments, model, inputs, folder, folder.path, below)


def _begun(folder: Path) -> dict[str, Any]:
    path = folder / BEGUN
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"--resume {folder}: no run of predict_cnn.py ({BEGUN} is missing)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"--resume {folder}: {BEGUN} cannot be read ({error})") from error
    keys = ("model_sha256", "way", "top", "scores", "file", "names_below", "recipe")
    if not isinstance(found, dict) or found.get("format") != FORMAT or not all(key in found for key in keys):
        raise InputError(f"{path}: not what predict_cnn.py writes ({FORMAT})")
    return found


def _kept(parser: Parser, before: dict[str, Any], argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        keep(parser, before["recipe"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{BEGUN}: its recipe is damaged ({error})") from error
    return parser.parse_arguments(argv)


def wait_for_first(inputs: Inputs) -> bool:
    """Wait until an image has arrived; False if none will."""
    while not len(inputs.peek(1)):
        if inputs.complete:
            return False
        time.sleep(0.01)
    return True


def find_profile(opened: Opened, threads: int) -> Profile:
    """That of --profile, or one of the first images.

    Args:
        opened: the run.
        threads: of each predictor.

    Raises:
        InputError: --profile is no profile, or one of something else.
    """
    arguments, model = opened.arguments, opened.model
    if arguments.profile is not None:
        profile = Profile.load(arguments.profile, opened.way)
        wanted = (model.spec.name, opened.inputs.reader.shape)
        if (profile.network, profile.shape) != wanted:
            found, asked = (
                f"{name} on images of {'×'.join(map(str, shape))}"
                for name, shape in ((profile.network, profile.shape), wanted)
            )
            raise InputError(f"--profile {arguments.profile}: of {found}, and this run has {asked}: profile that")
        return profile
    import torch

    items = opened.inputs.peek(SAMPLE).items
    opened.inputs.reader.read(items[:1])  # the first time brings what is imported late
    decoded = Sample.of(opened.inputs.reader, items, SAMPLE_S)
    cuda = arguments.device != "cpu" and torch.cuda.is_available()
    classifier = model.classifier(torch.device("cuda" if cuda else "cpu"), opened.way)
    return measured(opened.way, model, classifier, decoded, opened.batch, threads, SAMPLE_S)


def measured(
    way: str, model: Model, classifier: Any, decoded: Sample, batch: int, threads: int, enough_s: float
) -> Profile:
    """The profile of images that have been decoded, once their prediction has been measured too."""
    import torch

    torch.set_num_threads(threads)  # decoding the fast way leaves this thread with one
    shape = decoded.pixels.shape[1:]
    pixels = decoded.pixels if len(decoded.pixels) else np.zeros((1, *shape), np.uint8)
    predicting = predicting_seconds(classifier, pixels, batch, threads, enough_s)
    return Profile(
        decoded.seconds | predicting, way, batch, threads, classifier.device.type, model.spec.name, tuple(shape),
        len(decoded.pixels),
    )  # fmt: skip
