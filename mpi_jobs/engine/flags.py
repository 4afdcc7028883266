"""Flags that MPI jobs share."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.run.flag_types import positive_integer


def threads_flag(group: argparse._ActionsContainer, ranks: str = "each rank") -> None:
    """Add --threads, the number of threads of `ranks`; by default they divide the cores of their machine."""
    group.add_argument(
        "--threads",
        metavar="T",
        type=positive_integer,
        help=f"threads of {ranks} (default: the cores of the machine, divided among these ranks)",
    )


def device_flag(group: argparse._ActionsContainer, ranks: str = "each rank") -> None:
    """Add --device, the device that `ranks` compute on."""
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help=f"device of {ranks}; auto: a GPU if there is one",
    )


def resume_flag(group: argparse._ActionsContainer, text: str) -> None:
    """Add --resume, which continues the run in a folder; `text` is its help."""
    group.add_argument("--resume", metavar="RUN", type=Path, help=text)
