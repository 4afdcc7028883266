"""`python bench/data_loader.py '[...]'`: what people would use: PyTorch's DataLoader, and batches in one process.

Prints images a second for each number of workers and each batch size.
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

from common.nets.checkpoints import BEST, Checkpoint
from common.nets.networks import build
from common.nets.preprocessing import COLOUR_DEVIATION, COLOUR_MEAN


class Case(NamedTuple):
    """What is predicted.

    Attributes:
        model: a run folder.
        folder: of images.
        images: so many of them.
        side: of what the network takes.
    """

    model: str
    folder: str
    images: int
    side: int


def names_of(case: Case) -> list[str]:
    """The images' paths."""
    return sorted(str(path) for path in Path(case.folder).rglob("*.*"))[: case.images]


class Files(Dataset[Any]):
    """Images as float32 tensors, by torchvision's transforms."""

    def __init__(self, case: Case) -> None:
        self.names = names_of(case)
        self.prepare = transforms.Compose([
            transforms.Resize(case.side), transforms.CenterCrop(case.side), transforms.ToTensor(),
            transforms.Normalize(COLOUR_MEAN, COLOUR_DEVIATION),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Any:
        with Image.open(self.names[number]) as image:
            return self.prepare(image.convert("RGB"))


def network(case: Case) -> nn.Module:
    """The trained network, ready to predict."""
    checkpoint = Checkpoint.load(Path(case.model) / BEST)
    found = build(checkpoint.spec)
    found.load_state_dict(checkpoint.state_dict())
    return found.eval()


def rate(case: Case, net: nn.Module, workers: int, batch: int, bf16: bool) -> float:
    """Images a second, from the first read to the last predicted; channels last, which is faster in all cases."""
    layout = torch.channels_last
    net.to(memory_format=layout)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        net(torch.zeros(batch, 3, case.side, case.side).to(memory_format=layout))
        files = Files(case)
        started = time.perf_counter()
        for images in DataLoader(files, batch, num_workers=workers):
            net(images.to(memory_format=layout)).argmax(1)
        return len(files) / (time.perf_counter() - started)


def main() -> None:
    """Every combination."""
    case = Case(*json.loads(sys.argv[1]))
    net = network(case)
    print(json.dumps({
        f"{workers} workers, batch {batch}" + ", bf16" * bf16: rate(case, net, workers, batch, bf16)
        for workers in (1, 2)
        for batch in (8, 32)
        for bf16 in (False, True)
    }))  # fmt: skip


if __name__ == "__main__":
    main()
