"""What all benchmarks share: repeats, the environment, claims, and the command line around them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from common.atomic import write_atomically
from common.provenance import versions


@dataclass(frozen=True)
class Claim:
    """One thing that a benchmark shows: a ratio of two measurements of one run, and its bound."""

    claim: str
    value: float
    bound: str
    holds: bool

    @classmethod
    def at_most(cls, claim: str, value: float, bound: float) -> Claim:
        """`value` must not exceed `bound`."""
        return cls(claim, value, f"<= {bound:g}", value <= bound)

    @classmethod
    def at_least(cls, claim: str, value: float, bound: float) -> Claim:
        """`value` must reach `bound`."""
        return cls(claim, value, f">= {bound:g}", value >= bound)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median wall time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def say(message: str) -> None:
    """Progress, on stderr: a benchmark's table alone goes to stdout."""
    print(message, file=sys.stderr, flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, as README quotes it."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in [header, *rows]]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "versions": versions(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "blas": threadpool_info(),
    }


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every benchmark."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--check", action="store_true", help="exit 1 when a claim does not hold")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    return flags


def main(description: str, measure: Callable[[], tuple[dict[str, Any], list[Claim]]]) -> int:
    """Measure, print the claims, write them, and with --check exit 1 where one does not hold."""
    arguments = parser(description).parse_args()
    return conclude(arguments, *measure())


def conclude(arguments: argparse.Namespace, measured: dict[str, Any], claims: list[Claim]) -> int:
    """Print the claims, write everything, and with --check return 1 where one does not hold."""
    print()
    rows = [[c.claim, f"{c.value:.4g}", c.bound, "yes" if c.holds else "NO"] for c in claims]
    print(table(["claim", "value", "bound", "holds"], rows))
    if arguments.json is not None:
        result = {"environment": environment(), "measured": measured, "claims": [asdict(c) for c in claims]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(arguments.json) as file:
            file.write(json.dumps(result, indent=2).encode() + b"\n")
    return 1 if arguments.check and not all(c.holds for c in claims) else 0
