"""Scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.atomic import written_into

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


class Scalars:
    """What a run writes for TensorBoard.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        # imported here, because it takes a second, which most runs have no use for
        from tensorboardX import SummaryWriter

        self._folder = folder
        with written_into(folder):
            self._writer = SummaryWriter(str(folder))

    def write(self, epoch: int, record: Mapping[str, float]) -> None:
        """Add an epoch's figures.

        Raises:
            InputError: they cannot be written.
        """
        with written_into(self._folder):
            for name, tag in NAMES.items():
                if name in record:
                    self._writer.add_scalar(tag, record[name], epoch)
            self._writer.flush()

    def close(self) -> None:
        """Write no more."""
        self._writer.close()
