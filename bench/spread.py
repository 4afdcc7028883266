"""`python -m bench.spread`: moments in tiles on ranks and on executors, in one run.

20,000 images of MNIST at 8,192 random features, two λ: the fit with the tiles on one rank, with the tiles on two,
with moments that both ranks hold as a whole, and once with the tiles on two executors of Spark. Every rank and
executor has one thread. A fit takes pixels in memory to the chosen model. Ratios are medians over rounds; each
round runs every case on ranks once.

With `--large`: CIFAR-10 as JPEGs at 32,000 features (4,000 filters), three λ, on two ranks and on two executors,
once each. That takes about an hour on two cores, 12 GiB of memory and 20 GB of disk.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.cluster import standalone_cluster, submit, watched_memory
from bench.features import opened
from bench.harness import Claim, conclude, parser, say, table
from bench.ranks import DATA_PARALLEL, ROOT, run

DATA = ("--data", "mnist", "--limit", "20000", "--features", "random:8192", "--lambdas", "1,100")
LARGE = ("--features", "patches:4000,mirror", "--lambdas", "10,30,100", "--keep", "1024")
ROUNDS = 2
TILES, WHOLE = ("--whole", "1"), ("--whole", "4096")
CASES = {
    "tiles, 1 rank": (1, TILES),
    "tiles, 2 ranks": (2, TILES),
    "whole, 2 ranks": (2, WHOLE),
}
SPARK = "tiles, 2 executors"
PHASES = ("moments", "reduce", "fingerprint", "path", "validation", "refit")


def run_on_spark(*flags: str) -> dict[str, Any]:
    """Run gram.py on a cluster of two workers of one core, and return its metrics, with "peak_mib"."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_DIRS": str(folder)}
        with standalone_cluster(folder / "cluster", environment=environment) as master:
            words: list[str | Path] = [ROOT / "spark_jobs" / "gram.py", *flags, "--quiet", "--out", folder / "run"]
            with watched_memory(folder / "cluster") as peaks:
                submit(master, *words, driver="2g")
        metrics: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
        return {**metrics, "peak_mib": max(peaks.values()) / 2**20}


def measure_large() -> tuple[dict[str, Any], list[Claim]]:
    """Measure CIFAR-10 at 32,000 features on both engines."""
    with opened("cifar") as data:
        say("CIFAR-10 at 32,000 features, tiles on 2 ranks")
        ranks = run(2, DATA_PARALLEL, *data, *LARGE).metrics
        say("CIFAR-10 at 32,000 features, tiles on 2 executors")
        executors = run_on_spark(*data, *LARGE)
    rounds = {"tiles, 2 ranks": [ranks], SPARK: [executors]}
    print_rounds(rounds)
    counts = {tuple(metrics["validation_correct"]) for of_case in rounds.values() for metrics in of_case}
    claims = [
        Claim.at_least("test accuracy", ranks["test_accuracy"], 0.79),
        Claim.at_most("different counts", len(counts), 1),
        Claim.at_most("peak MiB of a rank", peak(rounds["tiles, 2 ranks"]), 10 * 1024),
        Claim.at_most("relative residual of a system on ranks", ranks["spread"]["residual"], 1e-10),
        Claim.at_most("relative residual of a system on executors", executors["spread"]["residual"], 1e-8),
    ]
    return {"rounds": rounds}, claims


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the table and return what was measured and the claims."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    for turn in range(ROUNDS):
        for name, (ranks, flags) in CASES.items():
            say(f"{name}, round {turn + 1} of {ROUNDS}")
            rounds[name].append(run(ranks, DATA_PARALLEL, *DATA, *flags).metrics)
    one, two, whole = CASES
    every = [metrics for of_case in rounds.values() for metrics in of_case]
    say(SPARK)
    executors = run_on_spark(*DATA, *TILES)
    counted = executors["validation_correct"]
    print_rounds({**rounds, SPARK: [executors]})
    residuals = [metrics["spread"]["residual"] for metrics in every if "spread" in metrics]
    found = {(metrics["moments_sha256"], tuple(metrics["validation_correct"])) for metrics in every}
    claims = [
        Claim.at_least("fit in tiles: 1 rank / 2 ranks", ratio(rounds, one, two), 1.6),
        Claim.at_least("fit on 2 ranks: whole / in tiles", ratio(rounds, whole, two), 0.8),
        Claim.at_most("peak of 2 ranks in tiles / of 1", peak(rounds[two]) / peak(rounds[one]), 0.8),
        Claim.at_most("relative residual of a system", max(residuals), 1e-10),
        Claim.at_most("different fingerprints and counts", len(found), 1),
        Claim.at_most("relative residual of a system on executors", executors["spread"]["residual"], 1e-8),
        Claim.at_least("executors have the counts of ranks", counted == every[0]["validation_correct"], 1),
    ]
    return {"rounds": {**rounds, SPARK: [executors]}}, claims


def seconds_of(metrics: dict[str, Any], phase: str) -> float:
    """Return the seconds of a phase, on the rank that took longest for it; 0 if the fit has no such phase."""
    return max(float(of["seconds"].get(phase, 0.0)) for of in metrics.get("ranks", [metrics]))


def fit_seconds(metrics: dict[str, Any]) -> float:
    """Return the seconds of all phases of a fit."""
    return sum(seconds_of(metrics, phase) for phase in PHASES)


def ratio(rounds: dict[str, list[dict[str, Any]]], slow: str, fast: str) -> float:
    """Return the median over rounds of one case's time over another's."""
    pairs = zip(rounds[slow], rounds[fast], strict=True)
    return statistics.median(fit_seconds(a) / fit_seconds(b) for a, b in pairs)


def peak(of_case: list[dict[str, Any]]) -> float:
    """Return the largest peak memory of a rank or of a process of an executor, in MiB."""
    return max(float(of["peak_mib"]) for metrics in of_case for of in metrics.get("ranks", [metrics]))


def print_rounds(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of all fits."""
    rows = []
    for name, of_case in rounds.items():
        spent = [statistics.median(seconds_of(metrics, phase) for metrics in of_case) for phase in PHASES]
        whole = statistics.median(map(fit_seconds, of_case))
        rows.append([name, *(f"{s:.1f}" for s in (whole, *spent)), f"{peak(of_case):,.0f}"])
    print(table(["fit", "s", *(f"{phase} s" for phase in PHASES), "peak MiB of a process"], rows))


def main() -> int:
    """Parse the flags, measure, and conclude."""
    flags = parser(__doc__ or "")
    flags.add_argument("--large", action="store_true", help="CIFAR-10 at 32,000 features; takes about an hour")
    arguments = flags.parse_args()
    return conclude(arguments, *(measure_large() if arguments.large else measure()))


if __name__ == "__main__":
    raise SystemExit(main())
