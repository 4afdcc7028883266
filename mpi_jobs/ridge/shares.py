"""Images dealt out to ranks: each reads its own, or rank 0 reads them and sends each its own in bounded pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from mpi4py.util.pkl5 import Request

from common.data.images import Block, Images, Part
from common.data.splits import ALWAYS_TRAINING
from mpi_jobs.engine.world import World

WAYS = ("read", "scatter")

UNDERWAY = 8
"""Blocks (images.BLOCK_BYTES each) that rank 0 has sent and that have not arrived yet, at most."""

ENOUGH_BYTES = 1 << 20
"""Pixels of a block of images that validate, at least, but for the last."""

STREAMS = 64
"""Parts that rank 0 reads side by side, each of which may hold a file open."""


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
    """Read parts side by side, a block of each in turn; send the others' and yield rank 0's own."""
    waiting = deque((rank, part) for rank, part in enumerate(parts) if part is not None)
    streams: dict[int, Iterator[Block]] = {}
    underway: deque[Request] = deque()
    try:
        while waiting or streams:
            while waiting and len(streams) < STREAMS:
                rank, part = waiting.popleft()
                streams[rank] = part.blocks(names)
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


class HeldOut:
    """Images that validate, gathered from blocks of which they are a part, in blocks that are worth a product.

    Args:
        d: features of each.
    """

    def __init__(self, d: int) -> None:
        self._d = d
        self._waiting: list[Block] = []
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        """Keep those images of a block that validate."""
        kept = np.flatnonzero(block.folds != ALWAYS_TRAINING)
        if len(kept):
            pixels = block.pixels.reshape(-1, 1, self._d, 1)
            self._waiting.append(Block(pixels[kept], block.labels[kept], block.folds[kept], None, []))
        if sum(waiting.pixels.nbytes for waiting in self._waiting) >= ENOUGH_BYTES:
            self._flush()

    def result(self) -> list[Block]:
        """What was kept, each image a row of d pixels: uint8 (n, 1, d, 1); the last thing to ask of this."""
        self._flush()
        return self._blocks

    def _flush(self) -> None:
        """Make one block of those that wait."""
        if self._waiting:
            pixels, labels, folds = (np.concatenate([block[i] for block in self._waiting]) for i in range(3))
            self._blocks.append(Block(pixels, labels, folds, None, []))
            self._waiting.clear()


def everyones_blocks(world: World, own: Sequence[Block], d: int) -> Iterator[Block]:
    """The images of all ranks, block by block, on every rank.

    Args:
        world: the ranks, all of which go through this to its end.
        own: this rank's images, each a row of d pixels.
        d: features of each.
    """
    for rank, counts in enumerate(world.all_gather([len(block.labels) for block in own])):
        for i, n in enumerate(counts):
            if rank == world.rank:
                pixels, labels, folds, *_ = own[i]
            else:
                pixels = np.empty((n, 1, d, 1), np.uint8)
                labels, folds = np.empty(n, np.int64), np.empty(n, np.int16)
            world.broadcast(pixels, rank)
            world.broadcast(labels, rank)
            world.broadcast(folds, rank)
            yield Block(pixels, labels, folds, None, [])
