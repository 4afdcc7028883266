"""`mpiexec -n 5 python bench/published_pipeline.py '[...]'`: the prediction pipeline as published, re-created.

Rank 0 sends file names, one at a time; rank 1 makes a float32 tensor for each predictor and scatters them,
pickled; each predictor scores its one image; what they say is gathered, and goes to the last rank. Everyone waits
for everyone in each round. Prints images a second, once the first round is over.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from mpi4py import MPI
from PIL import Image
from torchvision import transforms

from bench.data_loader import Case, names_of, network
from common.nets.preprocessing import COLOUR_DEVIATION, COLOUR_MEAN


def main() -> None:
    """Predict all images, round by round."""
    case = Case(*json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    source, preprocessor, sink = 0, 1, world.size - 1
    names = names_of(case) if world.rank == source else []
    team = world.Split(0 if source < world.rank < sink else MPI.UNDEFINED, world.rank)
    predictors = world.size - 3
    rounds = world.bcast(len(names) // predictors, source)
    net = network(case) if preprocessor < world.rank < sink else None
    prepare = transforms.Compose([
        transforms.Resize(case.side), transforms.CenterCrop(case.side), transforms.ToTensor(),
        transforms.Normalize(COLOUR_MEAN, COLOUR_DEVIATION),
    ])  # fmt: skip
    started = 0.0
    for turn in range(rounds):
        if turn == 1:
            world.Barrier()
            started = time.perf_counter()
        if world.rank == source:
            for name in names[turn * predictors : (turn + 1) * predictors]:
                world.send(name, preprocessor)
        elif world.rank == preprocessor:
            tensors: list[Any] = [None]
            for _ in range(predictors):
                with Image.open(world.recv(source=source)) as image:
                    tensors.append(prepare(image.convert("RGB")))
            team.scatter(tensors, root=0)
            for predicted in (team.gather(None, root=0) or [])[1:]:
                world.send(predicted, sink)
        elif world.rank == sink:
            for _ in range(predictors):
                world.recv(source=preprocessor)
        else:
            tensor = team.scatter(None, root=0)
            if net is None:
                raise ValueError("a predictor has a network")
            with torch.no_grad():
                team.gather(int(net(tensor[None]).argmax(1)), root=0)
    world.Barrier()
    if world.rank == source:
        print(json.dumps((rounds - 1) * predictors / (time.perf_counter() - started)))


if __name__ == "__main__":
    main()
