"""The predictor: a model that scores decoded images, and decodes for itself where no preprocessor does."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from common.data.catalogue import PixelReader
from common.errors import UnusableImagesError
from common.predict.predictions import MOST_UNSURE, BestClasses, RowFormat, empty_rows
from mpi_jobs.pipeline.decoding import Decoder
from mpi_jobs.pipeline.layout import RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role
from mpi_jobs.pipeline.messages import Chunk, DecodedChunk, Doubtful, End, Finished, Scored
from mpi_jobs.pipeline.models import Scorer


class Predictor(Role):
    """Predicts chunks in the order in which they are decoded.

    The model computes in a thread of its own, so that the next chunk can arrive meanwhile.

    Args:
        mailbox: the mailbox of this rank.
        source: the rank of the source, which is told of finished chunks.
        sink: the rank of the sink, which gets the predictions.
        scorer: the model in use.
        reader: decodes the chunks that no preprocessor has decoded.
        threads: the number of threads of this rank.
        row_format: the columns of a prediction row.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        source: int,
        sink: int,
        scorer: Scorer,
        reader: PixelReader,
        threads: int,
        row_format: RowFormat,
    ) -> None:
        self._mailbox, self._source, self._sink = mailbox, source, sink
        self._scorer, self._row_format = scorer, row_format
        self._decoder = Decoder(reader, threads, mailbox.wake)
        self._thread = ThreadPoolExecutor(1, "predict", scorer.begin_thread)
        self._underway: deque[Future[tuple[DecodedChunk, BestClasses, float]]] = deque()
        self._seconds = 0.0
        self._smallest_margins, self._doubtful_below = np.empty(0, np.float32), np.inf

    def receive(self, message: Chunk | DecodedChunk | End) -> None:
        """Begin with a chunk."""
        if isinstance(message, Chunk):
            self._decoder.begin(message)
        elif isinstance(message, DecodedChunk):
            self._predict(message)
        else:
            self._decoder.close()
            self._thread.shutdown()
            self.ended = True

    def _predict(self, chunk: DecodedChunk) -> None:
        future = self._thread.submit(self._score, chunk)
        future.add_done_callback(lambda _: self._mailbox.wake.set())
        self._underway.append(future)

    def _score(self, chunk: DecodedChunk) -> tuple[DecodedChunk, BestClasses, float]:
        """Return a chunk with the images that the model can score, their best classes, and the seconds it took."""
        started = time.perf_counter()
        while len(chunk.kept):
            try:
                best = self._scorer.best_classes(chunk.pixels, self._row_format)
                return chunk, best, time.perf_counter() - started
            except UnusableImagesError as error:
                chunk = chunk.without(error.rows, error.reason)
        top, scores = empty_rows(0, self._row_format)
        return chunk, BestClasses(top, scores, np.empty(0)), time.perf_counter() - started

    def step(self) -> bool:
        """Predict what has been decoded, and send off what has been predicted."""
        found = False
        while (chunk := self._decoder.next_finished()) is not None:
            self._predict(chunk)
            found = True
        while self._underway and self._underway[0].done():
            self._send(*self._underway.popleft().result())
            found = True
        return found

    def _send(self, chunk: DecodedChunk, best: BestClasses, seconds: float) -> None:
        doubtful = self._find_doubtful(chunk, best)
        scored = Scored(chunk.number, chunk.n, chunk.kept, best.top, best.scores, chunk.errors, doubtful)
        self._mailbox.send(self._sink, RoleName.SINK, scored)
        self._mailbox.send(self._source, RoleName.SOURCE, Finished(chunk.number))
        self._seconds += seconds
        self.images += len(chunk.kept)

    def _find_doubtful(self, chunk: DecodedChunk, best: BestClasses) -> list[Doubtful]:
        """Return the images whose margins are among the smallest that this rank has seen so far."""
        new = np.flatnonzero(best.margins < self._doubtful_below)
        new = new[np.argsort(best.margins[new], kind="stable")[:MOST_UNSURE]]
        margins = np.concatenate([self._smallest_margins, best.margins[new]])
        self._smallest_margins = np.sort(margins)[:MOST_UNSURE]
        if len(self._smallest_margins) == MOST_UNSURE:
            self._doubtful_below = float(self._smallest_margins[-1])
        # copied, because a view would keep all pixels of the chunk in memory
        return [
            Doubtful(float(best.margins[i]), int(chunk.kept[i]), int(best.top[i, 0]), chunk.pixels[i].copy())
            for i in new
        ]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that its threads have spent decoding, and the model predicting."""
        return {"decode": self._decoder.seconds, "predict": self._seconds}
