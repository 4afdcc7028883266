"""The types of flags: functions from the text of a value to the value, and the role that a value plays."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import numpy as np

from common.data.shipped import expanded
from common.features.augmentation import Augmentation
from common.features.spec import FeatureSpec

MAX_SIZE = 100_000
"""The largest number of pixels of an image; the Gram matrix of a larger one would fit nowhere."""
MAX_LAMBDA = 1e100
"""The largest λ: beyond any use, and small enough that products with it do not overflow."""
MAX_GRID = 1_000
"""The largest number of λ."""


class ValueRole(StrEnum):
    """The meaning of a flag's value. Deployment to a cluster needs to know which values are files."""

    PLAIN = "plain"
    SOURCE = "source"
    INPUT = "input location"
    OUTPUT = "output location"
    RUN_FOLDER = "run folder"
    MODEL = "model"
    DATA_ROOT = "data root"
    FEATURES = "features"


def source_spec(text: str) -> str:
    """Take the name of a source, as --data does."""
    return text


def input_location(text: str) -> Path | str:
    """Take a path, or an address such as s3://bucket/folder, to read from."""
    return _location(text)


def output_location(text: str) -> Path | str:
    """Take a path or an address to write to."""
    return _location(text)


def run_folder(text: str) -> Path | str:
    """Take the path or address of a run folder to write."""
    return _location(text)


def folder_of_runs(text: str) -> Path:
    """Take a folder of run folders on this machine."""
    return expanded(Path(text))


def model_folder(text: str) -> Path:
    """Take the run folder of a fitted model on this machine."""
    return expanded(Path(text))


def data_root(text: str) -> Path:
    """Take the folder in which named sources live."""
    return Path(text)


def feature_spec(text: str) -> FeatureSpec:
    """Take the spec of a feature map."""
    try:
        return FeatureSpec.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


ROLES: dict[object, ValueRole] = {
    source_spec: ValueRole.SOURCE,
    input_location: ValueRole.INPUT,
    output_location: ValueRole.OUTPUT,
    run_folder: ValueRole.RUN_FOLDER,
    folder_of_runs: ValueRole.RUN_FOLDER,
    model_folder: ValueRole.MODEL,
    data_root: ValueRole.DATA_ROOT,
    feature_spec: ValueRole.FEATURES,
}
"""The roles of values by the types of their flags; all other values are plain."""


def _location(text: str) -> Path | str:
    return text.rstrip("/") if "://" in text else Path(text)


def _number(text: str, kind: Callable[[str], float], valid: Callable[[float], bool], what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def augmentation(text: str) -> Augmentation:
    """Parse a comma list of variants."""
    try:
        return Augmentation.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive_integer(text: str) -> int:
    """Take a whole number from 1 up."""
    return int(_number(text, int, lambda v: v >= 1, "a whole number from 1 up"))


def seed(text: str) -> int:
    """Take a whole number from 0 up."""
    return int(_number(text, int, lambda v: v >= 0, "a whole number from 0 up"))


def n_folds(text: str) -> int:
    """Take a number of folds, from 2 to 1000."""
    return int(_number(text, int, lambda v: 2 <= v <= 1000, "a number of folds from 2 to 1000"))


def fraction(text: str) -> float:
    """Take a number above 0 and below 1."""
    return _number(text, float, lambda v: 0 < v < 1, "a fraction above 0 and below 1")


def positive_number(text: str) -> float:
    """Take a number above 0."""
    return _number(text, float, lambda v: 0 < v < math.inf, "a number above 0")


def number(text: str) -> float:
    """Take a number from 0 up."""
    return _number(text, float, lambda v: 0 <= v < math.inf, "a number from 0 up")


def share(text: str) -> float:
    """Take a number from 0 to 1."""
    return _number(text, float, lambda v: 0 <= v <= 1, "a share from 0 to 1")


def size(text: str) -> tuple[int, int]:
    """Take HEIGHTxWIDTH."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= height * width <= MAX_SIZE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH of at most {MAX_SIZE:,} pixels, such as 40x60"
        )
    return height, width


def lambda_grid(text: str) -> tuple[float, ...]:
    """Take A:B:N, for N points from 10^A to 10^B, or a comma list of numbers."""
    try:
        if ":" in text:
            low, high, points = text.split(":")
            if int(points) > MAX_GRID:
                raise argparse.ArgumentTypeError(f"{text!r}: more than {MAX_GRID:,} λ")
            with np.errstate(over="ignore"):  # an infinite λ is refused below
                grid = [float(value) for value in np.logspace(float(low), float(high), int(points))]
        else:
            grid = [float(value) for value in text.split(",")]
    except (ValueError, OverflowError):
        grid = []
    if not grid:
        raise argparse.ArgumentTypeError(f"{text!r} is neither A:B:N nor a comma list of numbers")
    if not all(0 <= value <= MAX_LAMBDA for value in grid):  # which NaN is not
        raise argparse.ArgumentTypeError(f"{text!r}: every λ must be a finite number from 0 up to {MAX_LAMBDA:g}")
    if len(set(grid)) < len(grid):
        raise argparse.ArgumentTypeError(f"{text!r} names a λ twice")
    return tuple(grid)
