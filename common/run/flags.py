"""The flags that all jobs share, one-line errors, and what a person sees while a job runs."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from common.data.decode import PixelFormat
from common.data.sources import TABLE_SPEC, specs
from common.ridge.path import PENALTIES

MAX_SIZE = 100_000
"""Pixels of an image beyond which nobody wants their Gram matrix."""
MAX_LAMBDA = 1e100
"""Far beyond any use, and far from what overflows when it is multiplied."""
MAX_GRID = 1_000

PARSE_ONLY = "JOB_PARSE_ONLY"
"""Set by who wants to know whether a job's flags are right, and nothing else of it."""


DESCRIBE = "JOB_DESCRIBE_FLAGS"
"""If set, a job prints its flags as JSON, as Parser.described has them, and exits with 0."""


class Role(StrEnum):
    """What the value of a flag stands for."""

    PLAIN = "plain"
    SOURCE = "source"
    INPUT = "input location"
    OUTPUT = "output location"
    RUN_FOLDER = "run folder"
    MODEL = "model"
    DATA_ROOT = "data root"


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose values may begin with a minus sign."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and exit with 2."""
        print(f"{self.prog}: {message}; --help lists the flags", file=sys.stderr)
        raise SystemExit(2)

    def described(self) -> list[dict[str, Any]]:
        """Return flags and positional arguments as plain values, in order.

        Each has `flags`, its names, none for a positional argument; `name`, for people; `takes_value`; and `role`,
        a Role.
        """
        return [
            {
                "flags": list(action.option_strings),
                "name": str(action.metavar or action.dest),
                "takes_value": action.nargs != 0,
                "role": ROLES.get(action.type, Role.PLAIN),
            }
            for action in self._actions
        ]

    def parse_arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse argv, or this process's own; argparse would take `--lambdas -5:5:10` for two flags."""
        if DESCRIBE in os.environ:
            print(json.dumps(self.described()))
            raise SystemExit(0)
        words: list[str] = []
        for word in sys.argv[1:] if argv is None else argv:
            if re.match(r"-[\d.]", word) and words and re.fullmatch(r"--[a-z-]+", words[-1]):
                words[-1] += f"={word}"
            else:
                words.append(word)
        arguments = self.parse_args(words)
        if PARSE_ONLY in os.environ:
            raise SystemExit(0)
        return arguments


def ridge_parser(description: str) -> Parser:
    """A parser with the flags of every ridge job."""
    parser = Parser(description=description, formatter_class=Help)
    data = parser.add_argument_group("data")
    data_flags(data, specs(TABLE_SPEC))
    pixel_flags(data)
    fit = parser.add_argument_group("fit")
    fit.add_argument(
        "--lambdas", metavar="SPEC", type=_lambdas, default="-5:5:10",
        help="A:B:N for 10^A to 10^B in N points, or a comma list; for intensities in [0, 1]",
    )  # fmt: skip
    fit.add_argument("--penalty", choices=PENALTIES, default="sum", help="the squared error's sum or its mean")
    held_out = fit.add_mutually_exclusive_group()
    validation_flag(held_out, "λ")
    held_out.add_argument("--folds", metavar="K", type=_folds, help="choose λ by K-fold cross-validation instead")
    seed_flags(fit)
    output_flags(parser.add_argument_group("output"))
    return parser


def data_flags(group: argparse._ActionsContainer, sources: str) -> None:
    """Add which images to use; `sources` are the sources that the job reads, for --help."""
    group.add_argument("--data", metavar="SPEC", type=source_spec, default="digits", help=sources)
    data_root_flag(group)
    group.add_argument(
        "--limit", metavar="N", type=positive_integer, help="so many training images, of each class its share"
    )
    group.add_argument(
        "--max-corrupt",
        metavar="F",
        type=_share,
        default=0.01,
        help="stop when more images than this are unusable",
    )


def validation_flag(group: argparse._ActionsContainer, what: str) -> None:
    """Add --validation, which holds images out to choose `what`."""
    group.add_argument(
        "--validation", metavar="F", type=fraction, default=0.2, help=f"fraction held out to choose {what}"
    )


