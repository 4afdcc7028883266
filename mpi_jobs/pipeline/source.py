"""The source: cuts images into chunks, and gives work to whichever rank is free.

Nothing is pushed into queues that could grow. A worker, which is a preprocessor or a predictor, holds at most one
chunk that it works on and one that waits, and is given more when it reports that one is done. The chunks whose
pixels may be in memory somewhere take no more memory than `--memory` allows, and the number of rows that the sink
may have to put into order is limited too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from common.data.sources.source import ImageList
from common.predict.inputs import Inputs
from mpi_jobs.pipeline.layout import Layout, RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role
from mpi_jobs.pipeline.messages import Accepted, Announced, Chunk, Decoded, End, Finished, HandOver

CHUNKS_PER_WORKER = 2
"""Chunks that a worker holds: one that it works on and one that waits."""

MOST_ROWS = 1 << 16
"""Rows that may be given out and not yet written, unless one chunk has more."""

SHOW_S = 0.1
"""Seconds between updates of the progress display."""


@dataclass(frozen=True)
class FlowLimits:
    """Limits on the work that is under way.

    Attributes:
        batch: the number of images per chunk.
        max_delay_s: seconds after which a chunk is given out although it is not full.
        chunks: the number of chunks that may be decoded or being decoded at once, on all ranks together.
    """

    batch: int
    max_delay_s: float
    chunks: int

    @classmethod
    def within(cls, memory_bytes: int, image_bytes: int, batch: int, max_delay_s: float) -> FlowLimits:
        """Return the limits that this much memory allows.

        The batch becomes smaller if the memory does not hold it, down to one image, which is always allowed.
        """
        images = max(1, memory_bytes // image_bytes)
        batch = min(batch, images)
        return cls(batch, max_delay_s, images // batch)


class PipelineState(NamedTuple):
    """How far the pipeline has got, and how full its queues are.

    Attributes:
        written: the number of rows written.
        errors: the number of skipped images among them.
        decoding: the number of chunks at preprocessors that are not decoded yet.
        decoded: the number of decoded chunks that wait there.
        predicting: the number of chunks at predictors.
        unwritten: the number of rows that are given out and not yet written.
    """

    written: int
    errors: int
    decoding: int
    decoded: int
    predicting: int
    unwritten: int


class SourceRole(Role):
    """Gives out chunks.

    Args:
        mailbox: the mailbox of this rank.
        layout: the roles of all ranks.
        inputs: the images.
        limits: how much may be under way.
        helping: if True, every predictor decodes chunks for itself when none is decoded yet; otherwise only
            predictors without a preprocessor in their team do.
        show: called with the state now and then.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        layout: Layout,
        inputs: Inputs,
        limits: FlowLimits,
        helping: bool,
        show: Callable[[PipelineState], object],
    ) -> None:
        self._mailbox, self._layout, self._inputs, self._limits = mailbox, layout, inputs, limits
        self._show = show
        self._helpers = tuple(
            rank for team in layout.teams if helping or team.preprocessor is None for rank in team.predictors
        )
        self._team = {rank: layout.team_of(rank) for rank in (*layout.preprocessors, *layout.predictors)}
        self._held: dict[int, set[int]] = {rank: set() for rank in self._team}  # worker: the chunks it holds
        self._decoded: dict[int, int] = {}  # decoded chunk: the preprocessor that keeps it
        self._worker: dict[int, int] = {}  # chunk: the worker that it was given to
        self._next = 0
        self._given = self._written = self._errors = 0
        self._waiting_since: float | None = None
        self._shown_at = 0.0
        self._end_sent = False
        self._first_given_at: float | None = None
        self._last_written_at = 0.0

    def receive(self, message: Decoded | Finished | Accepted | End) -> None:
        """Note the progress that another role reports."""
        if isinstance(message, Decoded):
            preprocessor = self._worker.pop(message.chunk)
            self._held[preprocessor].discard(message.chunk)
            self._decoded[message.chunk] = preprocessor
        elif isinstance(message, Finished):
            self._held[self._worker.pop(message.chunk)].discard(message.chunk)
        elif isinstance(message, Accepted):
            self._written += message.rows
            self._errors += message.errors
            self._last_written_at = time.perf_counter()
        else:
            self.ended = True

    def step(self) -> bool:
        """Hand over decoded chunks and give out images that have arrived, as far as workers are free."""
        found = self._hand_over()
        while (worker := self._free_worker()) is not None and (images := self._cut()) is not None:
            self._give(worker, images)
            found = True
        now = time.perf_counter()
        if now - self._shown_at >= SHOW_S:
            self._show(self.state)
            self._shown_at = now
        idle = not self._worker and not self._decoded and self._written == self._given
        if idle and self._inputs.ended and not self._end_sent:
            self._end()
            self._end_sent = True
        return found

    def _hand_over(self) -> bool:
        """Have decoded chunks sent, the oldest first, to the predictors that have least to do."""
        found = False
        for chunk, preprocessor in list(self._decoded.items()):
            predictor = self._least_busy(self._layout.predictors, self._team[preprocessor])
            if predictor is None:
                break
            del self._decoded[chunk]
            self._hold(predictor, chunk)
            self._mailbox.send(preprocessor, RoleName.PREPROCESSOR, HandOver(chunk, predictor))
            found = True
        return found

    def _free_worker(self) -> int | None:
        """Return the rank for the next chunk: a predictor for which nothing is decoded, else a preprocessor."""
        layout = self._layout
        under_way = len(self._worker) + len(self._decoded)
        rows = self._given - self._written
        if under_way >= self._limits.chunks or (rows and rows + self._limits.batch > MOST_ROWS):
            return None
        if not self._decoded:
            predictor = self._least_busy(self._helpers, None)
            if predictor is not None:
                return predictor
        waiting = len(self._decoded) + sum(len(self._held[rank]) for rank in layout.preprocessors)
        if waiting >= CHUNKS_PER_WORKER * len(layout.predictors):
            return None
        return self._least_busy(layout.preprocessors, None)

    def _least_busy(self, ranks: tuple[int, ...], team: int | None) -> int | None:
        """Return the rank that holds the fewest chunks, preferably one of `team`; None if none is free."""
        free = [rank for rank in ranks if len(self._held[rank]) < CHUNKS_PER_WORKER]
        return min(free, key=lambda rank: (len(self._held[rank]), self._team[rank] != team, rank), default=None)

    def _cut(self) -> ImageList | None:
        """Return the images of the next chunk, or None if it is not full and has not waited for long enough.

        Chunks become smaller towards the end, so that no worker is left with much when all others are done.
        """
        inputs, size = self._inputs, self._limits.batch
        if inputs.total is not None:
            left = inputs.total - inputs.n_left_out - self._given
            size = max(1, min(size, -(-left // (CHUNKS_PER_WORKER * self._layout.workers))))
        waiting = len(inputs.peek(size))
        if not waiting:
            self._waiting_since = None
            return None
        self._waiting_since = self._waiting_since or time.perf_counter()
        delay = time.perf_counter() - self._waiting_since
        if waiting < size and not inputs.complete and delay < self._limits.max_delay_s:
            return None
        self._waiting_since = None
        return inputs.take(size)

    def _give(self, worker: int, images: ImageList) -> None:
        number, self._next = self._next, self._next + 1
        self._first_given_at = self._first_given_at or time.perf_counter()
        self._given += len(images)
        self.images = self._given
        self._hold(worker, number)
        role = RoleName.PREPROCESSOR if worker in self._layout.preprocessors else RoleName.PREDICTOR
        self._mailbox.send(worker, role, Chunk(number, images.items))
        self._mailbox.send(self._layout.sink, RoleName.SINK, Announced(number, images.ids, images.labels))

    def _hold(self, worker: int, chunk: int) -> None:
        """Note that a worker holds a chunk."""
        self._held[worker].add(chunk)
        self._worker[chunk] = worker

    def _end(self) -> None:
        """Tell all roles that everything has been written."""
        self._show(self.state)
        for rank in range(self._layout.ranks):
            for role in self._layout.roles(rank):
                self._mailbox.send(rank, role, End())

    @property
    def state(self) -> PipelineState:
        """The state of the pipeline."""
        decoding = sum(len(self._held[rank]) for rank in self._layout.preprocessors)
        predicting = sum(len(self._held[rank]) for rank in self._layout.predictors)
        return PipelineState(
            self._written, self._errors, decoding, len(self._decoded), predicting, self._given - self._written
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first image given out to the last row written."""
        return self._last_written_at - self._first_given_at if self._first_given_at is not None else 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """An empty dict: the source's own work takes no time worth measuring."""
        return {}
