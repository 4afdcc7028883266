"""The memory that Spark's settings ask for, compared with what a machine has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.errors import InputError

UNITS = {"k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
"""MiB by the letter behind a number. Without one, Spark counts in MiB."""


def check_memory(conf: Mapping[str, str], who: str, most: int, where: str) -> None:
    """Check that a driver or an executor fits into its machine.

    Args:
        conf: Spark's settings.
        who: "driver" or "executor".
        most: the memory that it may have, in MiB.
        where: whose memory that is, for people.

    Raises:
        InputError: it asks for more, or for something that is no size.
    """
    names = [f"spark.{who}.memory", f"spark.{who}.memoryOverhead"]
    heap, overhead = (_mib(name, conf[name]) for name in names)
    if heap + overhead > most:
        asked = " and ".join(f"{name} {conf[name]}" for name in names)
        total = f"{heap + overhead:,.0f} MiB"
        raise InputError(f"{asked} are {total}, and {where} has {most:,}; lower them, or take larger machines")


def _mib(name: str, text: str) -> float:
    match = re.fullmatch(r"(\d+)(?:([kmgt])b?)?", text.strip().lower())
    if not match:
        raise InputError(f"{name} {text!r}: give a size such as 900m or 4g")
    return int(match[1]) * UNITS[match[2] or "m"]
