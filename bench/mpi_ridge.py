"""`python -m bench.mpi_ridge`: the ridge classifier on MPI, on MNIST, in one run.

1. The exact data-parallel fit at 1 rank × 1 thread, 1 × 2 and 2 × 1, and the model-parallel fit at 2 × 1.
2. The published pattern (published_ridge.py) at 2 × 1: rank 0 computes XᵀX alone, and broadcasts it and the
   validation images, pickled.
3. Threads within a rank, for the moments alone: the threads of BLAS against tiles of several sizes. The jobs use
   tiles of 1024×392 for 784 features and two threads.

A fit takes pixels in memory to the chosen model: moments, their sum over the ranks, the path of all λ, validation
and refit. Ratios are medians over rounds; each round runs every case once.
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
    """Return the seconds of each case's fit and of its phases, round by round."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in [*CASES, PUBLISHED]}
    for turn in range(ROUNDS):
        say(f"round {turn + 1} of {ROUNDS}")
        for name, (ranks, threads, job) in CASES.items():
            done = run(ranks, job, *DATA, threads=threads)
            rounds[name].append({"fit_s": done.fit_s, **done.phases})
        rounds[PUBLISHED].append(json.loads(launch(2, [ROOT / "bench" / "published_ridge.py", *DATA, "--quiet"])))
    return rounds


def tiles() -> list[dict[str, Any]]:
    """Return the seconds of all images' moments in this process, with BLAS's threads and with tiles."""
    ridge_run = RidgeRun.open("bench", ridge_parser("").parse_arguments([*DATA, "--quiet"]))
    problem = ridge_run.problem
    images = problem.load(ridge_run.console)
    rows = []
    for threads in (1, 2):
        times: dict[Tile | None, list[float]] = {tile: [] for tile in TILES}
        for _ in range(ROUNDS):
            for tile, spent in times.items():
                limit_blas(1 if tile else threads)
                product = partial(TiledProduct, tile=tile, threads=threads) if tile else BlasProduct
                started = time.perf_counter()
                sums = FoldSums(problem.n_classes, problem.features, product=product)
                sums.add(images.pixels, images.labels, images.folds)
                sums.result()
                spent.append(time.perf_counter() - started)
        rows += [
            {"threads": threads, "tile": tile and list(tile), "s": statistics.median(spent)}
            for tile, spent in times.items()
        ]
    return rows


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure everything, print the tables and return what was measured and the claims."""
    rounds = fits()
    say("tiles against BLAS")
    tiled = tiles()
    print_fits(rounds)
    print()
    print_tiles(tiled)
    one, two_threads, two_ranks, _ = CASES
    claims = [
        Claim.at_least("fit: 1 × 1 / 2 ranks × 1 thread", ratio(rounds, one, two_ranks), 1.5),
        Claim.at_most(
            "fit: 2 ranks × 1 thread / 1 rank × 2 threads", 1 / ratio(rounds, two_threads, two_ranks), 1.15
        ),
        Claim.at_least("fit: published pattern / 2 ranks × 1 thread", ratio(rounds, PUBLISHED, two_ranks), 2),
    ]
    return {"rounds": rounds, "tiles": tiled}, claims


def ratio(rounds: dict[str, list[dict[str, Any]]], slow: str, fast: str) -> float:
    """Return the median over rounds of one case's time over another's."""
    pairs = zip(rounds[slow], rounds[fast], strict=True)
    return float(statistics.median(a["fit_s"] / b["fit_s"] for a, b in pairs))


def print_fits(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of all fits."""
    one = next(iter(CASES))
    rows = []
    for name, fits_of_case in rounds.items():
        phases = FIT if name != PUBLISHED else ()
        seconds = {key: statistics.median(fit[key] for fit in fits_of_case) for key in ("fit_s", *phases)}
        cells = [f"{seconds[phase]:.3f}" if phase in seconds else "" for phase in ("fit_s", *FIT)]
        rows.append([name, *cells, f"{ratio(rounds, one, name):.2f}"])
    print(table(["ranks × threads", "fit s", *(f"{phase} s" for phase in FIT), f"{one} / this"], rows))


def print_tiles(tiled: list[dict[str, Any]]) -> None:
    """Print the table of tile sizes."""
    rows = []
    for tile in TILES:
        seconds = [row["s"] for row in tiled if row["tile"] == (tile and list(tile))]
        name = "×".join(map(str, tile)) if tile else "none: BLAS's own threads"
        rows.append([name, *(f"{s:.3f}" for s in seconds)])
    print(table(["rows × columns of a tile", "1 thread, s", "2 threads, s"], rows))


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
