"""The predictor: a network that takes what is decoded, and decodes itself where nobody does it for it."""

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
from common.predict.predictions import MOST_UNSURE, Form
from mpi_jobs.pipeline.decoding import Decoder
from mpi_jobs.pipeline.layout import Kind
from mpi_jobs.pipeline.mailbox import Post, Role
from mpi_jobs.pipeline.messages import Chunk, DecodedChunk, Doubtful, End, Finished, Scored


class Best(NamedTuple):
    """What a network says of some images.

    Attributes:
        top: int64 (n, top), the best classes, best first.
        scores: float32 (n, top), their probabilities by softmax.
        margins: float32 (n,), how far the best one's is ahead of the next.
        seconds: that it took.
    """

    top: Labels
    scores: Singles
    margins: Singles
    seconds: float


def best_classes(classifier: Classifier, pixels: Pixels, top: int) -> Best:
    """Score images.

    Args:
        classifier: with its network in evaluation mode.
        pixels: uint8 (n, height, width, channels).
        top: how many classes of each.
    """
    started = time.perf_counter()
    with torch.inference_mode():
        logits = classifier.logits(pixels)
        values, classes = logits.topk(min(max(2, top), logits.shape[1]), dim=1)
        probabilities = (values - logits.logsumexp(dim=1, keepdim=True)).exp()
        scores: NDArray[np.float32] = probabilities.cpu().numpy()
        found = classes.cpu().numpy()
    margins = scores[:, 0] - scores[:, -1 if scores.shape[1] < 2 else 1]
    return Best(found[:, :top], scores[:, :top], margins, time.perf_counter() - started)


class Predictor(Role):
    """Predicts chunks in the order in which they are decoded.

    The network computes in a thread, so that the next chunk arrives meanwhile.

    Args:
        post: of this rank.
        source: the rank to tell that chunks are done.
        sink: the rank to send predictions to.
        classifier: with its network in evaluation mode.
        reader: of chunks that nobody has decoded.
        threads: of this rank.
        form: what is wanted of each image.
    """

    def __init__(
        self,
        post: Post,
        source: int,
        sink: int,
        classifier: Classifier,
        reader: PixelReader,
        threads: int,
        form: Form,
    ) -> None:
        self._post, self._source, self._sink = post, source, sink
        self._classifier, self._form = classifier, form
        self._decoder = Decoder(reader, threads, post.wake)
        self._network = ThreadPoolExecutor(1, "predict", limit_thread, (threads,))
        self._underway: deque[tuple[DecodedChunk, Future[Best]]] = deque()
        self._seconds = 0.0
        self._margins, self._bar = np.empty(0, np.float32), np.inf

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
        future.add_done_callback(lambda _: self._post.wake.set())
        self._underway.append((chunk, future))

    def _score(self, pixels: Pixels) -> Best:
        if len(pixels):
            return best_classes(self._classifier, pixels, self._form.top)
        none = np.empty((0, self._form.top), np.float32)
        return Best(none.astype(np.int64), none, none[:, 0], 0.0)

    def step(self) -> bool:
        """Go on with what is decoded, and tell of what is predicted."""
        found = False
        while (chunk := self._decoder.finished()) is not None:
            self._predict(chunk)
            found = True
        while self._underway and self._underway[0][1].done():
            chunk, future = self._underway.popleft()
            self._tell(chunk, future.result())
            found = True
        return found

    def _tell(self, chunk: DecodedChunk, best: Best) -> None:
        scores = best.scores if self._form.scores else None
        doubtful = self._doubtful(chunk, best)
        scored = Scored(chunk.number, chunk.n, chunk.kept, best.top, scores, chunk.errors, doubtful)
        self._post.send(self._sink, Kind.SINK, scored)
        self._post.send(self._source, Kind.SOURCE, Finished(chunk.number))
        self._seconds += best.seconds
        self.images += len(chunk.kept)

    def _doubtful(self, chunk: DecodedChunk, best: Best) -> list[Doubtful]:
        """Images that are among the least sure that this rank has met."""
        new = np.flatnonzero(best.margins < self._bar)
        new = new[np.argsort(best.margins[new], kind="stable")[:MOST_UNSURE]]
        self._margins = np.sort(np.concatenate([self._margins, best.margins[new]]))[:MOST_UNSURE]
        if len(self._margins) == MOST_UNSURE:
            self._bar = float(self._margins[-1])
        # copied, because a view would keep all pixels of the chunk
        return [
            Doubtful(float(best.margins[i]), int(chunk.kept[i]), int(best.top[i, 0]), chunk.pixels[i].copy())
            for i in new
        ]

    @property
    def seconds(self) -> dict[str, float]:
        """That its threads decoded, and that the network computed."""
        return {"decode": self._decoder.seconds, "predict": self._seconds}
