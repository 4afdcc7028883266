"""`python -m bench.spread`: moments in tiles on the ranks (ridge/spread_fit.py), in one run.

20,000 images of MNIST at 8,192 random features, two λ: the fit with the tiles on one rank, with the tiles on two,
and with moments that both ranks hold as a whole. Every rank has one thread. A fit takes pixels in memory to the
chosen model. Ratios are medians over rounds; each round runs every case once.
"""

from __future__ import annotations

import statistics
from typing import Any

from bench.harness import Claim, main, say, table
from bench.ranks import DATA_PARALLEL, run

DATA = ("--data", "mnist", "--limit", "20000", "--features", "random:8192", "--lambdas", "1,100")
ROUNDS = 2
TILES, WHOLE = ("--whole", "1"), ("--whole", "4096")
CASES = {
    "tiles, 1 rank": (1, TILES),
    "tiles, 2 ranks": (2, TILES),
    "whole, 2 ranks": (2, WHOLE),
}
PHASES = ("moments", "reduce", "fingerprint", "path", "validation", "refit")


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the table and return what was measured and the claims."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    for turn in range(ROUNDS):
        for name, (ranks, flags) in CASES.items():
            say(f"{name}, round {turn + 1} of {ROUNDS}")
            rounds[name].append(run(ranks, DATA_PARALLEL, *DATA, *flags).metrics)
    print_rounds(rounds)
    one, two, whole = CASES
    every = [metrics for of_case in rounds.values() for metrics in of_case]
    residuals = [metrics["spread"]["residual"] for metrics in every if "spread" in metrics]
    found = {(metrics["moments_sha256"], tuple(metrics["validation_correct"])) for metrics in every}
    claims = [
        Claim.at_least("fit in tiles: 1 rank / 2 ranks", ratio(rounds, one, two), 1.6),
        Claim.at_least("fit on 2 ranks: whole / in tiles", ratio(rounds, whole, two), 0.8),
        Claim.at_most("peak of 2 ranks in tiles / of 1", peak(rounds[two]) / peak(rounds[one]), 0.8),
        Claim.at_most("relative residual of a system", max(residuals), 1e-10),
        Claim.at_most("different fingerprints and counts", len(found), 1),
    ]
    return {"rounds": rounds}, claims


def seconds_of(metrics: dict[str, Any], phase: str) -> float:
    """Return the seconds of a phase on the rank that took longest for it; 0 if the fit has no such phase."""
    return max(float(rank["seconds"].get(phase, 0.0)) for rank in metrics["ranks"])


def fit_seconds(metrics: dict[str, Any]) -> float:
    """Return the seconds of all phases of a fit."""
    return sum(seconds_of(metrics, phase) for phase in PHASES)


def ratio(rounds: dict[str, list[dict[str, Any]]], slow: str, fast: str) -> float:
    """Return the median over rounds of one case's time over another's."""
    pairs = zip(rounds[slow], rounds[fast], strict=True)
    return statistics.median(fit_seconds(a) / fit_seconds(b) for a, b in pairs)


def peak(of_case: list[dict[str, Any]]) -> float:
    """Return the largest peak memory of a rank, in MiB."""
    return max(float(rank["peak_mib"]) for metrics in of_case for rank in metrics["ranks"])


def print_rounds(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of all fits."""
    rows = []
    for name, of_case in rounds.items():
        spent = [statistics.median(seconds_of(metrics, phase) for metrics in of_case) for phase in PHASES]
        whole = statistics.median(map(fit_seconds, of_case))
        rows.append([name, *(f"{s:.1f}" for s in (whole, *spent)), f"{peak(of_case):,.0f}"])
    print(table(["fit", "s", *(f"{phase} s" for phase in PHASES), "peak MiB of a rank"], rows))


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
