"""The sum of gradients over all ranks, bucket by bucket, while backward still runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

import torch

from mpi_jobs.engine.waiting import Begun
from mpi_jobs.engine.world import World
from mpi_jobs.training.staging import Staging
from mpi_jobs.training.vector import ParameterVectors, VectorLayout

CHUNK = 1 << 15
"""Numbers that are added up at once: few enough to stay in a core's cache while every neighbour's are added."""


class Links(NamedTuple):
    """The connection of a rank to other machines.

    Attributes:
        peers: the ranks, one per machine, that sum the same slices.
        staging: the way from the device to MPI.
    """

    peers: World
    staging: Staging


class MachineSum:
    """The sum of one slice over all machines, which begins at once.

    Args:
        links: the connection to the other machines.
        span: where the slice is.

    Attributes:
        request: the message; calling done() lets MPI make progress.
    """

    def __init__(self, links: Links, span: slice) -> None:
        self._links, self._span = links, span
        self._summed = links.staging.outgoing(span, links.peers.size)
        self.request = links.peers.begin_sum(self._summed if self._summed.is_cuda else self._summed.numpy())

    def finish(self) -> None:
        """Wait for the sum, and bring it back into the gradient vector."""
        self._links.peers.complete(self.request, communicating=True)
        self._links.staging.bring_back(self._span, self._summed)


class BucketState(Enum):
    """How far the sum of a bucket has come."""

    ARRIVING = auto()
    """Backward is still computing gradients of the bucket on this rank."""
    ANNOUNCED = auto()
    """The bucket is complete on this rank, which has told its neighbours and waits for theirs."""
    TRAVELLING = auto()
    """This rank's slice is summed on its machine; its sum over the machines is under way."""
    DONE = auto()
    """This rank's slice is summed over all ranks."""


class GradientBucket:
    """One bucket of the gradient vector during a step.

    In each step announce(), sum_on_machine() and complete() take it from state to state; reset() prepares the next
    step.

    Args:
        span: where the bucket is.
        own: the slice of it that this rank sums; it may be empty.
        n_parameters: the number of its parameters.
        vectors: the vectors of this machine.
        links: the connection to other machines; None where there are none, or this rank has no slices.

    Attributes:
        state: how far its sum has come.
        missing: the number of parameters whose gradients are still to come.
        machine_sum: the sum over the machines; None before it begins, and where there are no links.
    """

    def __init__(
        self, span: slice, own: slice, n_parameters: int, vectors: ParameterVectors, links: Links | None
    ) -> None:
        self._span, self._own, self._n_parameters = span, own, n_parameters
        self._vectors, self._links = vectors, links
        self.reset()

    def reset(self) -> None:
        """Wait for the gradients of a new step."""
        self.state = BucketState.ARRIVING
        self.missing = self._n_parameters
        self.machine_sum: MachineSum | None = None
        self._meeting: Begun | None = None
        self._sent_out: torch.cuda.Event | None = None

    def _go(self, before: BucketState, after: BucketState) -> None:
        if self.state is not before:
            raise RuntimeError(f"a bucket that is {self.state.name} cannot become {after.name}")
        self.state = after

    def announce(self) -> None:
        """ARRIVING → ANNOUNCED: tell the neighbours that the bucket is complete on this rank."""
        self._go(BucketState.ARRIVING, BucketState.ANNOUNCED)
        if self._links is not None:
            self._sent_out = self._links.staging.send_out(self._span)
        if self._vectors.shared:
            self._meeting = self._vectors.machine.begin_meeting()

    def is_readable(self) -> bool:
        """Return True once all neighbours have announced the bucket and MPI can read it."""
        if self._meeting is not None and not self._meeting.done():
            return False
        return self._sent_out is None or bool(self._sent_out.query())  # type: ignore[no-untyped-call]

    def wait_until_readable(self, moving: Iterable[Begun]) -> None:
        """Wait for all neighbours.

        Args:
            moving: requests that MPI moves on in the meantime.
        """
        if self._meeting is not None:
            self._vectors.machine.complete(self._meeting, moving=moving)
        if self._sent_out is not None:
            self._sent_out.synchronize()

    def sum_on_machine(self) -> None:
        """ANNOUNCED → TRAVELLING or DONE: add up this rank's slice, and begin its sum over the machines."""
        started = time.perf_counter()
        if self._vectors.shared:
            self._add_neighbours()
        if self._links is None:
            self._go(BucketState.ANNOUNCED, BucketState.DONE)
        else:
            self._go(BucketState.ANNOUNCED, BucketState.TRAVELLING)
            self.machine_sum = MachineSum(self._links, self._own)
        self._vectors.machine.spent.communicating += time.perf_counter() - started

    def _add_neighbours(self) -> None:
        """Add the neighbours' gradients to this rank's, on this rank's slice."""
        own, gradient = self._own, self._vectors.gradient
        for start in range(own.start, own.stop, CHUNK):
            chunk = slice(start, min(start + CHUNK, own.stop))
            for neighbour in self._vectors.gradients:
                if neighbour is not gradient:
                    gradient[chunk] += neighbour[chunk]

    def complete(self) -> None:
        """TRAVELLING → DONE: wait for the sum over the machines."""
        if self.machine_sum is not None:
            self._go(BucketState.TRAVELLING, BucketState.DONE)
            self.machine_sum.finish()


