"""The preprocessor: decodes images for the predictors."""

from __future__ import annotations

from common.data.catalogue import PixelReader
from mpi_jobs.pipeline.decoding import Decoder
from mpi_jobs.pipeline.layout import RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role
from mpi_jobs.pipeline.messages import Chunk, Decoded, DecodedChunk, End, HandOver


class Preprocessor(Role):
    """Decodes chunks, keeps them, and sends each to the predictor that the source names.

    Args:
        mailbox: the mailbox of this rank.
        source: the rank of the source.
        reader: turns items into pixels.
        threads: the number of threads that decode.
    """

    def __init__(self, mailbox: Mailbox, source: int, reader: PixelReader, threads: int) -> None:
        self._mailbox, self._source = mailbox, source
        self._decoder = Decoder(reader, threads, mailbox.wake)
        self._kept: dict[int, DecodedChunk] = {}

    def receive(self, message: Chunk | HandOver | End) -> None:
        """Begin to decode a chunk, or hand over a decoded one."""
        if isinstance(message, Chunk):
            self._decoder.begin(message)
        elif isinstance(message, HandOver):
            self._mailbox.send(message.predictor, RoleName.PREDICTOR, self._kept.pop(message.chunk))
        else:
            self._decoder.close()
            self.ended = True

    def step(self) -> bool:
        """Tell the source which chunks have been decoded."""
        found = False
        while (chunk := self._decoder.next_finished()) is not None:
            self._kept[chunk.number] = chunk
            self.images += len(chunk.kept)
            self._mailbox.send(self._source, RoleName.SOURCE, Decoded(chunk.number))
            found = True
        return found

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that its threads have spent decoding."""
        return {"decode": self._decoder.seconds}
