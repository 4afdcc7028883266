"""The source: cuts images into chunks, and gives work to whoever is free.

Nothing is pushed into queues that could grow. A worker holds at most a chunk that it works on and one that waits,
and is given more when it has told that one is done. All chunks whose pixels may be somewhere take no more memory
than is allowed, and no more rows are under way than the sink may have to put into order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from common.predict.inputs import Arrived, Inputs
from mpi_jobs.pipeline.layout import Kind, Layout
from mpi_jobs.pipeline.mailbox import Post, Role
from mpi_jobs.pipeline.messages import Accepted, Announced, Chunk, Decoded, End, Finished, HandOver

AHEAD = 2
"""Chunks that a worker holds: one that it works on and one that waits."""

MOST_ROWS = 1 << 16
"""Rows that are given out and not written, unless one chunk has more."""

SHOW_S = 0.1
"""How often a person is told how it goes."""


@dataclass(frozen=True)
class Flow:
    """How much is under way.

    Attributes:
        batch: images of a chunk.
        max_delay_s: after which a chunk goes though it is not full.
        chunks: that may be decoded or being decoded at once, on all ranks together.
    """

    batch: int
    max_delay_s: float
    chunks: int

    @classmethod
    def within(cls, memory_bytes: int, image_bytes: int, batch: int, max_delay_s: float) -> Flow:
        """As much as this memory holds, but an image at least: a smaller batch if need be."""
        images = max(1, memory_bytes // image_bytes)
        batch = min(batch, images)
        return cls(batch, max_delay_s, images // batch)


class State(NamedTuple):
    """How it goes.

    Attributes:
        written: rows.
        errors: images among them that could not be used.
        decoding: chunks at preprocessors that are not decoded yet.
        decoded: chunks that wait there.
        predicting: chunks at predictors.
        unwritten: rows that are given out and not written.
    """

    written: int
    errors: int
    decoding: int
    decoded: int
    predicting: int
    unwritten: int


class Source(Role):
    """Gives out chunks.

    Args:
        post: of this rank.
        layout: the roles of all ranks.
        inputs: the images.
        flow: how much may be under way.
        helping: whether all predictors decode what nobody has decoded for them, or only those without a
            preprocessor in their team.
        show: is told how it goes, now and then.
    """

    def __init__(
        self,
        post: Post,
        layout: Layout,
        inputs: Inputs,
        flow: Flow,
        helping: bool,
        show: Callable[[State], object],
    ) -> None:
        self._post, self._layout, self._inputs, self._flow = post, layout, inputs, flow
        self._show = show
        self._helpers = tuple(
            rank for team in layout.teams if helping or team.preprocessor is None for rank in team.predictors
        )
        self._team = {rank: layout.team_of(rank) for rank in (*layout.preprocessors, *layout.predictors)}
        self._held: dict[int, set[int]] = {rank: set() for rank in self._team}  # by worker, the chunks it works on
        self._decoded: dict[int, int] = {}  # by chunk, the preprocessor that keeps it
        self._worker: dict[int, int] = {}  # by chunk, who works on it
        self._next = 0
        self._given = self._written = self._errors = 0
        self._since: float | None = None
        self._shown = 0.0
        self._told = False
        self._first_s: float | None = None
        self._last_s = 0.0

    def receive(self, message: Decoded | Finished | Accepted | End) -> None:
        """Note what has been done."""
        if isinstance(message, Decoded):
            preprocessor = self._worker.pop(message.chunk)
            self._held[preprocessor].discard(message.chunk)
            self._decoded[message.chunk] = preprocessor
        elif isinstance(message, Finished):
            self._held[self._worker.pop(message.chunk)].discard(message.chunk)
        elif isinstance(message, Accepted):
            self._written += message.rows
            self._errors += message.errors
            self._last_s = time.perf_counter()
        else:
            self.ended = True

    def step(self) -> bool:
        """Hand over what is decoded and give out what has arrived, as far as there is somebody for it."""
        found = self._hand_over()
        while (worker := self._free_worker()) is not None and (images := self._cut()) is not None:
            self._give(worker, images)
            found = True
        now = time.perf_counter()
        if now - self._shown >= SHOW_S:
            self._show(self.state)
            self._shown = now
        idle = not self._worker and not self._decoded and self._written == self._given
        if idle and self._inputs.ended and not self._told:
            self._end()
            self._told = True
        return found

    def _hand_over(self) -> bool:
        """Let decoded chunks be sent, the oldest first, to those predictors that have least to do."""
        found = False
        for chunk, preprocessor in list(self._decoded.items()):
            own = self._team[preprocessor]
            predictor = self._least_busy(self._layout.predictors, own)
            if predictor is None:
                break
            del self._decoded[chunk]
            self._hold(predictor, chunk)
            self._post.send(preprocessor, Kind.PREPROCESSOR, HandOver(chunk, predictor))
            found = True
        return found

    def _free_worker(self) -> int | None:
        """Who is to have the next chunk: a predictor that nobody decodes for, else a preprocessor."""
        layout = self._layout
        under_way = len(self._worker) + len(self._decoded)
        rows = self._given - self._written
        if under_way >= self._flow.chunks or (rows and rows + self._flow.batch > MOST_ROWS):
            return None
        if not self._decoded:
            predictor = self._least_busy(self._helpers, None)
            if predictor is not None:
                return predictor
        waiting = len(self._decoded) + sum(len(self._held[rank]) for rank in layout.preprocessors)
        if waiting >= AHEAD * len(layout.predictors):
            return None
        return self._least_busy(layout.preprocessors, None)

    def _least_busy(self, ranks: tuple[int, ...], team: int | None) -> int | None:
        """The rank that holds fewest chunks, of equals one of this team; None if all hold enough."""
        free = [rank for rank in ranks if len(self._held[rank]) < AHEAD]
        return min(free, key=lambda rank: (len(self._held[rank]), self._team[rank] != team, rank), default=None)

    def _cut(self) -> Arrived | None:
        """The next chunk, if it is full or has waited for long enough; a smaller one towards the images' end."""
        inputs, size = self._inputs, self._flow.batch
        if inputs.total is not None:
            # so that no worker is left with much when all others are done
            left = inputs.total - inputs.n_passed - self._given
            size = max(1, min(size, -(-left // (AHEAD * self._layout.workers))))
        waiting = len(inputs.peek(size))
        if not waiting:
            self._since = None
            return None
        self._since = self._since or time.perf_counter()
        if waiting < size and not inputs.complete and time.perf_counter() - self._since < self._flow.max_delay_s:
            return None
        self._since = None
        return inputs.take(size)

    def _give(self, worker: int, images: Arrived) -> None:
        number, self._next = self._next, self._next + 1
        self._first_s = self._first_s or time.perf_counter()
        self._given += len(images)
        self.images = self._given
        self._hold(worker, number)
        kind = Kind.PREPROCESSOR if worker in self._layout.preprocessors else Kind.PREDICTOR
        self._post.send(worker, kind, Chunk(number, images.items))
        self._post.send(self._layout.sink, Kind.SINK, Announced(number, images.ids, images.labels))

    def _hold(self, worker: int, chunk: int) -> None:
        self._held[worker].add(chunk)
        self._worker[chunk] = worker

    def _end(self) -> None:
        """Tell all: nothing is under way any more."""
        self._show(self.state)
        for rank in range(self._layout.ranks):
            for kind in self._layout.kinds(rank):
                self._post.send(rank, kind, End())

    @property
    def state(self) -> State:
        """How it goes."""
        decoding = sum(len(self._held[rank]) for rank in self._layout.preprocessors)
        predicting = sum(len(self._held[rank]) for rank in self._layout.predictors)
        return State(
            self._written, self._errors, decoding, len(self._decoded), predicting, self._given - self._written
        )

    @property
    def flow_s(self) -> float:
        """Seconds from the first image given out to the last row written."""
        return self._last_s - self._first_s if self._first_s is not None else 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """None: what it does takes none to speak of."""
        return {}
