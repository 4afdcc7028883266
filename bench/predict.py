"""`python -m bench.predict`: predictions over MPI against what people would use instead, in one run.

1. ResNet-18 on photographs of 667×1000, and the small network on small JPEGs: predict_cnn on five ranks, plain and
   fast, against PyTorch's DataLoader with one or two workers and batches in one process (the best of several
   settings), against the pipeline as published, in lock step, and against the bound of the profile: cores over
   what an image costs, measured on as many ranks as there are cores.
2. Every ratio of predictors to preprocessors on six ranks, and the recommended one.
3. How many images get the same class the fast way.
4. The memory of every rank, while 100,000 small images go through.

Rates are from the first image to the last row. Ratios are medians over rounds, in each of which every way has its
turn.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bench.data_loader import Case
from bench.harness import Claim, main, say, table
from bench.ranks import ROOT, launch, ranks_below
from common.data.decode import PixelFormat
from common.nets.checkpoints import BEST, Checkpoint

TRAIN, PREDICT, PROFILE = (
    ROOT / "mpi_jobs" / f"{name}.py" for name in ("train_cnn", "predict_cnn", "profile_cnn")
)
LOADER, PUBLISHED = ROOT / "bench" / "data_loader.py", ROOT / "bench" / "published_pipeline.py"
DATA = Path(os.environ.get("IMAGE_DATA_ROOT") or "data").absolute()
RANKS, SWEPT = 5, 6
CORES = len(os.sched_getaffinity(0))
WAYS = ("plain", "fast")
SIDE, LARGE_SIDE = 64, 224
RATIOS = ("1", "2", "3")


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        photographs: in the folder of large images.
        hands: copies of the small ones that are there.
        loaded: of the large images, that each setting of the DataLoader gets; of the small ones ten times as many.
        published: the same for the published pipeline.
        epochs: of training.
        small: images whose memory is watched.
        rounds: of each comparison.
    """

    photographs: int = 480
    hands: int = 5
    loaded: int = 240
    published: int = 90
    epochs: int = 12
    small: int = 100_000
    rounds: int = 3


class Prepared(NamedTuple):
    """What is predicted, in one folder.

    Attributes:
        folder: of everything.
        cases: by name, a model and images.
    """

    folder: Path
    cases: dict[str, Case]


