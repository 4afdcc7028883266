"""The flags of CNN training, and those that a resumed run takes over."""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction as Switch
from pathlib import Path
from typing import Any

from common.data import shipped
from common.data.imagenet import PHOTOGRAPH_SIDE
from common.data.sources import TABLE_SPEC, specs
from common.nets.networks import SMALL
from common.nets.preprocessing import AUGMENTATIONS
from common.nets.pretrained import EFFICIENTNET
from common.predict.inputs import absolute
from common.run.flag_types import number, positive_integer, positive_number
from common.run.flags import compare_flag, data_flags, max_pixels_flag, output_flags, seed_flags, validation_flag
from common.run.parser import Help, Parser
from mpi_jobs.engine.flags import device_flag, resume_flag, threads_flag
from mpi_jobs.training.optimisers import BASE_BATCH, LEARNING_RATES, SCHEDULES, STATES
from mpi_jobs.training.replica import WIRES

MAX_SIDE = 4096

RANDOM, RIDGE = "random", "ridge"
HEADS = (RANDOM, RIDGE)

NOT_KEPT = {"out", "compare", "resume", "weights", "pretrained", "head", "quiet", "batch", "device", "cuda_aware"}
"""Flags that hold for one start of a run. Checkpoints keep all others, which hold when the run is resumed."""


SPECS = ("data", "validation_data", "test_data")
PATHS = ("data_root", "labels", "validation_labels", "test_labels")
"""Flags that are kept so that they name the same from any current folder."""


def training_parser() -> Parser:
    """Return the parser of train_cnn.py."""
    parser = Parser(
        description="Train a convolutional network, with the images of each step dealt out to ranks.",
        formatter_class=Help,
    )
    _data_flags(parser.add_argument_group("data"))
    _network_flags(parser.add_argument_group("network"))
    _fit_flags(parser.add_argument_group("fit"))
    _rank_flags(parser.add_argument_group("ranks"))
    _output_flags(parser.add_argument_group("output"))
    return parser


def _data_flags(group: argparse._ActionsContainer) -> None:
    data_flags(group, specs(TABLE_SPEC))
    max_pixels_flag(group)
    sizes = f"(default: photographs to {PHOTOGRAPH_SIDE}, digits, MNIST and tables as they are)"
    group.add_argument("--image-size", metavar="N", type=_side, help=f"resize and crop every image to N×N {sizes}")
    group.add_argument("--grey", action=Switch, default=False, help="one channel of luminance")
    changes = " and ".join(AUGMENTATIONS)
    group.add_argument(
        "--augment",
        metavar="LIST",
        type=_augmentations,
        help=f"change training images at random: {changes}, separated by commas",
    )
    memory = "memory per machine for images that were decoded or read from a table; 0 for none"
    group.add_argument("--cache", metavar="MIB", type=number, default=1024.0, help=memory)


def _network_flags(group: argparse._ActionsContainer) -> None:
    names = f"small, medium, {EFFICIENTNET}, or a classifier of torchvision such as resnet18"
    group.add_argument("--network", metavar="NAME", default=SMALL, help=names)
    group.add_argument("--batch-norm", action=Switch, default=True, help="normalise by batch in the small network")
    begin = group.add_mutually_exclusive_group()
    weights = "start from these weights: a state_dict, or a checkpoint"
    begin.add_argument("--weights", metavar="FILE", type=Path, help=weights)
    pretrained = f"start from weights that were trained on ImageNet, of {EFFICIENTNET}"
    begin.add_argument("--pretrained", action="store_true", help=pretrained)
    head = "how the linear layer at the end begins: at random, unless it is among the weights, or as the ridge "
    head += "classifier of what the layers below it make of the training images; needs trained weights"
    group.add_argument("--head", choices=HEADS, default=RANDOM, help=head)


