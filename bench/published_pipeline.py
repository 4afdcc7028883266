"""`mpiexec -n 5 python bench/published_pipeline.py CASE`: the prediction pipeline as published, for comparison.

Rank 0 sends file names, one per message. Rank 1 makes a float32 tensor per predictor and scatters them, pickled.
Each predictor scores one image, and rank 1 gathers the classes and sends them to the last rank. All ranks wait for
each other in each round. The images per second after the first round are printed. CASE is a
`data_loader.PredictionCase` as a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from mpi4py import MPI
from PIL import Image

from bench.data_loader import PredictionCase, names_of, network, preparation


def main() -> None:
    """Predict all images, round by round."""
    case = PredictionCase(*json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    source, preprocessor, sink = 0, 1, world.size - 1
    names = names_of(case) if world.rank == source else []
    team = world.Split(0 if source < world.rank < sink else MPI.UNDEFINED, world.rank)
    predictors = world.size - 3
    rounds = world.bcast(len(names) // predictors, source)
    net = network(case) if preprocessor < world.rank < sink else None
    prepare = preparation(case.side)
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
