"""The predictor: a network that scores decoded images, and decodes for itself where no preprocessor does."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from common.arrays import Labels, Pixels, Singles
from common.data.catalogue import PixelReader
from common.nets.classifier import Classifier
from common.nets.devices import limit_thread
from common.predict.predictions import MOST_UNSURE, RowFormat
from mpi_jobs.pipeline.decoding import Decoder
from mpi_jobs.pipeline.layout import RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role
from mpi_jobs.pipeline.messages import Chunk, DecodedChunk, Doubtful, End, Finished, Scored


class BestClasses(NamedTuple):
    """The best classes of some images.

    Attributes:
        top: int64 (n, top), the best classes, best first.
        scores: float32 (n, top), their probabilities by softmax.
        margins: float32 (n,), the probability of the best class minus the probability of the next.
        seconds: how long scoring took.
    """

    top: Labels
    scores: Singles
    margins: Singles
    seconds: float


def best_classes(classifier: Classifier, pixels: Pixels, top: int) -> BestClasses:
    """Score images.

    Args:
        classifier: a classifier whose network is in evaluation mode.
        pixels: uint8 (n, height, width, channels).
        top: the number of classes per image.
    """
    started = time.perf_counter()
    with torch.inference_mode():
        logits = classifier.logits(pixels)
        values, classes = logits.topk(min(max(2, top), logits.shape[1]), dim=1)
        probabilities = (values - logits.logsumexp(dim=1, keepdim=True)).exp()
        scores: NDArray[np.float32] = probabilities.cpu().numpy()
        best = classes.cpu().numpy()
    margins = scores[:, 0] - scores[:, -1 if scores.shape[1] < 2 else 1]
    return BestClasses(best[:, :top], scores[:, :top], margins, time.perf_counter() - started)


class Predictor(Role):
    """Predicts chunks in the order in which they are decoded.

    The network computes in a thread of its own, so that the next chunk can arrive meanwhile.

    Args:
        mailbox: the mailbox of this rank.
        source: the rank of the source, which is told of finished chunks.
        sink: the rank of the sink, which gets the predictions.
        classifier: a classifier whose network is in evaluation mode.
        reader: decodes the chunks that no preprocessor has decoded.
        threads: the number of threads of this rank.
        row_format: the columns of a prediction row.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        source: int,
        sink: int,
        classifier: Classifier,
        reader: PixelReader,
        threads: int,
        row_format: RowFormat,
    ) -> None:
        self._mailbox, self._source, self._sink = mailbox, source, sink
        self._classifier, self._row_format = classifier, row_format
        self._decoder = Decoder(reader, threads, mailbox.wake)
        self._network = ThreadPoolExecutor(1, "predict", limit_thread, (threads,))
        self._underway: deque[tuple[DecodedChunk, Future[BestClasses]]] = deque()
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
            self._network.shutdown()
            self.ended = True

    def _predict(self, chunk: DecodedChunk) -> None:
        future = self._network.submit(self._score, chunk.pixels)
        future.add_done_callback(lambda _: self._mailbox.wake.set())
        self._underway.append((chunk, future))

    def _score(self, pixels: Pixels) -> BestClasses:
        if len(pixels):
            return best_classes(self._classifier, pixels, self._row_format.top)
        none = np.empty((0, self._row_format.top), np.float32)
        return BestClasses(none.astype(np.int64), none, none[:, 0], 0.0)

    def step(self) -> bool:
        """Predict what has been decoded, and send off what has been predicted."""
        found = False
        while (chunk := self._decoder.next_finished()) is not None:
            self._predict(chunk)
            found = True
        while self._underway and self._underway[0][1].done():
            chunk, future = self._underway.popleft()
            self._send(chunk, future.result())
            found = True
        return found

    def _send(self, chunk: DecodedChunk, best: BestClasses) -> None:
        scores = best.scores if self._row_format.scores else None
        doubtful = self._find_doubtful(chunk, best)
        scored = Scored(chunk.number, chunk.n, chunk.kept, best.top, scores, chunk.errors, doubtful)
        self._mailbox.send(self._sink, RoleName.SINK, scored)
        self._mailbox.send(self._source, RoleName.SOURCE, Finished(chunk.number))
        self._seconds += best.seconds
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
        """Seconds that its threads have spent decoding, and the network predicting."""
        return {"decode": self._decoder.seconds, "predict": self._seconds}
