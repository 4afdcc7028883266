"""`python -m common.export RUN FILE.onnx`: the model of a run as one file, from pixels to classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Pixels
from common.atomic import write_atomically
from common.console import Console
from common.data.images import Images
from common.data.labelled import open_splits
from common.data.shipped import expanded
from common.errors import InputError, RunError
from common.export.names import IMAGES, SCORES
from common.models import LoadedModel, load
from common.ridge.model import is_model
from common.run.exits import run_job
from common.run.flag_types import model_folder
from common.run.flags import data_root_flag
from common.run.parser import Parser

TABLE = "parquet:"
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
BATCH = 64
SHOWN = 5
MOST_DIFFERING = 0.01
"""The share of test images above which a file does not compute what the model does."""

Scorer = Callable[[Pixels], NDArray[Any]]
"""Scores uint8 images (n, height, width, channels): floats (n, n_classes)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, export, compare, and write."""
    flags = Parser(description="Write the model of a run to a file from pixels to scores, checked on test images.")
    flags.add_argument("run", metavar="RUN", type=model_folder, help="a run folder of a ridge job or train_cnn.py")
    flags.add_argument(
        "file", metavar="FILE", type=Path, help="the file to write: .onnx, or .pt2 with --format torch"
    )
    flags.add_argument(
        "--format",
        choices=SUFFIXES,
        default="onnx",
        help="torch writes a network as a program (default: onnx)",
    )
    flags.add_argument("--data", metavar="SPEC", help="compare on test images of this (default: the data of RUN)")
    data_root_flag(flags)
    arguments = flags.parse_arguments(argv)
    target, suffix = expanded(arguments.file), SUFFIXES[arguments.format]
    if target.suffix != suffix:
        raise InputError(f"{target}: does not end with {suffix}")
    try:
        model = load(arguments.run)
    except (ValueError, FileNotFoundError) as error:
        raise InputError(str(error)) from error
    except ImportError as error:
        raise InputError(f"{arguments.run}: a network needs PyTorch ({error}); make setup PARTS=cnn") from error
    console = Console()
    with console.phase("export"):
        file, score = EXPORTS[arguments.format](arguments.run)
    with console.phase("compare"):
        n, differing = differences(score, model, images_to_compare(arguments, model))
    if len(differing) > MOST_DIFFERING * n:
        raise RunError(
            f"{arguments.run}: not written: the file gives {len(differing)} of {n} test images another class"
        )
    if differing:
        some = ", ".join(differing[:SHOWN]) + (", …" if len(differing) > SHOWN else "")
        console.say(f"warning: {len(differing)} of {n} test images get another class from the file: {some}")
    try:
        with write_atomically(target) as written:
            written.write(file)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from error
    shape = "×".join(map(str, model.shape))
    same = f"the same class for {n - len(differing):,} of {n:,} test images"
    console.say(f"{target}: {len(file) / 1e6:.1f} MB, takes images of {shape}; {same}")
    return 0


def to_onnx(run: Path) -> tuple[bytes, Scorer]:
    """Return the model of a run as an ONNX file, and what onnxruntime makes of images by it."""
    import onnxruntime

    try:
        from common.export.models import exported
    except ImportError as error:
        raise InputError("onnx is not installed, which writes such files; make setup PARTS=deep") from error
    file = exported(run)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return file, lambda pixels: session.run([SCORES], {IMAGES: pixels})[0]


def to_torch(run: Path) -> tuple[bytes, Scorer]:
    """Return the network of a run as a program of PyTorch, and what it makes of images."""
    if is_model(run):
        raise InputError(f"{run}: a ridge classifier, which is no program of PyTorch; use --format onnx")
    from common.nets.program import program, program_scorer  # needs PyTorch

    file = program(run)
    return file, program_scorer(file)


EXPORTS = {"onnx": to_onnx, "torch": to_torch}


def images_to_compare(arguments: Any, model: LoadedModel) -> Images:
    """Return test images of the run's data, or of --data."""
    spec, seed = arguments.data, 0
    if spec is None:
        try:
            record = json.loads((arguments.run / "metrics.json").read_text(encoding="utf-8"))
            spec, seed = str(record["data"]), int(record.get("seed", 0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{arguments.run}: metrics.json does not tell the data; use --data") from error
        if spec.startswith(TABLE):
            raise InputError(f"{arguments.run}: its data are a table; --data names images to compare on, no table")
    try:
        images = open_splits(spec, pixel_format=model.pixel_format, data_root=arguments.data_root, seed=seed)[1]
    except InputError as error:
        raise InputError(f"{error}; --data names other images to compare on") from error
    if images.shape != model.shape:
        own, wanted = ("×".join(map(str, shape)) for shape in (images.shape, model.shape))
        raise InputError(f"--data {spec}: images of {own}, and the model takes {wanted}; name others")
    return images


def differences(score: Scorer, model: LoadedModel, images: Images) -> tuple[int, list[str]]:
    """Return the number of images, and the names of those that `score` gives another class than the model."""
    n, differing = 0, []
    for block in images.parts(1)[0].blocks(names=True):
        for start in range(0, len(block.labels), BATCH):
            pixels = block.pixels[start : start + BATCH]
            found, own = (scores(pixels).argmax(axis=1) for scores in (score, model.score_pixels))
            differing += [str((block.names or ())[start + i]) for i in np.flatnonzero(found != own).tolist()]
            n += len(own)
    return n, differing


if __name__ == "__main__":
    run_job(main)
