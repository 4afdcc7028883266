"""The ranks of a run, and how data passes between them.

`World` is a thin layer over a communicator that settles four things once:

- Arrays travel as buffers, in pieces. Other objects travel by pickle, with the arrays in them as buffers.
- Ranks wait politely. MPI's own waits take a whole core and do not react to Ctrl-C. Here every collective begins
  with a barrier that is polled, and its pieces are polled too; a rank that has to wait for long sleeps.
- Waiting is told apart from communicating: time before all ranks have arrived is waiting, time after it is
  communicating.
- An error on one rank never leaves the others hanging.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from mpi4py import MPI
from mpi4py.util import pkl5

from common.errors import JobError
from mpi_jobs.engine.waiting import LONGEST_NAP_S, MOVING_NAP_S, SPIN_S, Begun, Spent, poll

if TYPE_CHECKING:  # jobs set up the allocator of memory before numpy starts its threads
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

PIECE_BYTES = 64 << 20
"""Bytes of an array per message: far below MPI's limit of 2³¹ items, and few enough for MPI's own buffers."""


class AgreedError(JobError):
    """An error of one rank that has been raised on every rank.

    Args:
        message: one line: what is wrong, where, and how to mend it.
        exit_code: the exit code of the job.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self._exit_code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The exit code of the original error."""
        return self._exit_code


class World:
    """The ranks of a communicator.

    Args:
        communicator: the communicator.

    Attributes:
        rank: the number of this process.
        size: the number of ranks.
        cores: the number of cores that the ranks of this machine may use together.
        neighbours: the number of ranks on this machine, this one included.
        spent: the time that this rank has spent waiting and communicating.
    """

    def __init__(self, communicator: MPI.Intracomm) -> None:
        self._communicator = pkl5.Intracomm(communicator)
        self.rank, self.size = communicator.rank, communicator.size
        self.spent = Spent()
        node = pkl5.Intracomm(communicator.Split_type(MPI.COMM_TYPE_SHARED))
        self.neighbours = node.size
        # a rank that its launcher has bound sees only its own cores, any other rank sees all
        self.cores = len(set().union(*node.allgather(os.sched_getaffinity(0))))
        node.Free()
        self._spin_s = SPIN_S if self.neighbours <= self.cores else 0.0

    @property
    def is_root(self) -> bool:
        """True on rank 0, which reads flags, prints, and writes the run folder."""
        return self.rank == 0

    # groups of ranks

    @contextmanager
    def team(self, ranks: Sequence[int]) -> Iterator[World | None]:
        """Yield a world of this rank's team, or None to a rank that is in no team.

        All ranks call this, each with the ranks of its own team. Teams do not overlap.

        Args:
            ranks: the ranks of the team in ascending order; empty for no team.
        """
        if len(ranks) == self.size:
            yield self
            return
        team = self.split(ranks[0] if ranks else None)
        try:
            yield team
        finally:
            if team is not None:
                team._communicator.Free()

    def split(self, colour: int | None) -> World | None:
        """Return a world of the ranks that pass the same colour; None if `colour` is. All ranks call this."""
        self.meet()  # because MPI's Split waits for all ranks, and not politely
        communicator = self._communicator.Split(MPI.UNDEFINED if colour is None else colour)
        return None if communicator == MPI.COMM_NULL else self._of(communicator)

    def machine(self) -> World:
        """Return a world of the ranks on this machine. All ranks call this."""
        self.meet()
        return self._of(self._communicator.Split_type(MPI.COMM_TYPE_SHARED))

    def _of(self, communicator: MPI.Comm) -> World:
        """Return a world of some of these ranks; time spent in it is added to this world's."""
        part = copy(self)
        part._communicator = pkl5.Intracomm(cast(MPI.Intracomm, communicator))
        part.rank, part.size = communicator.rank, communicator.size
        return part

    def meet(self) -> None:
        """Wait until all ranks are here."""
        with self._together():
            pass

    # objects

    def at_root(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 and return its result on every rank.

        Raises:
            AgreedError: `make` raised JobError.
            SystemExit: `make` raised it.
        """
        result = None
        problem: tuple[str, int] | SystemExit | None = None
        if self.is_root:
            try:
                result = make()
            except JobError as error:
                problem = str(error), error.exit_code
            except SystemExit as error:
                problem = error
        with self._together():
            result, problem = self._communicator.bcast((result, problem))
        if isinstance(problem, SystemExit):
            raise problem
        if problem is not None:
            raise AgreedError(*problem)
        return cast(T, result)

    def everywhere(self, make: Callable[[], T]) -> T:
        """Call `make` on every rank and return this rank's result, unless it raised JobError on any.

        Raises:
            AgreedError: `make` raised JobError on some rank; the message is the one of the first such rank.
        """
        result = problem = None
        try:
            result = make()
        except JobError as error:
            problem = str(error), error.exit_code
        for first in filter(None, self.all_gather(problem)):
            raise AgreedError(*first)
        return cast(T, result)

    def scatter(self, make: Callable[[], Sequence[T]]) -> T:
        """Call `make` on rank 0, which returns one value per rank, and return this rank's value."""
        values = self.make_at_root(make)
        with self._together():
            return self._communicator.scatter(values.value if self.is_root else None)  # type: ignore[no-any-return]

    def make_at_root(self, make: Callable[[], T]) -> AtRoot[T]:
        """Call `make` on rank 0 and keep its result there. All ranks call this.

        Raises:
            AgreedError: `make` raised JobError; on every rank.
            SystemExit: `make` raised it; on every rank.
        """
        made: list[T] = []
        self.at_root(lambda: made.append(make()))
        return AtRoot(self, made)

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks, on rank 0; an empty list elsewhere."""
        with self._together():
            return self._communicator.gather(value) or []

    def all_gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks, on every rank."""
        # by way of rank 0: pkl5 would send P² messages
        gathered = self.gather(value)
        return self.at_root(lambda: gathered)

    def reduce(self, value: T, combine: Callable[[T, T], T]) -> T | None:
        """Combine all ranks' values in the order of ranks, in a tree; return the result on rank 0, else None."""
        distance = 1
        while distance < self.size:
            if self.rank % (2 * distance):
                self.finish(self.send(value, self.rank - distance))
                return None
            if self.rank + distance < self.size:
                value = combine(value, self.receive(self.rank + distance))
            distance *= 2
        return value

    # arrays

    def sum(self, array: NDArray[Any]) -> None:
        """Add up the ranks' contiguous arrays, in place on every rank."""
        with self._together():
            for piece in self._pieces(array):
                self._poll(self._communicator.Iallreduce(MPI.IN_PLACE, piece).Test, MOVING_NAP_S)

    def broadcast(self, array: NDArray[Any], root: int) -> None:
        """Copy the contiguous array of rank `root` into the other ranks' arrays of the same shape."""
        with self._together():
            for piece in self._pieces(array):
                self._poll(self._communicator.Ibcast(piece, root).Test, MOVING_NAP_S)

    def share(self, array: NDArray[Any]) -> None:
        """Complete a contiguous array that has one part of equal length per rank; each rank has filled its own.

        Raises:
            ValueError: the array does not divide into `size` even parts.
        """
        flat = array.reshape(-1)
        part = len(flat) // self.size
        if part * self.size != len(flat):
            raise ValueError(f"{len(flat)} items are not {self.size} even parts")
        if self.size * PIECE_BYTES >= array.nbytes:
            with self._together():
                self._poll(self._communicator.Iallgather(MPI.IN_PLACE, flat).Test, MOVING_NAP_S)
            return
        for rank in range(self.size):
            self.broadcast(flat[rank * part : (rank + 1) * part], rank)

    # collectives that go on while a rank computes

    def begin_meeting(self) -> Begun:
        """Announce that this rank is here, without waiting; the operation is done when all ranks are here."""
        return Begun([self._communicator.Ibarrier()])

    def begin_sum(self, array: Any) -> Begun:
        """Begin to add up the ranks' arrays in place; nothing may touch the array before the operation is done.

        Args:
            array: contiguous and flat; a NumPy array or any other buffer that mpi4py accepts.
        """
        return Begun([self._communicator.Iallreduce(MPI.IN_PLACE, piece) for piece in self._pieces(array)])

    def complete(self, begun: Begun, communicating: bool = False, moving: Iterable[Begun] = ()) -> None:
        """Wait until an operation is done.

        Args:
            begun: the operation.
            communicating: True if all ranks have begun it, so that the time counts as communicating; otherwise it
                counts as waiting.
            moving: other operations that have begun, and need polling to make progress.
        """
        moving = list(moving)

        def ready() -> bool:
            for other in moving:
                other.done()
            return begun.done()

        started = time.perf_counter()
        self._poll(ready, MOVING_NAP_S if communicating or moving else LONGEST_NAP_S)
        seconds = time.perf_counter() - started
        if communicating:
            self.spent.communicating += seconds
        else:
            self.spent.waiting += seconds

    # messages

    def send(self, value: object, to: int) -> pkl5.Request:
        """Begin to send an object; arrays in it must not change until `finish` has returned for the request."""
        return self._communicator.isend(value, to)

    def receive(self, source: int) -> Any:
        """Wait for the next object that rank `source` has sent, and return it."""
        started = time.perf_counter()
        message = self._poll(lambda: self._communicator.improbe(source))
        met = time.perf_counter()
        value = cast(pkl5.Message, message).recv()
        self.spent.waiting += met - started
        self.spent.communicating += time.perf_counter() - met
        return value

    def next_message(self) -> Any | None:
        """Return the next object that any rank has sent, or None if none has arrived. None cannot be sent."""
        message = self._communicator.improbe()
        return None if message is None else message.recv()

    def has_left(self, request: pkl5.Request) -> bool:
        """Return True once an object has been sent; calling it lets MPI make progress."""
        return bool(request.test()[0])

    def finish(self, request: pkl5.Request) -> None:
        """Wait until an object has been sent."""
        started = time.perf_counter()
        self._poll(lambda: request.test()[0])
        self.spent.communicating += time.perf_counter() - started

    # waiting

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Wait until all ranks are here, then run the body of the `with` block as communication."""
        started = time.perf_counter()
        self._poll(self._communicator.Ibarrier().Test)
        met = time.perf_counter()
        yield
        self.spent.waiting += met - started
        self.spent.communicating += time.perf_counter() - met

    def _poll(self, ready: Callable[[], T], longest_nap_s: float = LONGEST_NAP_S) -> T:
        return poll(ready, self._spin_s, longest_nap_s)

    def _pieces(self, array: Any) -> Iterator[Any]:
        """Yield a contiguous array message by message."""
        flat = array.reshape(-1)
        items = max(1, PIECE_BYTES // array.itemsize)
        for start in range(0, len(flat), items):
            yield flat[start : start + items]


class AtRoot(Generic[T]):
    """A value that rank 0 alone holds, such as files that it has opened. `World.make_at_root` makes one.

    Args:
        world: the ranks.
        held: the value on rank 0, nothing elsewhere.
    """

    def __init__(self, world: World, held: Sequence[T]) -> None:
        self._world = world
        self._held = held

    @property
    def value(self) -> T:
        """The value, for code that runs on rank 0 alone.

        Raises:
            RuntimeError: this is another rank.
        """
        if not self._held:
            raise RuntimeError(f"rank {self._world.rank} used a value that rank 0 alone holds")
        return self._held[0]

    def share(self, function: Callable[[T], R]) -> R:
        """Return `function(value)`, which rank 0 computes, on every rank. All ranks call this.

        Raises:
            AgreedError: `function` raised JobError; on every rank.
            SystemExit: `function` raised it; on every rank.
        """
        return self._world.at_root(lambda: function(self.value))

    def run(self, function: Callable[[T], object]) -> None:
        """Call `function(value)` on rank 0 for its effect. All ranks call this, and wait until it has returned.

        Raises:
            AgreedError: `function` raised JobError; on every rank.
            SystemExit: `function` raised it; on every rank.
        """

        def call() -> None:
            function(self.value)

        self._world.at_root(call)


def counted_ranks(n: int) -> str:
    """Return a count of ranks as text, for example "1 rank"."""
    return f"{n} {'rank' if n == 1 else 'ranks'}"


def library() -> str:
    """Return the name and version of the MPI library, for example "MPICH 5.0.2"."""
    full = MPI.Get_library_version()
    found = re.search(r"(MPICH) Version:\s*([\w.]+)|(Open MPI) v([\w.]+)", full)
    return " ".join(filter(None, found.groups())) if found else full.splitlines()[0][:40]