def _fit_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument("--epochs", metavar="N", type=positive_integer, default=20, help="passes over the images")
    batch = group.add_mutually_exclusive_group()
    batch.add_argument("--batch", metavar="N", type=positive_integer, help="images per step on each rank [32]")
    batch.add_argument("--global-batch", metavar="N", type=positive_integer, help="images per step on all ranks")
    group.add_argument("--optimiser", choices=tuple(STATES), default="adam", help="how parameters are updated")
    defaults = ", ".join(f"{rate:g} for {name}" for name, rate in LEARNING_RATES.items())
    group.add_argument(
        "--lr",
        metavar="R",
        type=positive_number,
        help=f"learning rate for steps of {BASE_BATCH} images; it grows with the number of images per step, in "
        f"proportion for sgd and with the square root for adam (default: {defaults})",
    )
    backbone = "learning rate below the linear layer at the end, as a multiple of the rate of that layer"
    group.add_argument("--backbone-lr", metavar="F", type=positive_number, default=1.0, help=backbone)
    frozen = "epochs, from the first, in which only the linear layer at the end is trained; needs trained weights"
    group.add_argument("--freeze", metavar="N", type=_whole_number, default=0, help=frozen)
    group.add_argument("--momentum", metavar="M", type=_below_one, default=0.9, help="momentum of sgd")
    group.add_argument("--weight-decay", metavar="W", type=number, default=0.0, help="decoupled with adam")
    smoothing = "share of the target that is spread over all classes"
    group.add_argument("--label-smoothing", metavar="S", type=_below_one, default=0.0, help=smoothing)
    group.add_argument("--warm-up", metavar="E", type=number, default=1.0, help="epochs in which the rate rises")
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="the rate after warm-up")
    group.add_argument("--bf16", action=Switch, default=False, help="multiply in bfloat16, on processors that can")
    validation_flag(group, "the best epoch")
    seed_flags(group)


def _rank_flags(group: argparse._ActionsContainer) -> None:
    threads_flag(group)
    decoders = "threads of each rank that decode images (default: as many as --threads)"
    group.add_argument("--decoders", metavar="T", type=positive_integer, help=decoders)
    device_flag(group)
    exchange = "ranks of one machine share memory, or send each other their gradients as messages"
    group.add_argument("--exchange", choices=("shared", "messages"), default="shared", help=exchange)
    bucket = "size of a bucket of gradients, summed while the next ones are still being computed"
    group.add_argument("--bucket-mib", metavar="M", type=positive_number, default=25.0, help=bucket)
    group.add_argument("--wire", choices=WIRES, default="fp32", help="precision of gradients between machines")
    cuda_aware = "this MPI reads and writes the memory of GPUs itself"
    group.add_argument("--cuda-aware", action="store_true", help=cuda_aware)


def _output_flags(group: argparse._ActionsContainer) -> None:
    output_flags(group)
    compare_flag(group)
    resume_flag(group, "continue the run in this folder with its flags, but for those given here")
    minutes = "minutes between checkpoints within an epoch; each epoch ends with one anyway"
    group.add_argument("--checkpoint-minutes", metavar="M", type=positive_number, default=10.0, help=minutes)
    group.add_argument("--tensorboard", action=Switch, default=False, help="write scalars to RUN/tensorboard")


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that a checkpoint keeps, as plain values."""
    kept = {name: value for name, value in vars(arguments).items() if name not in NOT_KEPT}
    specs = {name: absolute(kept[name]) for name in SPECS if kept[name] is not None}
    paths = {name: str(shipped.absolute(Path(kept[name]))) for name in PATHS if kept[name] is not None}
    return kept | specs | paths


def keep(parser: Parser, kept: dict[str, Any]) -> None:
    """Make the flags that recipe() kept the defaults of a parser."""
    parser.set_defaults(**kept | {"data_root": Path(str(kept.get("data_root", "data")))})


def differences(before: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    """Return the flags that a resumed run changes, for people."""
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


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _augmentations(text: str) -> str:
    names = {word for word in text.split(",") if word}
    unknown = sorted(names - set(AUGMENTATIONS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{text!r}: {unknown[0]!r} is none of {', '.join(AUGMENTATIONS)}")
    return ",".join(sorted(names))
