"""`python -m bench.cnn`: CNN training over MPI against what people would use instead, in one run.

1. Images a second of train_cnn's steps at 2 and 4 ranks, against torch's DistributedDataParallel with gloo, as its
   tutorial has it, tuned, and with a sharded optimiser, and against the published pattern: every parameter's
   gradient pickled and all-reduced after backward. Same network, images and steps (cnn_rank.py).
2. How much of the exchange by messages is hidden behind backward: it takes so long alone, and makes a step longer
   than one without exchange by what is not hidden.
3. Twice the ranks on the same cores.
4. The whole job, from JPEG files of the hand photographs, against its own rate with the images in memory.
5. Where there is a GPU: ResNet-18 in bfloat16 on one rank, against plain torch.

Ratios are medians over rounds, in each of which every way takes its steps.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.cnn_rank import Case
from bench.harness import Claim, main, say, seconds, table
from bench.ranks import ROOT, launch
from common.data.decode import PixelFormat
from common.data.sources import open_dataset

TRAIN = ROOT / "mpi_jobs" / "train_cnn.py"
RANK = ROOT / "bench" / "cnn_rank.py"
CASES = {
    "small, 64 px, 10 classes": Case("small", 64, 10, 32, steps=20),
    "small, 224 px, 64,500 classes": Case("small", 224, 64500, 16),
    "ResNet-18, 224 px, 64,500 classes": Case("resnet18", 224, 64500, 8),
}
MANY_CLASSES = 10_000
LITTLE = 0.1
"""Of a step, what an exchange takes that is not worth hiding."""
RANKS = (2, 4)
DDP = ("ddp tuned", "ddp sharded", "ddp")
WAYS = ("shared", "messages", *DDP, "published")
HANDS = f"folder:{Path(os.environ.get('IMAGE_DATA_ROOT') or 'data') / 'hands'}"
SIDE = 64
EPOCHS = 10
ROUNDS = 3
GPU = Case("resnet18", 224, 1000, 128, rounds=10, steps=20, device="cuda")

Rounds = dict[str, list[float]]


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of one over the other, round by round from the end."""
    n = min(len(slow), len(fast))
    return statistics.median(a / b for a, b in zip(slow[-n:], fast[-n:], strict=True))


def steps() -> dict[str, dict[int, Rounds]]:
    """Seconds a step of every case at every number of ranks, way by way."""
    found: dict[str, dict[int, Rounds]] = {}
    for name, case in CASES.items():
        found[name] = {}
        for ranks in RANKS:
            say(f"{name}, {ranks} ranks")
            found[name][ranks] = json.loads(launch(ranks, [RANK, json.dumps(case._asdict())]))
    return found


def hidden(rounds: Rounds) -> str:
    """The share of the exchange by messages that costs a step nothing; a dash where there is little to hide."""
    exchange, alone = (statistics.median(rounds[way]) for way in ("exchange alone", "alone"))
    if exchange < LITTLE * alone:
        return "—"
    exposed = statistics.median(
        together - without for together, without in zip(rounds["messages"], rounds["alone"], strict=True)
    )
    return f"{min(1.0, max(0.0, 1 - exposed / exchange)):.0%}"


