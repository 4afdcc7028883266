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
"""The number of batches that are read before the network asks for them."""

TOGETHER_BYTES = 32 << 20
"""Pixels of a table that are read at once, because a row group holds images of many batches."""


class Share(NamedTuple):
    """A rank's images of one step, not read yet.

    Attributes:
        numbers: numbers of the images among all images of the run, int64 (n,).
        items: what the reader needs to find each image, (n,).
        labels: int64 (n,).
    """

    numbers: Indices
    items: Items
    labels: Labels


class Batch(NamedTuple):
    """Images of one step that could be read.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        labels: int64 (n,).
        items: what the reader found each image by, (n,).
        skipped: images that could not be read.
    """

    pixels: Pixels
    labels: Labels
    items: Items
    skipped: list[Skipped]


Change = Callable[[Pixels, int], Pixels]
"""Changes an image (height, width, channels), given its number."""


class PixelCache:
    """Pixels of images that the ranks of a machine keep for each other.

    An image is looked up only in a pass over the data after the one in which it was stored: all ranks call
    begin_pass() once all of them have ended the pass before.

    Args:
        machine: the ranks that share the cache, all of which make it.
        count: the number of images of the run.
        shape: (height, width, channels) of each image.
        budget: the most bytes that it may take; images with the highest numbers are left out.

    Attributes:
        machine: these ranks.
        slots: the number of images for which there is room.
    """

    def __init__(self, machine: World, count: int, shape: tuple[int, int, int], budget: int) -> None:
        image_bytes = int(np.prod(shape))
        self.machine = machine
        self.slots = min(count, budget // (image_bytes + 1))
        memory = shared_bytes(machine, self.slots * (image_bytes + 1)) if self.slots else None
        if memory is None:
            self.slots, memory = 0, np.empty(0, np.uint8)
        self._stored = memory[: self.slots]
        self._pixels = memory[self.slots :].reshape(self.slots, *shape)
        self._available = np.zeros(count, np.bool_)

    def begin_pass(self) -> None:
        """Look up which images are stored, before any rank of this machine adds to them."""
        self._available[: self.slots] = self._stored
        self.machine.meet()

    def has(self, numbers: Indices) -> NDArray[np.bool_]:
        """Return which images can be loaded in this pass, bool (n,)."""
        return self._available[numbers]

    def load(self, numbers: Indices) -> Pixels:
        """Return images that the cache has, uint8 (n, height, width, channels)."""
        return self._pixels[numbers]

    def store(self, numbers: Indices, pixels: Pixels) -> None:
        """Keep images, as far as there is room."""
        kept = numbers < self.slots
        self._pixels[numbers[kept]] = pixels[kept]
        self._stored[numbers[kept]] = 1


class Loader:
    """Reads shares ahead of the network.

    Args:
        reader: turns items into pixels.
        threads: the number of threads that decode.
        cache: images that were read before; None to read each image again in every epoch.
        together: bytes of pixels that are read at once, though they belong to several shares; 0 to read each share
            by itself, as readers that skip images must.

    Attributes:
        cache: as above.
    """

    def __init__(
        self, reader: PixelReader, threads: int, cache: PixelCache | None = None, together: int = 0
    ) -> None:
        self._reader = reader
        self._threads = threads
        self.cache = cache
        self._together = together // int(np.prod(reader.shape))
        self._pool = ThreadPoolExecutor(threads, "decode")

    def name(self, item: Any) -> str:
        """Return the stable name of an item, for people."""
        return self._reader.name(item)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def batches(self, shares: Iterable[Share], change: Change | None = None) -> Iterator[Batch]:
        """Read shares in their order.

        Args:
            shares: this rank's images of each step.
            change: applied to every image.

        Raises:
            InputError: the source cannot be read any more.
        """
        if self.cache is not None:
            self.cache.begin_pass()
        waiting = self._windows(shares)
        underway: deque[tuple[list[int], list[Future[Batch]]]] = deque()
        try:
            while True:
                while len(underway) < AHEAD and (window := next(waiting, None)) is not None:
                    counts = [len(share.labels) for share in window]
                    underway.append((counts, self._begin(_merged(window), change)))
                if not underway:
                    return
                counts, parts = underway.popleft()
                yield from _cut(_concatenated([part.result() for part in parts], self._reader.shape), counts)
        finally:
            for part in (part for _, parts in underway for part in parts):
                part.cancel()

    def fill(self, pieces: Iterable[tuple[Indices, Items]]) -> None:
        """Read images into the cache before the first pass.

        Args:
            pieces: numbers and items of images that one thread reads at once.

        Raises:
            InputError: the source cannot be read.
        """

        def read(piece: tuple[Indices, Items]) -> None:
            numbers, items = piece
            result = self._reader.read(items)
            if self.cache is not None:
                self.cache.store(numbers[result.kept], result.pixels)

        for _ in self._pool.map(read, pieces):
            pass  # to raise what a thread has raised

    def _windows(self, shares: Iterable[Share]) -> Iterator[list[Share]]:
        """Yield shares in lists, each of which is read at once."""
        window: list[Share] = []
        n = 0
        for share in shares:
            window.append(share)
            n += len(share.labels)
            if n >= self._together:
                yield window
                window, n = [], 0
        if window:
            yield window

    def _begin(self, share: Share, change: Change | None) -> list[Future[Batch]]:
        """Deal a share out to the threads."""
        n = len(share.labels)
        parts = min(self._threads, n) if self._reader.decodes or change else min(1, n)
        spans = [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]
        shares = [Share(*(column[span] for column in share)) for span in spans]
        return [self._pool.submit(self._read, part, change) for part in shares]

    def _read(self, share: Share, change: Change | None) -> Batch:
        """Read some images, in their order, whether they come from the cache or not."""
        cache = self.cache
        pixels, kept, skipped = self._read_cached(share, cache) if cache else self._reader.read(share.items)
        if change is not None:
            changed = np.empty_like(pixels)
            for i, number in enumerate(share.numbers[kept]):
                changed[i] = change(pixels[i], int(number))
            pixels = changed
        return Batch(pixels, share.labels[kept], share.items[kept], skipped)

    def _read_cached(self, share: Share, cache: PixelCache) -> ReadResult:
        """Load images that the cache has, and read and store the others."""
        available = cache.has(share.numbers)
        if available.all():
            return ReadResult(cache.load(share.numbers), np.arange(len(available)), [])
        cached = np.flatnonzero(available)
        missing = np.flatnonzero(~available)
        read = self._reader.read(share.items[missing])
        new = missing[read.kept]
        cache.store(share.numbers[new], read.pixels)
        pixels = np.empty((len(available), *self._reader.shape), np.uint8)
        pixels[cached], pixels[new] = cache.load(share.numbers[cached]), read.pixels
        available[new] = True
        return ReadResult(pixels[available], np.flatnonzero(available), read.skipped)


def _merged(shares: list[Share]) -> Share:
    """Return one share of several."""
    return shares[0] if len(shares) == 1 else Share(*map(np.concatenate, zip(*shares, strict=True)))


def _cut(batch: Batch, counts: list[int]) -> Iterator[Batch]:
    """Yield the batches of shares that were merged, of which no image was skipped."""
    if len(counts) == 1:
        yield batch
        return
    end = 0
    for n in counts:
        start, end = end, end + n
        pixels, labels, items, _ = batch
        yield Batch(pixels[start:end], labels[start:end], items[start:end], [])


def _concatenated(parts: list[Batch], shape: tuple[int, int, int]) -> Batch:
    """Return one batch of several."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Batch(np.empty((0, *shape), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), [])
    pixels, labels, items = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Batch(pixels, labels, items, [image for part in parts for image in part.skipped])
