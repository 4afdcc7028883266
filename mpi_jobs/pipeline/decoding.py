"""Decoding of chunks by the threads of a rank."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from common.arrays import Items
from common.data.catalogue import PixelReader, ReadResult
from mpi_jobs.pipeline.messages import Chunk, DecodedChunk


class Decoder:
    """Decodes chunks, and returns them in the order in which they were begun.

    Args:
        reader: turns items into pixels.
        threads: the number of threads that decode.
        wake: an event that is set whenever a part of a chunk has been decoded.

    Attributes:
        seconds: seconds that a thread has spent on decoding, averaged over the threads.
    """

    def __init__(self, reader: PixelReader, threads: int, wake: threading.Event) -> None:
        self._reader, self._threads, self._wake = reader, threads, wake
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._underway: deque[tuple[Chunk, list[Future[tuple[ReadResult, float]]]]] = deque()
        self.seconds = 0.0

    def begin(self, chunk: Chunk) -> None:
        """Divide a chunk evenly among the threads."""
        n = len(chunk.items)
        parts = min(self._threads, n) if self._reader.decodes else 1
        futures = [
            self._pool.submit(self._read, chunk.items[n * i // parts : n * (i + 1) // parts]) for i in range(parts)
        ]
        for future in futures:
            future.add_done_callback(lambda _: self._wake.set())
        self._underway.append((chunk, futures))

    def _read(self, items: Items) -> tuple[ReadResult, float]:
        started = time.perf_counter()
        read = self._reader.read(items)
        return read, time.perf_counter() - started

    def next_finished(self) -> DecodedChunk | None:
        """Return the next chunk if it has been decoded, else None.

        Raises:
            InputError: the source cannot be read any more.
        """
        if not self._underway or not all(future.done() for future in self._underway[0][1]):
            return None
        chunk, futures = self._underway.popleft()
        results = [future.result() for future in futures]
        reads = [read for read, _ in results]
        self.seconds += sum(seconds for _, seconds in results) / self._threads
        starts = np.cumsum([0, *(len(read.kept) + len(read.skipped) for read in reads)])
        kept = np.concatenate([read.kept + start for read, start in zip(reads, starts, strict=False)])
        pixels = reads[0].pixels if len(reads) == 1 else np.concatenate([read.pixels for read in reads])
        errors = [image.reason for read in reads for image in read.skipped]
        return DecodedChunk(chunk.number, len(chunk.items), kept, pixels, errors)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