class Exchange:
    """The sums of all buckets of a step but those that are left out.

    Buckets go from state to state in the order of the vector, so that all ranks begin the same sums in the same
    order. A bucket that is complete early waits for those before it.

    Args:
        layout: the positions of parameters and buckets.
        own: the slice of each bucket that this rank sums.
        vectors: the vectors of this machine.
        links: the connection to other machines; None where there are none, or this rank has no slices.

    Attributes:
        buckets: in the order of the vector.
        arrived: for each parameter, whether its gradient of this step is in the vector, or not needed.
    """

    def __init__(
        self, layout: VectorLayout, own: Sequence[slice], vectors: ParameterVectors, links: Links | None
    ) -> None:
        counts = [layout.bucket_of.count(i) for i in range(len(layout.buckets))]
        self.buckets = [
            GradientBucket(span, part, n, vectors, links)
            for span, part, n in zip(layout.buckets, own, counts, strict=True)
        ]
        self._bucket_of = [self.buckets[i] for i in layout.bucket_of]
        self.leave_out([False] * len(self.buckets))

    def leave_out(self, left_out: Sequence[bool]) -> None:
        """Say for each bucket, between two steps, whether it is left out from now on instead of summed."""
        self._summed = [bucket for bucket, out in zip(self.buckets, left_out, strict=True) if not out]
        self._not_needed = [bucket not in self._summed for bucket in self._bucket_of]
        self._reset()

    def _reset(self) -> None:
        """Wait for the gradients of a new step."""
        for bucket in self._summed:
            bucket.reset()
        self.arrived = [*self._not_needed]
        self._arriving = deque(self._summed)
        self._announced: deque[GradientBucket] = deque()
        self._requests: list[Begun] = []

    def arrive(self, parameters: Sequence[int]) -> None:
        """Take note of parameters, by number, whose gradients are in the vector; begin the sums that can begin."""
        for i in parameters:
            self.arrived[i] = True
            self._bucket_of[i].missing -= 1
        self._advance()

    def finish(self) -> None:
        """Wait until all these buckets are summed over all ranks."""
        for bucket in self._arriving:
            bucket.missing = 0
        self._advance()
        while self._announced:
            self._announced[0].wait_until_readable(self._requests)
            self._sum_next()
        for bucket in self._summed:
            bucket.complete()
        self._reset()

    def _advance(self) -> None:
        """Take each bucket as far as it goes without waiting."""
        while self._arriving and not self._arriving[0].missing:
            bucket = self._arriving.popleft()
            bucket.announce()
            self._announced.append(bucket)
        while self._announced and self._announced[0].is_readable():
            self._sum_next()
        for request in self._requests:
            request.done()  # asking lets MPI make progress

    def _sum_next(self) -> None:
        """Sum the first bucket that is announced."""
        bucket = self._announced.popleft()
        bucket.sum_on_machine()
        if bucket.machine_sum is not None:
            self._requests.append(bucket.machine_sum.request)
