"""Images dealt out to ranks: each reads its own, or rank 0 reads them and sends each its own in bounded pieces."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from mpi4py.util.pkl5 import Request

from common.images import BLOCK_BYTES, Block, Images, Part
from mpi_jobs.world import World

WAYS = ("read", "scatter")

UNDERWAY = 16
"""Blocks (images.BLOCK_BYTES each) that rank 0 has sent and that have not arrived yet, at most."""


def own_blocks(world: World, images: Images | None, way: str, names: bool = False) -> Iterator[Block]:
    """The blocks of this rank's share of the images.

    Args:
        world: the ranks, all of which call this.
        images: on rank 0; the others need not know them.
        way: "read": each rank reads its own, which it must be able to see; or "scatter": rank 0 reads all of
            them and sends them.
        names: whether blocks know their images' names.

    Raises:
        InputError: images cannot be read, on the rank that reads them; whoever calls tells the others.
    """

    def parts() -> Sequence[Part | None]:
        if images is None:
            raise ValueError("rank 0 has no images to deal out")
        dealt = images.parts(world.size)
        return [*dealt, *[None] * (world.size - len(dealt))]  # fewer parts than ranks: some get nothing

    if way == "read":
        part = world.scatter(parts)
        return iter(()) if part is None else part.blocks(names)
    if world.is_root:
        return _sent(world, parts(), names)
    return _received(world)


def _sent(world: World, parts: Sequence[Part | None], names: bool) -> Iterator[Block]:
    """Read all parts side by side, a block of each in turn; send the others' and yield rank 0's own."""
    streams = {rank: part.blocks(names) for rank, part in enumerate(parts) if part is not None}
    underway: deque[Request] = deque()
    try:
        while streams:
            for rank, stream in list(streams.items()):
                block = next(stream, None)
                if block is None:
                    del streams[rank]
                elif rank == 0:
                    yield block
                else:
                    if len(underway) == UNDERWAY:
                        world.finish(underway.popleft())
                    underway.append(world.send(block, rank))
    finally:
        # whatever happened here, nobody waits for more
        underway += [world.send(None, rank) for rank in range(1, world.size)]
        for request in underway:
            world.finish(request)


def _received(world: World) -> Iterator[Block]:
    """What rank 0 sends, until it says that this was all."""
    while (block := world.receive(0)) is not None:
        yield block


def everyones_blocks(world: World, own: Block) -> Iterator[Block]:
    """The images of all ranks, in bounded blocks, on every rank.

    Args:
        world: the ranks, all of which go through this to its end.
        own: this rank's images.
    """
    for rank, shape in enumerate(world.all_gather(own.pixels.shape)):
        rows = max(1, BLOCK_BYTES // max(1, math.prod(shape[1:])))
        for start in range(0, shape[0], rows):
            n = min(rows, shape[0] - start)
            pixels = np.empty((n, *shape[1:]), np.uint8)
            labels, folds = np.empty(n, np.int64), np.empty(n, np.int16)
            if rank == world.rank:
                block = slice(start, start + n)
                pixels[:], labels[:], folds[:] = own.pixels[block], own.labels[block], own.folds[block]
            world.broadcast(pixels, rank)
            world.broadcast(labels, rank)
            world.broadcast(folds, rank)
            yield Block(pixels, labels, folds, None, [])
