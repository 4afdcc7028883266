"""Scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.runs import written_into

NAMES = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "validation_top5": "accuracy/validation_top5",
    "macro_f1": "macro_f1/validation",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


def write_scalars(folder: Path, epoch: int, record: Mapping[str, float]) -> None:
    """Add an epoch's figures.

    Raises:
        InputError: they cannot be written.
    """
    # imported here, because it takes a second, which most runs have no use for
    from tensorboardX import SummaryWriter

    with written_into(folder), SummaryWriter(str(folder)) as writer:
        for name, tag in NAMES.items():
            if name in record:
                writer.add_scalar(tag, record[name], epoch)
