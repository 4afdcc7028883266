"""The sink: puts predictions into the order of their images, and writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from common.arrays import Labels
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.predict.files import PredictionFile, PredictionRows
from common.predict.predictions import RowFormat, Summary, Unsure, empty_rows
from mpi_jobs.pipeline.layout import RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role
from mpi_jobs.pipeline.messages import Accepted, Announced, End, Scored

TALLY_ROWS = 1 << 12
"""Rows that are counted together: with many classes, counting one row costs as much as counting thousands."""


class Sink(Role):
    """Writes one row per image.

    Args:
        mailbox: the mailbox of this rank.
        source: the rank of the source, which is told of written rows.
        file: the file of predictions.
        row_format: the columns of a prediction row.
        n_classes: the number of classes.
        ordered: if True, rows are in the order of their images; otherwise in the order in which they arrive.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        source: int,
        file: PredictionFile,
        row_format: RowFormat,
        n_classes: int,
        ordered: bool,
    ) -> None:
        self._mailbox, self._source, self._file = mailbox, source, file
        self._row_format, self._n_classes, self._ordered = row_format, n_classes, ordered
        self._announced: dict[int, Announced] = {}
        self._scored: dict[int, Scored] = {}
        self._next = 0
        self._seconds = 0.0
        self._summary = Summary.empty(n_classes)
        self._uncounted: list[tuple[Labels, Labels]] = []
        self._n_uncounted = 0

    def receive(self, message: Announced | Scored | End) -> None:
        """Keep an announcement or predictions until both have arrived."""
        if isinstance(message, Announced):
            self._announced[message.chunk] = message
        elif isinstance(message, Scored):
            self._scored[message.chunk] = message
        else:
            self._file.close()
            self.ended = True

    def step(self) -> bool:
        """Write the chunks whose turn it is."""
        started = time.perf_counter()
        found = False
        for chunk in self._due():
            self._write(self._announced.pop(chunk), self._scored.pop(chunk))
            found = True
        if not self.ended:
            self._file.flush_if_due()
        if found:
            self._seconds += time.perf_counter() - started
        return found

    def _due(self) -> Iterator[int]:
        """Yield the chunks that can be written now. Predictions may arrive before their announcement."""
        if not self._ordered:
            yield from [chunk for chunk in self._scored if chunk in self._announced]
            return
        while self._next in self._scored and self._next in self._announced:
            yield self._next
            self._next += 1

    def _write(self, announced: Announced, scored: Scored) -> None:
        n = scored.n
        top, scores = empty_rows(n, self._row_format)
        top[scored.kept] = scored.top
        if scores is not None and scored.scores is not None:
            scores[scored.kept] = scored.scores
            scores = scores.astype(scored.scores.dtype)  # which says how many digits are written
        errors: list[str | None] = [None] * n
        lost = np.setdiff1d(np.arange(n), scored.kept, assume_unique=True).tolist()
        for position, reason in zip(lost, scored.errors, strict=True):
            errors[position] = reason
        self._file.write(PredictionRows(announced.ids, top, scores, errors))
        self.images += n
        self._count(announced, scored, [Skipped(announced.ids[i], errors[i] or "") for i in lost])
        self._mailbox.send(self._source, RoleName.SOURCE, Accepted(n, len(lost)))

    def _count(self, announced: Announced, scored: Scored, skipped: list[Skipped]) -> None:
        """Add a chunk to the summary, now or when enough rows have come together."""
        if len(scored.kept):
            self._uncounted.append((scored.top[:, 0], announced.labels[scored.kept]))
            self._n_uncounted += len(scored.kept)
        if skipped or scored.doubtful:
            nothing = Summary.empty(self._n_classes)
            unsure = [Unsure(d.margin, announced.ids[d.position], d.predicted, d.pixels) for d in scored.doubtful]
            self._summary += Summary(
                nothing.predicted, len(skipped), skipped[:MOST_SKIPPED], unsure, nothing.confusion
            )
        if self._n_uncounted >= TALLY_ROWS:
            self._tally()

    def _tally(self) -> None:
        predicted, truth = (np.concatenate(column) for column in zip(*self._uncounted, strict=True))
        self._summary += Summary.of(predicted, truth, self._n_classes)
        self._uncounted, self._n_uncounted = [], 0

    @property
    def summary(self) -> Summary:
        """The summary of all rows so far."""
        if self._uncounted:
            self._tally()
        return self._summary

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent writing."""
        return {"write": self._seconds}
