"""`python -m bench.cnn`: CNN training over MPI against what people would use instead, in one run.

1. Images a second of train_cnn's steps at 2 and 4 ranks, against torch's DistributedDataParallel with gloo, as its
   tutorial has it and with everything switched on that it can share with ours, and against the published pattern:
   every parameter's gradient pickled and all-reduced after backward. Same network, images and steps (cnn_rank.py).
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
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cnn_rank import Case
from bench.harness import Claim, main, say, table
from bench.ranks import ROOT, launch
from common.datasets import open_dataset
from common.decode import PixelFormat

TRAIN = ROOT / "mpi_jobs" / "train_cnn.py"
RANK = ROOT / "bench" / "cnn_rank.py"
CASES = {
    "small, 64 px, 10 classes": Case("small", 64, 10, 32, steps=20),
    "small, 224 px, 64,500 classes": Case("small", 224, 64500, 16),
    "ResNet-18, 224 px, 64,500 classes": Case("resnet18", 224, 64500, 8),
}
MANY_CLASSES = 10_000
RANKS = (2, 4)
HANDS = f"folder:{Path(os.environ.get('IMAGE_DATA_ROOT') or 'data') / 'hands'}"
SIDE = 64
EPOCHS = 10
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


def hidden(rounds: Rounds) -> float:
    """The share of the exchange by messages that costs a step nothing."""
    exposed = statistics.median(
        together - alone for together, alone in zip(rounds["messages"], rounds["alone"], strict=True)
    )
    return 1 - max(0.0, exposed) / statistics.median(rounds["exchange alone"])


def from_files() -> dict[str, Any]:
    """The whole job on JPEG files, whose images are decoded once or every epoch, and what decoding costs."""
    found: dict[str, Any] = {}
    always = ["--data", HANDS, "--image-size", SIDE, "--epochs", EPOCHS, "--threads", 1, "--quiet"]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name, flags in {"cached": [], "decoded each epoch": ["--cache", 0]}.items():
            say(f"{HANDS}, {name}")
            out = Path(folder) / name.replace(" ", "-")
            launch(2, [TRAIN, *always, *flags, "--out", out])
            epochs = json.loads((out / "metrics.json").read_text())["epochs"]
            found[name] = [epoch["images_per_second"] for epoch in epochs]
    images, _ = open_dataset(HANDS, Path(), PixelFormat((SIDE, SIDE), crop=True))
    items = images.items[:: max(1, len(images) // 500)]
    images.reader.read(items)
    started = time.perf_counter()
    images.reader.read(items)
    found["decode_s"] = (time.perf_counter() - started) / len(items)
    return found


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
                for way in ("shared", "messages", "ddp tuned", "ddp", "published")
            ])  # fmt: skip
            parts.append([name, str(ranks)] + [
                f"{1000 * statistics.median(rounds[way]):,.1f}"
                for way in ("alone", "shared", "messages", "exchange alone")
            ] + [f"{hidden(rounds):.0%}"])  # fmt: skip
            case = f"{name}, {ranks} ranks"
            claims.append(
                Claim.at_least(
                    f"{case}: DDP tuned / ours", ratio(rounds["ddp tuned"], rounds["shared"]), 1.15 if many else 1
                )
            )
            claims.append(
                Claim.at_least(f"{case}: DDP / ours", ratio(rounds["ddp"], rounds["shared"]), 1.15 if many else 1)
            )
            if many:
                claims.append(
                    Claim.at_least(f"{case}: published / ours", ratio(rounds["published"], rounds["shared"]), 2)
                )
        few, more = (by_ranks[ranks] for ranks in RANKS)
        rate = RANKS[1] / RANKS[0] * statistics.median(few["shared"]) / statistics.median(more["shared"])
        claims.append(Claim.at_least(f"{name}: rate of {RANKS[1]} ranks / of {RANKS[0]}", rate, 0.8))
    print(table(["images/s", "ranks", "ours", "by messages", "DDP tuned", "DDP", "published"], rows))
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
    memory = statistics.median(files["cached"][1:])
    whole = len(files["cached"]) / sum(1 / rate for rate in files["cached"])
    each = statistics.median(files["decoded each epoch"][1:])
    busy = 2 / memory  # seconds of a core for an image, two of them at work
    bound = busy / (busy + files["decode_s"]) if (os.cpu_count() or 1) <= 2 else 1.0
    print()
    print(table(
        ["train_cnn on JPEG files, 2 ranks", "images/s", "of memory"],
        [["in memory: epochs after the first", f"{memory:,.0f}", ""],
         [f"all {EPOCHS} epochs, decoded in the first", f"{whole:,.0f}", f"{whole / memory:.0%}"],
         ["decoded in each epoch", f"{each:,.0f}", f"{each / memory:.0%}"],
         [f"bound of that: {1000 * files['decode_s']:.2f} ms to decode, on the same cores",
          f"{bound * memory:,.0f}", f"{bound:.0%}"]],
    ))  # fmt: skip
    return [
        Claim.at_least(f"from files / from memory, {EPOCHS} epochs", whole / memory, 0.9),
        Claim.at_least(
            "decoded in each epoch / what decoding allows", float(np.divide(each, bound * memory)), 0.9
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