def seed_flags(group: argparse._ActionsContainer) -> None:
    """Add --test and --seed."""
    group.add_argument(
        "--test",
        metavar="F",
        type=fraction,
        default=0.2,
        help="test fraction, where the source brings no test set",
    )
    group.add_argument("--seed", metavar="S", type=_seed, default=0, help="of shuffles and splits")


def output_flags(group: argparse._ActionsContainer) -> None:
    """Add --out and --quiet."""
    out_flag(group)
    quiet_flag(group)


def out_flag(group: argparse._ActionsContainer) -> None:
    """Add --out: a Path, or the text of an address such as s3://bucket/folder."""
    group.add_argument(
        "--out", metavar="DIR", type=run_folder, help="the run folder, or s3://… (default: a new one below runs/)"
    )


def source_spec(text: str) -> str:
    """The type of flags that name a source, as --data does."""
    return text


def input_location(text: str) -> Path | str:
    """The type of flags that name a path or an address such as s3://bucket/folder to read from."""
    return _location(text)


def output_location(text: str) -> Path | str:
    """The type of flags that name a path or an address to write to."""
    return _location(text)


def run_folder(text: str) -> Path | str:
    """The type of flags that name the run folder to write: a path or an address."""
    return _location(text)


def model_folder(text: str) -> Path:
    """The type of flags that name the run folder of a fitted model on this machine."""
    return Path(text)


def data_root(text: str) -> Path:
    """The type of flags that name the folder in which named sources live."""
    return Path(text)


ROLES: dict[object, Role] = {
    source_spec: Role.SOURCE,
    input_location: Role.INPUT,
    output_location: Role.OUTPUT,
    run_folder: Role.RUN_FOLDER,
    model_folder: Role.MODEL,
    data_root: Role.DATA_ROOT,
}
"""What the values of flags of these types stand for."""


def _location(text: str) -> Path | str:
    return text.rstrip("/") if "://" in text else Path(text)


def pixel_flags(group: argparse._ActionsContainer) -> None:
    """Add what images can be turned into; pixel_format() reads it."""
    group.add_argument("--size", metavar="HxW", type=_size, help="resize every image")
    group.add_argument("--grey", action="store_true", help="one channel of luminance")
    group.add_argument(
        "--binarize", metavar="T", type=fraction, help="grey, then white from this share of full intensity"
    )


def pixel_format(arguments: argparse.Namespace) -> PixelFormat:
    """What the flags ask every image to be turned into."""
    return PixelFormat(arguments.size, arguments.grey, arguments.binarize)


def quiet_flag(group: argparse._ActionsContainer) -> None:
    """Add --quiet."""
    group.add_argument("--quiet", action="store_true", help="print nothing but the report's path")


def data_root_flag(group: argparse._ActionsContainer) -> None:
    """Add --data-root."""
    group.add_argument(
        "--data-root", metavar="DIR", type=data_root, default=Path(os.environ.get("IMAGE_DATA_ROOT") or "data"),
        help="where named sets live; else $IMAGE_DATA_ROOT, else data/",
    )  # fmt: skip


def _number(text: str, kind: Callable[[str], float], valid: Callable[[float], bool], what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def positive_integer(text: str) -> int:
    """The type of flags that count something."""
    return int(_number(text, int, lambda v: v >= 1, "a whole number from 1 up"))


def _seed(text: str) -> int:
    return int(_number(text, int, lambda v: v >= 0, "a whole number from 0 up"))


def _folds(text: str) -> int:
    return int(_number(text, int, lambda v: 2 <= v <= 1000, "a number of folds from 2 to 1000"))


def fraction(text: str) -> float:
    """The type of flags that hold something out."""
    return _number(text, float, lambda v: 0 < v < 1, "a fraction above 0 and below 1")


def positive_number(text: str) -> float:
    """The type of flags that measure something."""
    return _number(text, float, lambda v: 0 < v < math.inf, "a number above 0")


def number(text: str) -> float:
    """The type of flags that measure something there may be none of."""
    return _number(text, float, lambda v: 0 <= v < math.inf, "a number from 0 up")


def _share(text: str) -> float:
    return _number(text, float, lambda v: 0 <= v <= 1, "a share from 0 to 1")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= height * width <= MAX_SIZE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HEIGHTxWIDTH of at most {MAX_SIZE:,} pixels, such as 40x60"
        )
    return height, width


def _lambdas(text: str) -> tuple[float, ...]:
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
