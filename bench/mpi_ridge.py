"""`python -m bench.mpi_ridge`: the ridge classifier on MPI, on MNIST, in one run.

1. The exact data-parallel fit at 1 rank × 1 thread, 1 × 2 and 2 × 1, and the model-parallel fit at 2 × 1.
2. The same against the published driver's pattern (published_ridge.py) at 2 × 1: rank 0 computes XᵀX alone, and
   broadcasts it and the validation images by pickle.
3. The threads inside a rank: BLAS's own against tiles of several sizes, for the moments alone. 1024×392 is what
   the jobs take for 784 features and two threads.

A fit is everything from pixels in memory to the chosen model: moments, their sum over the ranks, the path of all
λ, validation, refit. Ratios are medians over rounds, in each of which every case runs once.
"""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from typing import Any

from bench.harness import Claim, main, say, table
from bench.ranks import DATA_PARALLEL, FIT, ROOT, launch, run
from common.blas import limit_blas
from common.ridge.gram import BlasProduct, Tile, TiledProduct
from common.ridge.moments import FoldSums
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun

DATA = ("--data", "mnist")
ROUNDS = 7
CASES = {
    "data-parallel 1 × 1": (1, 1, DATA_PARALLEL),
    "data-parallel 1 × 2": (1, 2, DATA_PARALLEL),
    "data-parallel 2 × 1": (2, 1, DATA_PARALLEL),
    "model-parallel 2 × 1": (2, 1, ROOT / "mpi_jobs" / "ridge_model_parallel.py"),
}
PUBLISHED = "published pattern 2 × 1"
TILES = [None, Tile(1024, 98), Tile(1024, 196), Tile(1024, 392), Tile(512, 392), Tile(256, 392)]


def fits() -> dict[str, list[dict[str, Any]]]:
    """Every case once a round: its fit, whole and phase by phase."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in [*CASES, PUBLISHED]}
    for turn in range(ROUNDS):
        say(f"round {turn + 1} of {ROUNDS}")
        for name, (ranks, threads, job) in CASES.items():
            done = run(ranks, job, *DATA, threads=threads)
            found[name].append({"fit_s": done.fit_s, **done.phases})
        found[PUBLISHED].append(json.loads(launch(2, [ROOT / "bench" / "published_ridge.py", *DATA, "--quiet"])))
    return found


def tiles() -> list[dict[str, Any]]:
    """Seconds of the moments of all images in this process, by BLAS's threads and by tiles."""
    run = RidgeRun.open("bench", ridge_parser("").parse_arguments([*DATA, "--quiet"]))
    problem = run.problem
    images = problem.load(run.console)
    rows = []
    for threads in (1, 2):
        times: dict[Tile | None, list[float]] = {tile: [] for tile in TILES}
        for _ in range(ROUNDS):
            for tile, spent in times.items():
                limit_blas(1 if tile else threads)
                product = partial(TiledProduct, tile=tile, threads=threads) if tile else BlasProduct
                started = time.perf_counter()
                sums = FoldSums(problem.n_classes, problem.features, product)
                sums.add(images.pixels, images.labels, images.folds)
                sums.result()
                spent.append(time.perf_counter() - started)
        rows += [
            {"threads": threads, "tile": tile and list(tile), "s": statistics.median(spent)}
            for tile, spent in times.items()
        ]
    return rows


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Everything, and what it shows."""
    rounds = fits()
    say("tiles against BLAS")
    tiled = tiles()

    def ratio(slow: str, fast: str) -> float:
        pairs = zip(rounds[slow], rounds[fast], strict=True)
        return float(statistics.median(a["fit_s"] / b["fit_s"] for a, b in pairs))

    def median(name: str, phase: str) -> str:
        return f"{statistics.median(each[phase] for each in rounds[name]):.3f}"

    one, two_threads, two_ranks, _ = CASES
    print(table(
        ["ranks × threads", "fit s", *(f"{phase} s" for phase in FIT), f"{one} / this"],
        [[name, median(name, "fit_s"), *(median(name, phase) for phase in FIT), f"{ratio(one, name):.2f}"]
         for name in CASES]
        + [[PUBLISHED, median(PUBLISHED, "fit_s"), *[""] * len(FIT), f"{ratio(one, PUBLISHED):.2f}"]],
    ))  # fmt: skip
    print()
    print(table(
        ["rows × columns of a tile", "1 thread, s", "2 threads, s"],
        [["×".join(map(str, tile)) if tile else "none: BLAS's own threads",
          *(f"{row['s']:.3f}" for row in tiled if row["tile"] == (tile and list(tile)))] for tile in TILES],
    ))  # fmt: skip
    claims = [
        Claim.at_least("fit: 1 × 1 / 2 ranks × 1 thread", ratio(one, two_ranks), 1.6),
        Claim.at_most("fit: 2 ranks × 1 thread / 1 rank × 2 threads", 1 / ratio(two_threads, two_ranks), 1.15),
        Claim.at_least("fit: published pattern / 2 ranks × 1 thread", ratio(PUBLISHED, two_ranks), 2),
    ]
    return {"rounds": rounds, "tiles": tiled}, claims


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
