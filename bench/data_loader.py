"""`python bench/data_loader.py CASE [SETTING…]`: predictions by PyTorch's DataLoader and batches in one process.

The images per second are printed as JSON, for each setting: a number of workers, batch size and precision. CASE is
a `PredictionCase` as a JSON list. Without a SETTING, all are measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common.data.imagenet import COLOUR_DEVIATION, COLOUR_MEAN
from common.nets.checkpoints import BEST, Checkpoint
from common.nets.networks import build


class PredictionCase(NamedTuple):
    """Images to predict, and the network that predicts them.

    Attributes:
        model: run folder of the network.
        folder: folder of the images.
        images: the number of images to predict, at most.
        side: height and width of the network's input.
    """

    model: str
    folder: str
    images: int
    side: int


def names_of(case: PredictionCase) -> list[str]:
    """Return the paths of the images, sorted."""
    return sorted(str(path) for path in Path(case.folder).rglob("*.*"))[: case.images]


def preparation(side: int) -> Any:
    """Return torchvision's transforms from an RGB image to a normalised float32 tensor (3, side, side)."""
    return transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(COLOUR_MEAN, COLOUR_DEVIATION),
        ]
    )


class Files(Dataset[Any]):
    """Images as float32 tensors, made by torchvision's transforms."""

    def __init__(self, case: PredictionCase) -> None:
        self.names = names_of(case)
        self.prepare = preparation(case.side)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Any:
        with Image.open(self.names[number]) as image:
            return self.prepare(image.convert("RGB"))


def network(case: PredictionCase) -> nn.Module:
    """Return the trained network, ready to predict."""
    checkpoint = Checkpoint.load(Path(case.model) / BEST)
    trained = build(checkpoint.spec)
    trained.load_state_dict(checkpoint.state_dict())
    return trained.eval()


def rate(case: PredictionCase, net: nn.Module, workers: int, batch: int, bf16: bool) -> float:
    """Return images per second, from the first read to the last prediction."""
    layout = torch.channels_last  # faster in all cases
    net.to(memory_format=layout)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        net(torch.zeros(batch, 3, case.side, case.side).to(memory_format=layout))
        files = Files(case)
        started = time.perf_counter()
        for images in DataLoader(files, batch, num_workers=workers):
            net(images.to(memory_format=layout)).argmax(1)
        return len(files) / (time.perf_counter() - started)


SETTINGS = {
    f"{workers} workers, batch {batch}" + ", bf16" * bf16: (workers, batch, bf16)
    for workers in (1, 2)
    for batch in (8, 32)
    for bf16 in (False, True)
}


def main() -> None:
    """Measure the settings."""
    case = PredictionCase(*json.loads(sys.argv[1]))
    net = network(case)
    rates = {name: rate(case, net, *SETTINGS[name]) for name in sys.argv[2:] or SETTINGS}
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