@contextmanager
def prepared(sizes: Sizes) -> Iterator[Prepared]:
    """Models that have learnt the hand signs, and photographs made of these."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        hands = f"folder:{DATA / 'hands'}"
        always = ["--data", hands, "--quiet", "--threads", 1]
        always += ["--image-size", SIDE]
        cases = {}
        say("training")
        if sizes.photographs:
            launch(
                2, [TRAIN, *always, "--epochs", 2, "--network", "resnet18", "--bf16", "--out", folder / "resnet"]
            )
            enlarge(folder / "resnet", LARGE_SIDE)
            photographs = make_photographs(folder / "photographs", sizes.photographs)
            cases[f"ResNet-18, {LARGE_SIDE} px, photographs"] = Case(
                str(folder / "resnet"), str(photographs), sizes.photographs, LARGE_SIDE
            )
        launch(2, [TRAIN, *always, "--epochs", sizes.epochs, "--out", folder / "small"])
        for copy in range(sizes.hands):
            shutil.copytree(DATA / "hands", folder / "hands" / str(copy))
        cases[f"small network, {SIDE} px, small JPEGs"] = Case(
            str(folder / "small"), str(folder / "hands"), 1_000_000, SIDE
        )
        yield Prepared(folder, cases)


def enlarge(run: Path, side: int) -> None:
    """Make the network of a run one for larger images: its convolutions do not mind."""
    checkpoint = Checkpoint.load(run / BEST)
    form = PixelFormat((side, side), crop=True)
    replace(
        checkpoint, spec=checkpoint.spec._replace(height=side, width=side), optimiser={},
        preprocessing=replace(checkpoint.preprocessing, form=form),
    ).save(run / BEST)  # fmt: skip


def make_photographs(folder: Path, n: int, different: int = 64) -> Path:
    """JPEGs of 667×1000 pixels, about 120 kB each, of which so many are different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = sorted(str(path) for path in (DATA / "hands").rglob("*.*"))
    for number, name in enumerate(names[:: max(1, len(names) // different)][:different]):
        with Image.open(name) as image:
            large = np.asarray(image.convert("RGB").resize((667, 1000), Image.Resampling.BICUBIC)).astype(int)
        noisy = (large + rng.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(noisy).save(data, "JPEG", quality=88)
        for copy in range(number, n, different):
            (folder / f"{copy:05d}.jpg").write_bytes(data.getvalue())
    return folder


def predict(prepared: Prepared, case: Case, ranks: int, *flags: object) -> tuple[dict[str, Any], dict[str, str]]:
    """A run: its metrics.json, and its rows."""
    out = prepared.folder / "out"
    words = ["--model", case.model, "--data", f"folder:{case.folder}", "--quiet", "--out", out, *flags]
    launch(ranks, [PREDICT, *words])
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "predictions.csv").open(newline="") as file:
        rows = dict(list(csv.reader(file))[1:])
    shutil.rmtree(out)
    return metrics, rows


def bound(prepared: Prepared, case: Case) -> dict[str, float]:
    """Images a second by the profile, each way."""
    out = prepared.folder / "profile"
    words = ["--model", case.model, "--data", f"folder:{case.folder}", "--quiet", "--out", out]
    launch(CORES, [PROFILE, *words])
    ways = json.loads((out / "profile.json").read_text())["ways"]
    shutil.rmtree(out)
    return {way: CORES / (found["preprocess"] + found["predict"]) for way, found in ways.items()}


def compare(prepared: Prepared, sizes: Sizes) -> dict[str, Any]:
    """Images a second of every way, round by round, and what the two ways of ours say."""
    found: dict[str, Any] = {}
    for name, case in prepared.cases.items():
        rates: dict[str, list[float]] = {}
        loaders: list[dict[str, float]] = []
        differ = []
        for turn in range(sizes.rounds):
            say(f"{name}, round {turn + 1} of {sizes.rounds}")
            rows = {}
            for way in WAYS:
                metrics, rows[way] = predict(prepared, case, RANKS, *(["--fast"] if way == "fast" else []))
                rates.setdefault(way, []).append(metrics["images_per_second"])
            differ = [image for image, predicted in rows["plain"].items() if rows["fast"][image] != predicted]
            some = case._replace(images=min(case.images, sizes.loaded * (1 if case.side == LARGE_SIDE else 10)))
            loaders.append(json.loads(launch(1, [LOADER, json.dumps(some)])))
            few = case._replace(images=sizes.published * (1 if case.side == LARGE_SIDE else 10))
            rates.setdefault("published", []).append(json.loads(launch(RANKS, [PUBLISHED, json.dumps(few)])))
            for way, rate in bound(prepared, case).items():
                rates.setdefault(f"bound, {way}", []).append(rate)
        best = {
            kind: max(
                (key for key in loaders[0] if ("bf16" in key) == (kind == "bf16")),
                key=lambda key: statistics.median(loader[key] for loader in loaders),
            )
            for kind in ("fp32", "bf16")
        }
        for kind, key in best.items():
            rates[f"DataLoader, {kind}"] = [loader[key] for loader in loaders]
        found[name] = {"rates": rates, "best": best, "images": len(rows["plain"]), "differ": differ}
    return found


def sweep(prepared: Prepared, sizes: Sizes) -> dict[str, Any]:
    """Images a second on six ranks at every ratio, and at the one that the job chooses by itself."""
    found: dict[str, Any] = {}
    for name, case in prepared.cases.items():
        rates: dict[str, list[float]] = {}
        chosen = []
        for turn in range(sizes.rounds):
            say(f"{name}, ratios, round {turn + 1} of {sizes.rounds}")
            for ratio in (*RATIOS, "chosen"):
                flags = [] if ratio == "chosen" else ["--ratio", ratio]
                metrics, _ = predict(prepared, case, SWEPT, *flags)
                rates.setdefault(ratio, []).append(metrics["images_per_second"])
            chosen.append(metrics["layout"]["text"])
        found[name] = {"rates": rates, "chosen": chosen}
    return found


def memory(prepared: Prepared, n: int) -> dict[str, Any]:
    """The memory of every rank while so many small images go through.

    Returns:
        the least and the most that each has in the last 80 % of the run, in MiB, and how far apart, as a share.
    """
    say(f"{n:,} small images")
    case = list(prepared.cases.values())[-1]
    images = prepared.folder / "many"
    images.mkdir()
    rng = np.random.default_rng(1)
    for number in range(n):
        pixels = rng.integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(images / f"{number:06d}.png", compress_level=0)
    out = prepared.folder / "out"
    words = [PREDICT, "--model", case.model, "--data", f"folder:{images}", "--quiet", "--out", out]
    samples: list[tuple[float, dict[int, float]]] = []
    process = subprocess.Popen(
        ["mpiexec", "-n", str(RANKS), "python", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    predictions = out / "predictions.csv"
    while process.poll() is None:
        size = predictions.stat().st_size if predictions.exists() else 0
        if size and not (out / "metrics.json").exists():
            samples.append((size, {rank: resident_mib(pid) for rank, pid in enumerate(ranks_below(process.pid))}))
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"predict_cnn.py ended with {process.returncode}")
    rows = sum(1 for _ in predictions.open()) - 1
    whole = predictions.stat().st_size
    shutil.rmtree(out)
    shutil.rmtree(images)
    late = [
        ranks
        for size, ranks in samples
        if 0.2 * whole <= size < whole and len(ranks) == RANKS and min(ranks.values())
    ]
    least, most = ({r: f(ranks[r] for ranks in late) for r in range(RANKS)} for f in (min, max))
    spread = {rank: (most[rank] - least[rank]) / most[rank] for rank in range(RANKS)}
    return {"rows": rows, "samples": len(late), "least": least, "most": most, "spread": spread}


def resident_mib(pid: int) -> float:
    """Of a process's memory, what is in use."""
    with suppress(OSError):  # it may have ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 2**10
    return 0.0


def median_ratio(above: list[float], below: list[float]) -> float:
    """Of one over the other, round by round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def measure(sizes: Sizes = Sizes()) -> tuple[dict[str, Any], list[Claim]]:  # noqa: B008
    """Everything, and what it shows."""
    with prepared(sizes) as ready:
        compared, swept, watched = compare(ready, sizes), sweep(ready, sizes), memory(ready, sizes.small)
    claims: list[Claim] = []
    rows, ratios = [], []
    for name, found in compared.items():
        rates = found["rates"]
        rows.append([name] + [
            f"{statistics.median(rates[way]):,.0f}"
            for way in (*WAYS, "DataLoader, fp32", "DataLoader, bf16", "published", "bound, plain", "bound, fast")
        ])  # fmt: skip
        claims += [
            Claim.at_least(f"{name}: {above} / {below}", median_ratio(rates[above], rates[below]), least)
            for above, below, least in (
                ("plain", "published", 3.0),
                ("plain", "DataLoader, fp32", 1.0),
                ("fast", "DataLoader, bf16", 1.0),
            )
        ]
        if name.startswith("ResNet"):  # where an image costs next to nothing, messages cost their share
            bounded = median_ratio(rates["plain"], rates["bound, plain"])
            claims.append(Claim.at_least(f"{name}: plain / bound, plain", bounded, 0.85))
        same = 1 - len(found["differ"]) / found["images"]
        claims.append(Claim.at_least(f"{name}: same class the fast way", same, 0.999))
    for name, found in swept.items():
        rates = found["rates"]
        medians = {ratio: statistics.median(rate) for ratio, rate in rates.items()}
        ratios.append([name] + [f"{medians[ratio]:,.0f}" for ratio in (*RATIOS, "chosen")])
        best = max(RATIOS, key=lambda ratio: medians[ratio])
        claims.append(
            Claim.at_least(f"{name}: chosen / best ratio", median_ratio(rates["chosen"], rates[best]), 0.9)
        )
    claims.append(Claim.at_most(f"memory over {watched['rows']:,} images", max(watched["spread"].values()), 0.05))
    print(table(
        [f"images/s, {RANKS} ranks on {CORES} cores", *WAYS, "DataLoader", "DataLoader bf16", "published", "bound",
         "bound, fast"], rows,
    ))  # fmt: skip
    print()
    print(table([f"images/s, {SWEPT} ranks", *(f"ratio {ratio}" for ratio in RATIOS), "chosen"], ratios))
    return {"rates": compared, "ratios": swept, "memory": watched}, claims


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
