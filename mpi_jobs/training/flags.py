"""The flags of CNN training, and what a resumed run takes over of them."""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction as Switch
from pathlib import Path
from typing import Any

from common.data.sources import specs
from common.nets.networks import SMALL
from common.nets.preprocessing import AUGMENTATIONS, PHOTOGRAPH_SIDE
from common.run.flag_types import number, positive_integer, positive_number
from common.run.flags import data_flags, output_flags, seed_flags, validation_flag
from common.run.parser import Help, Parser
from mpi_jobs.training.gradients import WIRES
from mpi_jobs.training.optimisers import BASE_BATCH, LEARNING_RATES, SCHEDULES, STATES

MAX_SIDE = 4096

NOT_KEPT = {"out", "resume", "weights", "quiet", "batch", "device", "cuda_aware"}
"""Flags that belong to one start of a run. All others are kept in its checkpoints, and hold when it is resumed."""


def training_parser() -> Parser:
    """The parser of train_cnn.py."""
    parser = Parser(
        description="Train a convolutional network, the images of each step dealt out to ranks.",
        formatter_class=Help,
    )
    data = parser.add_argument_group("data")
    data_flags(data, specs())
    data.add_argument(
        "--image-size", metavar="N", type=_side,
        help="resize and crop every image to N×N "
        f"(default: photographs to {PHOTOGRAPH_SIDE}, digits and MNIST as they are)",
    )  # fmt: skip
    data.add_argument("--grey", action=Switch, default=False, help="one channel of luminance")
    data.add_argument(
        "--augment", metavar="LIST", type=_augmentations,
        help=f"change training images at random: {' and '.join(AUGMENTATIONS)}, separated by commas",
    )  # fmt: skip
    data.add_argument(
        "--cache", metavar="MIB", type=number, default=1024.0,
        help="memory of each machine for decoded images; 0 for none",
    )  # fmt: skip
    network = parser.add_argument_group("network")
    network.add_argument(
        "--network", metavar="NAME", default=SMALL, help="small, or a classifier of torchvision such as resnet18"
    )
    network.add_argument("--batch-norm", action=Switch, default=True, help="in the small network")
    network.add_argument(
        "--weights", metavar="FILE", type=Path, help="start from these weights: a state_dict, or a checkpoint"
    )
    _fit_flags(parser.add_argument_group("fit"))
    _rank_flags(parser.add_argument_group("ranks"))
    out = parser.add_argument_group("output")
    output_flags(out)
    out.add_argument(
        "--resume", metavar="RUN", type=Path,
        help="go on with the run in this folder, with its flags but for those given here",
    )  # fmt: skip
    out.add_argument(
        "--checkpoint-minutes", metavar="M", type=positive_number, default=10.0,
        help="save within epochs too, so often; each epoch ends with a checkpoint anyway",
    )  # fmt: skip
    out.add_argument("--tensorboard", action=Switch, default=False, help="write scalars to RUN/tensorboard")
    return parser


def _fit_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument("--epochs", metavar="N", type=positive_integer, default=20, help="passes over the images")
    batch = group.add_mutually_exclusive_group()
    batch.add_argument("--batch", metavar="N", type=positive_integer, help="images of a step on each rank [32]")
    batch.add_argument("--global-batch", metavar="N", type=positive_integer, help="images of a step on all ranks")
    group.add_argument("--optimiser", choices=tuple(STATES), default="adam", help="how parameters are stepped")
    group.add_argument(
        "--lr", metavar="R", type=positive_number,
        help=f"learning rate for steps of {BASE_BATCH} images; that of larger steps is larger, for sgd in "
        "proportion, for adam with the square root "
        f"(default: {', '.join(f'{rate:g} for {name}' for name, rate in LEARNING_RATES.items())})",
    )  # fmt: skip
    group.add_argument("--momentum", metavar="M", type=_below_one, default=0.9, help="of sgd")
    group.add_argument("--weight-decay", metavar="W", type=number, default=0.0, help="decoupled with adam")
    group.add_argument("--label-smoothing", metavar="S", type=_below_one, default=0.0, help="share of all classes")
    group.add_argument("--warm-up", metavar="E", type=number, default=1.0, help="epochs in which the rate rises")
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="the rate once it is warm")
    group.add_argument("--bf16", action=Switch, default=False, help="multiply in bfloat16, on processors that can")
    validation_flag(group, "the best epoch")
    seed_flags(group)


def _rank_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--threads", metavar="T", type=positive_integer,
        help="of each rank (default: the cores of a machine, shared out among its ranks)",
    )  # fmt: skip
    group.add_argument(
        "--decoders", metavar="T", type=positive_integer,
        help="threads of each rank that decode images (default: as many as --threads)",
    )  # fmt: skip
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one"
    )
    group.add_argument(
        "--exchange", choices=("shared", "messages"), default="shared",
        help="whether ranks of one machine share memory or send each other their gradients",
    )  # fmt: skip
    group.add_argument(
        "--bucket-mib", metavar="M", type=positive_number, default=25.0,
        help="gradients that are summed together while others are still being computed",
    )  # fmt: skip
    group.add_argument(
        "--wire", choices=WIRES, default="fp32", help="precision of gradients on their way between machines"
    )
    group.add_argument(
        "--cuda-aware", action="store_true", help="this MPI reads and writes the memory of GPUs itself"
    )


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a checkpoint keeps of the flags, as plain values."""
    kept = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    return kept | {"data_root": str(arguments.data_root)}


def keep(parser: Parser, kept: dict[str, Any]) -> None:
    """Make what recipe() kept the defaults of a parser."""
    parser.set_defaults(**kept | {"data_root": Path(str(kept.get("data_root", "data")))})


def differences(before: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    """What the flags of a resumed run change, for people."""
    return [
        f"--{name.replace('_', '-')} {_shown(value)} instead of {_shown(before[name])}"
        for name, value in recipe(arguments).items()
        if name in before and value != before[name]
    ]


def _shown(value: object) -> str:
    return "unset" if value in (None, "") else str(value)


def _side(text: str) -> int:
    side = positive_integer(text)
    if side > MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_SIDE}")
    return side


def _below_one(text: str) -> float:
    value = number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def _augmentations(text: str) -> str:
    wanted = [word for word in text.split(",") if word]
    unknown = set(wanted) - set(AUGMENTATIONS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{text!r}: {unknown.pop()!r} is none of {', '.join(AUGMENTATIONS)}")
    return ",".join(sorted(set(wanted)))
