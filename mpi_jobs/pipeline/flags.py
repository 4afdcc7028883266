"""The flags of prediction, and which of them a resumed run takes over."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common.predict.files import FORMATS
from common.predict.inputs import absolute, prediction_specs
from common.run.flag_types import number, positive_integer, positive_number
from common.run.flags import compare_flag, data_root_flag, max_pixels_flag, output_flags
from common.run.parser import Help, Parser
from mpi_jobs.engine.flags import device_flag, resume_flag, threads_flag

LAYOUT = {"ratio", "profile", "batch", "memory", "max_delay"}
"""Flags that say which ranks do what, and how much at once."""

NOT_KEPT = {"out", "compare", "resume", "quiet", "device", "threads"} | LAYOUT
"""Flags that change how a run is done and not its result. A resumed run takes over all others."""

PATHS = ("model", "data_root")
"""Flags in a recipe that are paths."""


def prediction_parser() -> Parser:
    """Return the parser of predict_cnn.py."""
    parser = Parser(
        description="Predict the classes of images by a network or a ridge model, in a pipeline over ranks.",
        formatter_class=Help,
    )
    _model_flags(parser.add_argument_group("what"), required=False)
    _rank_flags(parser.add_argument_group("ranks"))
    _prediction_flags(parser.add_argument_group("output"))
    return parser


def _model_flags(group: argparse._ActionsContainer, required: bool) -> None:
    """Add the flags that name the model and the images."""
    group.add_argument(
        "--model",
        metavar="RUN",
        type=Path,
        required=required,
        help="run folder of train_cnn.py or of a ridge job, or a checkpoint file",
    )
    group.add_argument("--data", metavar="SPEC", required=required, help=prediction_specs())
    data_root_flag(group)
    max_pixels_flag(group)
    group.add_argument(
        "--split",
        choices=("train", "test"),
        help="split to predict, for sources that have both (default: the test set, or all images of a table)",
    )


def _batch_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--batch",
        metavar="N",
        type=positive_integer,
        help="images that travel and are predicted together (default: about 1 MiB of pixels, 8 to 256 images)",
    )


def _rank_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags that say how ranks divide the work."""
    group.add_argument(
        "--ratio",
        metavar="R",
        type=positive_integer,
        help="predictors per preprocessor (default: as --profile recommends, or as measured on the first images)",
    )
    group.add_argument("--profile", metavar="FILE", type=Path, help="profile.json written by profile_cnn.py")
    threads_flag(group, "each rank that decodes or predicts")
    _batch_flag(group)
    device_flag(group, "predictors")
    group.add_argument(
        "--fast",
        action="store_true",
        help="of networks: decode JPEGs faster, fold batch norm, multiply in bfloat16",
    )
    group.add_argument(
        "--memory",
        metavar="MIB",
        type=positive_number,
        default=256.0,
        help="memory for decoded images that are under way, on all ranks together",
    )
    group.add_argument(
        "--max-delay",
        metavar="MS",
        type=number,
        default=50.0,
        help="milliseconds after which a batch is processed although it is not full",
    )


def _prediction_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags that say what is written, and where."""
    group.add_argument("--format", choices=FORMATS, default="csv", help="format of the predictions")
    group.add_argument(
        "--top", metavar="K", type=positive_integer, default=1, help="number of classes per image, best first"
    )
    group.add_argument(
        "--scores",
        action="store_true",
        help="add the score of each predicted class; of a network, its probability",
    )
    group.add_argument(
        "--unordered", action="store_true", help="write rows as they come, and not in the order of the images"
    )
    output_flags(group)
    compare_flag(group)
    resume_flag(group, "complete the run in this folder, with its flags except those given here")


def profile_parser() -> Parser:
    """Return the parser of profile_cnn.py."""
    parser = Parser(
        description="Measure what each step of prediction costs per image, and recommend a layout of ranks. "
        "Under mpiexec all ranks measure at the same time, as they will also work at the same time: start one "
        "rank per core.",
        formatter_class=Help,
    )
    _model_flags(parser.add_argument_group("what"), required=True)
    measured = parser.add_argument_group("measured")
    _batch_flag(measured)
    device_flag(measured, "predictors")
    measured.add_argument("--threads", metavar="T", type=positive_integer, default=1, help="threads of each rank")
    measured.add_argument(
        "--images", metavar="N", type=positive_integer, default=200, help="most images measured per rank"
    )
    measured.add_argument(
        "--seconds",
        metavar="S",
        type=positive_number,
        default=2.0,
        help="seconds for each of decoding and predicting",
    )
    measured.add_argument(
        "--ranks",
        metavar="LIST",
        type=_ranks,
        default="4,6,9,17,33",
        help="numbers of ranks to recommend a layout for, separated by commas",
    )
    measured.add_argument(
        "--cores",
        metavar="N",
        type=positive_integer,
        help="cores that they may use (default: one per rank)",
    )
    output_flags(parser.add_argument_group("output"))
    return parser


def _ranks(text: str) -> tuple[int, ...]:
    try:
        ranks = tuple(int(word) for word in text.split(","))
    except ValueError:
        ranks = ()
    if not ranks or min(ranks) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma list of numbers of ranks")
    return ranks


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that a resumed run takes over, as plain values."""
    kept = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    return kept | {name: str(kept[name].absolute()) for name in PATHS} | {"data": absolute(arguments.data)}


def keep(parser: Parser, kept: dict[str, Any]) -> None:
    """Make the flags that `recipe` returned the defaults of a parser.

    Raises:
        KeyError, TypeError, AttributeError: `recipe` did not return them.
    """
    defaults = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    parser.set_defaults(**defaults | {name: Path(str(defaults[name])) for name in PATHS})