def from_files() -> dict[str, Any]:
    """The whole job on JPEG files, whose images are decoded once or every epoch, and what decoding costs."""
    rates: dict[str, list[list[float]]] = {"cached": [], "decoded each epoch": []}
    always = ["--data", HANDS, "--image-size", SIDE, "--epochs", EPOCHS, "--threads", 1, "--quiet"]
    for turn in range(ROUNDS):
        say(f"{HANDS}, round {turn + 1} of {ROUNDS}")
        for cache, found in zip((1024, 0), rates.values(), strict=True):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                launch(2, [TRAIN, *always, "--cache", cache, "--out", Path(folder) / "run"])
                epochs = json.loads((Path(folder) / "run" / "metrics.json").read_text())["epochs"]
            found.append([epoch["images_per_second"] for epoch in epochs])
    images, _ = open_dataset(HANDS, Path(), PixelFormat((SIDE, SIDE), crop=True))
    items = images.items[:: max(1, len(images) // 500)]
    decode_s = seconds(lambda: images.reader.read(items), 3) / len(items)
    return {"rates": rates, "decode_s": decode_s}


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Everything, and what it shows."""
    found = steps()
    claims = []
    rows, parts = [], []
    for name, by_ranks in found.items():
        many = CASES[name].n_classes >= MANY_CLASSES
        for ranks, rounds in by_ranks.items():
            images = CASES[name].batch * ranks
            rows.append([name, str(ranks)] + [
                f"{images / statistics.median(rounds[way]):,.0f}"
                for way in WAYS
            ])  # fmt: skip
            parts.append([name, str(ranks)] + [
                f"{1000 * statistics.median(rounds[way]):,.1f}"
                for way in ("alone", "shared", "messages", "exchange alone")
            ] + [hidden(rounds)])  # fmt: skip
            bounds = dict.fromkeys(DDP, 1.15 if many else 1.0) | ({"published": 2.0} if many else {})
            claims += [
                Claim.at_least(f"{name}, {ranks} ranks: {way} / ours", ratio(rounds[way], rounds["shared"]), bound)
                for way, bound in bounds.items()
            ]
        few, more = (by_ranks[ranks] for ranks in RANKS)
        rate = RANKS[1] / RANKS[0] * statistics.median(few["shared"]) / statistics.median(more["shared"])
        claims.append(Claim.at_least(f"{name}: rate of {RANKS[1]} ranks / of {RANKS[0]}", rate, 0.8))
    print(
        table(["images/s", "ranks", "ours", "by messages", "DDP tuned", "DDP sharded", "DDP", "published"], rows)
    )
    print()
    print(table(
        ["ms a step", "ranks", "no exchange", "ours", "by messages", "that exchange alone", "of it hidden"], parts
    ))  # fmt: skip

    files = from_files()
    claims += _files(files)
    measured: dict[str, Any] = {"steps": found, "files": files}
    if torch.cuda.is_available():
        say("GPU")
        measured["gpu"] = gpu = json.loads(launch(1, [RANK, json.dumps(GPU._asdict())]))
        print(f"\nGPU: {GPU.batch / statistics.median(gpu['ours']):,.0f} images/s")
        claims.append(
            Claim.at_least("ResNet-18 on a GPU: plain torch / ours", ratio(gpu["plain"], gpu["ours"]), 0.97)
        )
    return measured, claims


def _files(files: dict[str, Any]) -> list[Claim]:
    """The whole job from files against its own rate in memory."""
    cached, decoded = files["rates"].values()
    memory = [statistics.median(rates[1:]) for rates in cached]
    whole = [len(rates) / sum(1 / rate for rate in rates) for rates in cached]
    each = [statistics.median(rates[1:]) for rates in decoded]
    rate = statistics.median(memory)
    busy = 2 / rate  # seconds of a core for an image, two of them at work
    bound = busy / (busy + files["decode_s"]) if (os.cpu_count() or 1) <= 2 else 1.0
    print()
    print(table(
        ["train_cnn on JPEG files, 2 ranks", "images/s", "of memory"],
        [["in memory: epochs after the first", f"{rate:,.0f}", ""],
         [f"all {EPOCHS} epochs, decoded in the first", f"{statistics.median(whole):,.0f}",
          f"{1 / ratio(memory, whole):.0%}"],
         ["decoded in each epoch", f"{statistics.median(each):,.0f}", f"{1 / ratio(memory, each):.0%}"],
         [f"bound of that: {1000 * files['decode_s']:.2f} ms to decode, on the same cores",
          f"{bound * rate:,.0f}", f"{bound:.0%}"]],
    ))  # fmt: skip
    return [Claim.at_least(f"from files / from memory, {EPOCHS} epochs", 1 / ratio(memory, whole), 0.9)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
