"""The parts that all benchmarks share: timing, claims, tables, the environment and the command line."""

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
    """A claim that a benchmark checks.

    Attributes:
        claim: what the value means.
        value: mostly a ratio of two measurements of the same run.
        bound: the bound, as text such as "<= 1.5".
        holds: whether the value keeps to the bound.
    """

    claim: str
    value: float
    bound: str
    holds: bool

    @classmethod
    def at_most(cls, claim: str, value: float, bound: float) -> Claim:
        """Claim that `value` does not exceed `bound`."""
        return cls(claim, value, f"<= {bound:g}", value <= bound)

    @classmethod
    def at_least(cls, claim: str, value: float, bound: float) -> Claim:
        """Claim that `value` reaches `bound`."""
        return cls(claim, value, f">= {bound:g}", value >= bound)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def say(message: str) -> None:
    """Print progress to stderr, because stdout is for the tables."""
    print(message, file=sys.stderr, flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, as the documentation quotes it."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def environment() -> dict[str, Any]:
    """Describe everything but the code that measurements depend on."""
    return {
        "versions": versions(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "blas": threadpool_info(),
    }


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--check", action="store_true", help="exit with 1 if a claim does not hold")
    flags.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    return flags


def main(description: str, measure: Callable[[], tuple[dict[str, Any], list[Claim]]]) -> int:
    """Parse the flags, measure, and conclude."""
    arguments = parser(description).parse_args()
    return conclude(arguments, *measure())


def conclude(arguments: argparse.Namespace, measured: dict[str, Any], claims: list[Claim]) -> int:
    """Print the claims, write everything with --json, and with --check return 1 if a claim does not hold."""
    print()
    rows = [[c.claim, f"{c.value:.4g}", c.bound, "yes" if c.holds else "NO"] for c in claims]
    print(table(["claim", "value", "bound", "holds"], rows))
    if arguments.json is not None:
        result = {"environment": environment(), "measured": measured, "claims": [asdict(c) for c in claims]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(arguments.json) as file:
            file.write(json.dumps(result, indent=2).encode() + b"\n")
    return 1 if arguments.check and not all(c.holds for c in claims) else 0
