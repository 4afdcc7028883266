"""Batches of pixels, read and decoded by threads while the network is busy with earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.arrays import Indices, Items, Labels, Pixels
from common.data.catalogue import PixelReader, ReadResult, Skipped
from mpi_jobs.engine.world import World
from mpi_jobs.training.shared_memory import shared_bytes

AHEAD = 3
"""Batches that are read or being read before the network asks for them."""


class Share(NamedTuple):
    """A rank's images of one step, not read yet.

    Attributes:
        numbers: int64 (n,), which each is among all images of the run.
        items: (n,), what the reader needs to find each.
        labels: int64 (n,).
    """

    numbers: Indices
    items: Items
    labels: Labels


class Batch(NamedTuple):
    """Images that could be read.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
        items: (n,).
        skipped: those that could not.
    """

    pixels: Pixels
    labels: Labels
    items: Items
    skipped: list[Skipped]


Change = Callable[[Pixels, int], Pixels]
"""What changes an image (height, width, channels), given its number."""


class PixelCache:
    """Decoded images that the ranks of a machine have read and keep for each other.

    An image is looked up only in a pass over the data after the one in which it was stored: begin_pass() is
    called by all ranks once all have ended the last.

    Args:
        machine: the ranks that share it, all of which make it.
        count: images of the run.
        shape: (height, width, channels) of each.
        budget: bytes that it may take; the images of the highest numbers are left out.
    """

    def __init__(self, machine: World, count: int, shape: tuple[int, int, int], budget: int) -> None:
        image_bytes = int(np.prod(shape))
        self._machine = machine
        self.slots = min(count, budget // (image_bytes + 1))
        memory = shared_bytes(machine, self.slots * (image_bytes + 1)) if self.slots else None
        if memory is None:
            self.slots, memory = 0, np.empty(0, np.uint8)
        self._stored = memory[: self.slots]
        self._pixels = memory[self.slots :].reshape(self.slots, *shape)
        self._known = np.zeros(count, np.bool_)

    def begin_pass(self) -> None:
        """Look at what is there, before any rank of this machine adds to it."""
        self._known[: self.slots] = self._stored
        self._machine.meet()

    def known(self, numbers: Indices) -> NDArray[np.bool_]:
        """Which images are there, bool (n,)."""
        return self._known[numbers]

    def load(self, numbers: Indices) -> Pixels:
        """Known images."""
        return self._pixels[numbers]

    def store(self, numbers: Indices, pixels: Pixels) -> None:
        """Keep images, as far as there is room."""
        kept = numbers < self.slots
        self._pixels[numbers[kept]] = pixels[kept]
        self._stored[numbers[kept]] = 1


class Loader:
    """Reads shares ahead of who works on them.

    Args:
        reader: turns items into pixels.
        threads: that decode.
        cache: of decoded images; None to read each again whenever it is wanted.
    """

    def __init__(self, reader: PixelReader, threads: int, cache: PixelCache | None = None) -> None:
        self._reader = reader
        self._threads = threads
        self._cache = cache if reader.decodes else None
        self._pool = ThreadPoolExecutor(threads, "decode")

    def name(self, item: Any) -> str:
        """A stable name of one item, for people."""
        return self._reader.name(item)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def batches(self, shares: Iterable[Share], change: Change | None = None) -> Iterator[Batch]:
        """Read shares in their order.

        Raises:
            InputError: the source cannot be read any more.
        """
        if self._cache is not None:
            self._cache.begin_pass()
        waiting = iter(shares)
        underway: deque[list[Future[Batch]]] = deque()
        try:
            while True:
                while len(underway) < AHEAD and (share := next(waiting, None)) is not None:
                    underway.append(self._begin(share, change))
                if not underway:
                    return
                yield _joined([part.result() for part in underway.popleft()], self._reader.shape)
        finally:
            for part in (part for parts in underway for part in parts):
                part.cancel()

    def _begin(self, share: Share, change: Change | None) -> list[Future[Batch]]:
        """Deal a share out to the threads."""
        n = len(share.labels)
        parts = min(self._threads, n) if self._reader.decodes or change else min(1, n)
        return [
            self._pool.submit(
                self._read, Share(*(each[n * i // parts : n * (i + 1) // parts] for each in share)), change
            )
            for i in range(parts)
        ]

    def _read(self, share: Share, change: Change | None) -> Batch:
        """Read some images; in their own order, whether they come from the cache or not."""
        cache = self._cache
        pixels, kept, skipped = self._read_cached(share, cache) if cache else self._reader.read(share.items)
        if change is not None:
            changed = np.empty_like(pixels)
            for i, number in enumerate(share.numbers[kept]):
                changed[i] = change(pixels[i], int(number))
            pixels = changed
        return Batch(pixels, share.labels[kept], share.items[kept], skipped)

    def _read_cached(self, share: Share, cache: PixelCache) -> ReadResult:
        """Read what the cache does not have."""
        known = cache.known(share.numbers)
        if known.all():
            return ReadResult(cache.load(share.numbers), np.arange(len(known)), [])
        read = self._reader.read(share.items[~known])
        found = np.flatnonzero(~known)[read.kept]
        cache.store(share.numbers[found], read.pixels)
        pixels = np.empty((len(known), *self._reader.shape), np.uint8)
        pixels[known], pixels[found] = cache.load(share.numbers[known]), read.pixels
        known[found] = True
        return ReadResult(pixels[known], np.flatnonzero(known), read.skipped)


def _joined(parts: list[Batch], shape: tuple[int, int, int]) -> Batch:
    """One batch of several."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Batch(np.empty((0, *shape), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), [])
    pixels, labels, items = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Batch(pixels, labels, items, [image for part in parts for image in part.skipped])
