"""The flags of prediction, and what a resumed run takes over of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common.predict.files import FORMATS
from common.predict.inputs import SOURCES, absolute
from common.run.flags import (
    Help,
    Parser,
    data_root_flag,
    number,
    output_flags,
    positive_integer,
    positive_number,
)

NOT_KEPT = {"out", "resume", "quiet", "device", "threads", "ratio", "profile", "batch", "memory", "max_delay"}
"""Flags that say how a run is done, and not what comes of it. The others hold when it is resumed."""

PATHS = ("model", "data_root")


def model_flags(parser: argparse._ActionsContainer, required: bool) -> None:
    """Add which model, and which images."""
    parser.add_argument(
        "--model",
        metavar="RUN",
        type=Path,
        required=required,
        help="the run folder of train_cnn.py, or a checkpoint",
    )
    parser.add_argument("--data", metavar="SPEC", required=required, help=SOURCES)
    data_root_flag(parser)
    parser.add_argument(
        "--split", choices=("train", "test"), help="of mnist (default: its test set) and of sets that have both"
    )


def work_flags(group: argparse._ActionsContainer) -> None:
    """Add how a rank works."""
    group.add_argument(
        "--batch", metavar="N", type=positive_integer,
        help="images that travel and are predicted together (default: about 1 MiB of pixels, 8 to 256)",
    )  # fmt: skip
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="of predictors; auto: a GPU if there is one",
    )


def prediction_parser() -> Parser:
    """The parser of predict_cnn.py."""
    parser = Parser(
        description="Predict the classes of images by a network, in a pipeline over ranks.", formatter_class=Help
    )
    model_flags(parser.add_argument_group("what"), required=False)
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument(
        "--ratio", metavar="R", type=positive_integer,
        help="predictors to a preprocessor (default: what --profile recommends, or a look at the first images)",
    )  # fmt: skip
    ranks.add_argument(
        "--profile", metavar="FILE", type=Path, help="a profile.json that profile_cnn.py has written"
    )
    ranks.add_argument(
        "--threads", metavar="T", type=positive_integer,
        help="of each rank that decodes or predicts (default: the cores of a machine, shared out among those)",
    )  # fmt: skip
    work_flags(ranks)
    ranks.add_argument(
        "--fast", action="store_true", help="decode JPEGs faster, fold batch norm, multiply in bfloat16"
    )
    ranks.add_argument(
        "--memory", metavar="MIB", type=positive_number, default=256.0,
        help="for decoded images that are under way, on all ranks together",
    )  # fmt: skip
    ranks.add_argument(
        "--max-delay", metavar="MS", type=number, default=50.0,
        help="milliseconds after which images go on though they are no whole batch",
    )  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=FORMATS, default="csv", help="of the predictions")
    out.add_argument("--top", metavar="K", type=positive_integer, default=1, help="so many classes, best first")
    out.add_argument("--scores", action="store_true", help="the probability of each predicted class")
    out.add_argument(
        "--unordered", action="store_true", help="write rows as they come, and not in the images' order"
    )
    output_flags(out)
    out.add_argument(
        "--resume", metavar="RUN", type=Path,
        help="complete the run in this folder: its model, images and output, unless said otherwise",
    )  # fmt: skip
    return parser


def profile_parser() -> Parser:
    """The parser of profile_cnn.py."""
    parser = Parser(
        description="Measure what an image costs at each stage of prediction, and recommend a layout of ranks. "
        "Under mpiexec all ranks measure at the same time, as they will work: start one for each core.",
        formatter_class=Help,
    )
    model_flags(parser.add_argument_group("what"), required=True)
    measured = parser.add_argument_group("measured")
    work_flags(measured)
    measured.add_argument("--threads", metavar="T", type=positive_integer, default=1, help="of each rank")
    measured.add_argument(
        "--images", metavar="N", type=positive_integer, default=200, help="that are looked at, at most"
    )
    measured.add_argument(
        "--seconds", metavar="S", type=positive_number, default=2.0, help="for each of decoding and predicting"
    )
    measured.add_argument(
        "--ranks", metavar="LIST", type=_ranks, default="4,6,9,17,33",
        help="numbers of ranks to recommend a layout for, separated by commas",
    )  # fmt: skip
    measured.add_argument(
        "--cores", metavar="N", type=positive_integer, help="that those may use (default: a core each)"
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
    """What a run folder keeps of the flags, as plain values."""
    kept = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    return kept | {name: str(kept[name].absolute()) for name in PATHS} | {"data": absolute(arguments.data)}


def keep(parser: Parser, kept: dict[str, Any]) -> None:
    """Make what recipe() kept the defaults of a parser."""
    known = {name: value for name, value in kept.items() if name not in NOT_KEPT}
    parser.set_defaults(**known | {name: Path(str(known[name])) for name in PATHS})
