"""Images dealt out to ranks: each rank reads its share, or rank 0 reads all and sends each rank its share."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from mpi4py.util.pkl5 import Request

from common.data.catalogue import Skipped
from common.data.images import Block, Images, Part
from common.data.splits import ALWAYS_TRAINING
from common.errors import InputError
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.world import AtRoot, World

DELIVERIES = ("read", "scatter")
"""How images reach a rank: it reads them itself, or rank 0 reads them and sends them."""

UNDERWAY = 8
"""The largest number of blocks (images.BLOCK_BYTES each) that rank 0 has sent and that have not yet arrived."""

ENOUGH_BYTES = 1 << 20
"""The smallest size of the pixels of a block of held-out images, except for the last."""

STREAMS = 64
"""The largest number of parts that rank 0 reads at the same time; each may hold a file open."""


def own_blocks(world: World, images: AtRoot[Images], delivery: str, names: bool = False) -> Iterator[Block]:
    """Return the blocks of this rank's share of the images.

    Args:
        world: the ranks, all of which call this.
        images: the images of one split.
        delivery: "read" if each rank reads its share, which it must be able to see; "scatter" if rank 0 reads all
            images and sends them.
        names: True if blocks need the names of their images.

    Raises:
        InputError: images cannot be read. Only the rank that reads them raises it; `dealt_blocks` tells
            the others.
    """

    def parts() -> Sequence[Part | None]:
        dealt = images.value.parts(world.size)
        return [*dealt, *[None] * (world.size - len(dealt))]  # fewer parts than ranks: some get nothing

    if delivery == "read":
        part = world.scatter(parts)
        return iter(()) if part is None else part.blocks(names)
    if world.is_root:
        return _sent(world, parts(), names)
    return _received(world)


def dealt_blocks(
    images: AtRoot[Images],
    delivery: str,
    clock: RankClock,
    phase: str,
    check_skipped: Callable[[Sequence[Skipped]], None],
    names: bool = False,
    finish: Callable[[], None] = lambda: None,
) -> Iterator[Block]:
    """Yield the blocks of this rank's share of the images, and agree on their faults at the end.

    Args:
        images: the images of one split.
        delivery: "read" or "scatter"; see own_blocks.
        clock: measures the reading.
        phase: the name of the phase that reading counts for.
        check_skipped: called on rank 0 with the images that any rank skipped; it raises InputError if they are too
            many.
        names: True if blocks need the names of their images.
        finish: called on every rank after its last block, before the ranks agree.

    Raises:
        AgreedError: images cannot be read on some rank, or too many were skipped.
    """
    world = clock.world
    skipped: list[Skipped] = []
    n, problem = 0, None
    with clock.phase(phase):
        blocks = own_blocks(world, images, delivery, names)
    while True:
        try:
            with clock.phase(phase):
                block = next(blocks, None)
        except (InputError, OSError) as error:
            problem, block = error, None
        if block is None:
            break
        skipped += block.skipped
        n += len(block.labels)
        yield block
    finish()
    if skipped and not n and problem is None:  # as on a machine where their folder is not mounted
        problem = InputError(
            f"none of its {len(skipped)} images can be used; {skipped[0].name}: {skipped[0].reason}"
        )

    def agree() -> None:
        if problem is not None:
            raise InputError(
                f"rank {world.rank} on {platform.node()}: {problem}; where only rank 0 sees the images, "
                "--images scatter lets it send them"
            )

    with clock.phase(phase):
        world.everywhere(agree)
        everyone = world.gather(skipped)
        images.run(lambda _images: check_skipped([image for one in everyone for image in one]))


def _sent(world: World, parts: Sequence[Part | None], names: bool) -> Iterator[Block]:
    """Read parts side by side, one block of each in turn; send the blocks of other ranks, and yield rank 0's."""
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
        # Whatever happened here, no rank waits for more.
        underway += [world.send(None, rank) for rank in range(1, world.size)]
        for request in underway:
            world.finish(request)


def _received(world: World) -> Iterator[Block]:
    """Yield the blocks that rank 0 sends, until it sends None."""
    while (block := world.receive(0)) is not None:
        yield block


class HeldOut:
    """Gathers the held-out images of blocks into blocks that are large enough for a fast product."""

    def __init__(self) -> None:
        self._waiting: list[Block] = []
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        """Keep the held-out images of a block."""
        kept = np.flatnonzero(block.folds != ALWAYS_TRAINING)
        if len(kept):
            self._waiting.append(
                Block(block.pixels[kept], block.labels[kept], block.folds[kept], None, [], block.features)
            )
        if sum(waiting.pixels.nbytes for waiting in self._waiting) >= ENOUGH_BYTES:
            self._flush()

    def result(self) -> list[Block]:
        """Return the held-out images. Call this once, last."""
        self._flush()
        return self._blocks

    def _flush(self) -> None:
        """Make one block of the waiting ones."""
        if self._waiting:
            pixels, labels, folds = (np.concatenate([block[i] for block in self._waiting]) for i in range(3))
            found = [block.features for block in self._waiting if block.features is not None]
            features = np.concatenate(found) if found else None
            self._blocks.append(Block(pixels, labels, folds, None, [], features))
            self._waiting.clear()


def everyones_blocks(
    world: World, own: Sequence[Block], shape: tuple[int, int, int], n_features: int | None = None
) -> Iterator[Block]:
    """Yield the blocks of held-out images of all ranks, one after the other, on every rank.

    Args:
        world: the ranks, all of which go through this to its end.
        own: the blocks of this rank.
        shape: (height, width, channels) of the images.
        n_features: the number of features per image, if the blocks have them.
    """
    for rank, counts in enumerate(world.all_gather([len(block.labels) for block in own])):
        for i, n in enumerate(counts):
            if rank == world.rank:
                pixels, labels, folds, features = own[i].pixels, own[i].labels, own[i].folds, own[i].features
            else:
                pixels = np.empty((n, *shape), np.uint8)
                labels, folds = np.empty(n, np.int64), np.empty(n, np.int16)
                features = None if n_features is None else np.empty((n, n_features), np.uint8)
            world.broadcast(pixels, rank)
            world.broadcast(labels, rank)
            world.broadcast(folds, rank)
            if features is not None:
                world.broadcast(features, rank)
            yield Block(pixels, labels, folds, None, [], features)
