"""The preprocessor: decodes for the predictors."""

from __future__ import annotations

from common.data.catalogue import PixelReader
from mpi_jobs.pipeline.decoding import Decoder
from mpi_jobs.pipeline.layout import Kind
from mpi_jobs.pipeline.mailbox import Post, Role
from mpi_jobs.pipeline.messages import Chunk, Decoded, DecodedChunk, End, HandOver


class Preprocessor(Role):
    """Decodes chunks, keeps them, and sends each to the predictor that the source names.

    Args:
        post: of this rank.
        source: the rank to tell of them.
        reader: turns items into pixels.
        threads: that decode.
    """

    def __init__(self, post: Post, source: int, reader: PixelReader, threads: int) -> None:
        self._post, self._source = post, source
        self._decoder = Decoder(reader, threads, post.wake)
        self._kept: dict[int, DecodedChunk] = {}

    def receive(self, message: Chunk | HandOver | End) -> None:
        """Begin to decode, or hand over what is decoded."""
        if isinstance(message, Chunk):
            self._decoder.begin(message)
        elif isinstance(message, HandOver):
            self._post.send(message.predictor, Kind.PREDICTOR, self._kept.pop(message.chunk))
        else:
            self._decoder.close()
            self.ended = True

    def step(self) -> bool:
        """Tell the source what is there."""
        found = False
        while (chunk := self._decoder.finished()) is not None:
            self._kept[chunk.number] = chunk
            self.images += len(chunk.kept)
            self._post.send(self._source, Kind.SOURCE, Decoded(chunk.number))
            found = True
        return found

    @property
    def seconds(self) -> dict[str, float]:
        """That its threads decoded."""
        return {"decode": self._decoder.seconds}
