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
"""Keys of an epoch's record, and the names of their scalars."""


class Scalars:
    """Writes the scalars of a run.

    Args:
        folder: the folder to write to.
    """

    def __init__(self, folder: Path) -> None:
        # imported here because it takes a second, which most runs do not need
        from tensorboardX import SummaryWriter

        self._folder = folder
        with written_into(folder):
            self._writer = SummaryWriter(str(folder))

    def write(self, epoch: int, record: Mapping[str, float]) -> None:
        """Add the record of an epoch.

        Raises:
            RunError: it cannot be written.
        """
        with written_into(self._folder):
            for name, tag in NAMES.items():
                if name in record:
                    self._writer.add_scalar(tag, record[name], epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()
