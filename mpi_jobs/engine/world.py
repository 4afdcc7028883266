"""The ranks of a run, and what passes between them.

A thin layer over a communicator that settles four things once:

- Arrays travel as buffers, in pieces; other objects by pickle, with the arrays in them as buffers.
- Ranks wait politely. MPI's own waits take a whole core and are deaf to Ctrl-C. Here a collective begins with a
  barrier that is polled, and its pieces are polled too: a rank that has to wait for long sleeps.
- Waiting is told apart from communicating: until all ranks are there is one, what comes then the other.
- An error of one rank never leaves the others hanging.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

from mpi4py import MPI
from mpi4py.util import pkl5
from numpy.typing import NDArray

from common.errors import JobError
from common.run.exits import INTERRUPTED
from mpi_jobs.engine.terminal import adopt_terminal

T = TypeVar("T")
R = TypeVar("R")

PIECE_BYTES = 64 << 20
"""What one message of an array holds: far below 2³¹ items, and few enough for MPI's own buffers."""

SPIN_S, SHORTEST_NAP_S, LONGEST_NAP_S = 0.002, 0.00001, 0.005
"""How long a rank polls without a pause where it has a core of its own, and its pauses after that."""

PASSED_ON_S = 0.2
"""How long a launcher has to pass on what a rank has said, before it is told to end all and may look no more."""

MOVING_NAP_S = 0.0002
"""The longest pause from a message that is on its way: many MPIs move it only when they are asked about it."""


class AgreedError(JobError):
    """An error of one rank that every rank has been told of.

    Args:
        message: what is wrong, where, and how to mend it.
        exit_code: with which the job ends.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self._exit_code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The exit code of the original error."""
        return self._exit_code


@dataclass
class Spent:
    """Seconds of a rank that were not its own work.

    Attributes:
        waiting: for other ranks.
        communicating: with them.
    """

    waiting: float = 0.0
    communicating: float = 0.0


class Begun:
    """Something that all ranks do together and that goes on by itself, or nearly: MPIs want to be asked about it.

    Args:
        requests: that are parts of it.
    """

    def __init__(self, requests: list[MPI.Request]) -> None:
        self._requests = requests

    def done(self) -> bool:
        """Whether it is; asking moves it on."""
        while self._requests and self._requests[-1].Test():
            self._requests.pop()
        return not self._requests


class World:
    """The ranks of a communicator.

    Args:
        communicator: whose ranks.
        piece_bytes: what one message of an array may hold.

    Attributes:
        rank: this process's number.
        size: how many there are.
        cores: that the ranks of this machine may use, all of them together.
        neighbours: ranks on this machine, this one included.
        spent: how long this rank has waited and communicated.
    """

    def __init__(self, communicator: MPI.Intracomm, piece_bytes: int = PIECE_BYTES) -> None:
        self._communicator = pkl5.Intracomm(communicator)
        self._piece_bytes = piece_bytes
        self.rank, self.size = communicator.rank, communicator.size
        self.spent = Spent()
        node = pkl5.Intracomm(communicator.Split_type(MPI.COMM_TYPE_SHARED))
        self.neighbours = node.size
        # ranks that a launcher has bound to cores of their own see few each, others see all
        self.cores = len(set().union(*node.allgather(os.sched_getaffinity(0))))
        node.Free()
        self._spin_s = SPIN_S if self.neighbours <= self.cores else 0.0

    @property
    def is_root(self) -> bool:
        """Whether this is the rank that reads flags, prints, and writes the run folder."""
        return self.rank == 0

    @contextmanager
    def team(self, ranks: Sequence[int]) -> Iterator[World | None]:
        """Make a world of the ranks of a team; None for a rank that is in no team.

        All ranks call this, each with the ranks of its own team, which has no part in any other.

        Args:
            ranks: in ascending order; empty for no team.
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
        """A world of the ranks that name the same colour; None for those that name none. All ranks call this."""
        self.meet()  # politely: to split a communicator is a wait that is not
        communicator = self._communicator.Split(MPI.UNDEFINED if colour is None else colour)
        return None if communicator == MPI.COMM_NULL else self._of(communicator)

    def machine(self) -> World:
        """A world of the ranks on this machine. All ranks call this."""
        self.meet()
        return self._of(self._communicator.Split_type(MPI.COMM_TYPE_SHARED))

    def _of(self, communicator: MPI.Comm) -> World:
        """A world of some of these ranks, whose waits count as this one's."""
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
        """What `make` returns on rank 0, for all.

        Raises:
            AgreedError: it raised JobError there.
            SystemExit: it raised it there.
        """
        result = problem = None
        if self.is_root:
            try:
                result = make()
            except (JobError, SystemExit) as error:
                problem = error
        with self._together():
            result, problem = self._communicator.bcast((result, problem))
        if isinstance(problem, SystemExit):
            raise problem
        if problem is not None:
            raise AgreedError(str(problem), problem.exit_code)
        return cast(T, result)

    def everywhere(self, make: Callable[[], T]) -> T:
        """What `make` returns on this rank, if it raised JobError on none.

        Raises:
            AgreedError: it did; the first rank's message.
        """
        result = problem = None
        try:
            result = make()
        except JobError as error:
            problem = str(error), error.exit_code
        for told in self.all_gather(problem):
            if told is not None:
                raise AgreedError(*told)
        return cast(T, result)

    def scatter(self, make: Callable[[], Sequence[T]]) -> T:
        """One for each rank of what `make` returns on rank 0."""
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

    def at_root_only(self, make: Callable[[], T]) -> T | None:
        """Return what `make` returns on rank 0, and None elsewhere; `make_at_root` says which errors it raises."""
        made = self.make_at_root(make)
        return made.value if self.is_root else None

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on rank 0; an empty list elsewhere."""
        with self._together():
            return self._communicator.gather(value) or []

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on all."""
        # by way of rank 0: pkl5 would send P² messages
        gathered = self.gather(value)
        return self.at_root(lambda: gathered)

    def reduce(self, value: T, combine: Callable[[T, T], T]) -> T | None:
        """All ranks' values combined in the order of ranks, in a tree, on rank 0; None elsewhere."""
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
        """Copy one rank's contiguous array into the others' of the same shape."""
        with self._together():
            for piece in self._pieces(array):
                self._poll(self._communicator.Ibcast(piece, root).Test, MOVING_NAP_S)

    def share(self, array: NDArray[Any]) -> None:
        """Complete a contiguous array of which each rank has filled its own of `size` parts of even length."""
        flat = array.reshape(-1)
        part = len(flat) // self.size
        if part * self.size != len(flat):
            raise ValueError(f"{len(flat)} items are not {self.size} even parts")
        if self.size * self._piece_bytes >= array.nbytes:
            with self._together():
                self._poll(self._communicator.Iallgather(MPI.IN_PLACE, flat).Test, MOVING_NAP_S)
            return
        for rank in range(self.size):
            self.broadcast(flat[rank * part : (rank + 1) * part], rank)

    # what goes on while a rank computes

    def begin_meeting(self) -> Begun:
        """Say that this rank is here, and go on; it is done when all are."""
        return Begun([self._communicator.Ibarrier()])

    def begin_sum(self, array: Any) -> Begun:
        """Begin what sum() does, of an array that nobody touches before it is done.

        Args:
            array: contiguous and flat; besides NumPy's, any that mpi4py takes for a buffer.
        """
        return Begun([self._communicator.Iallreduce(MPI.IN_PLACE, piece) for piece in self._pieces(array)])

    def complete(self, begun: Begun, communicating: bool = False, moving: Iterable[Begun] = ()) -> None:
        """Wait until it is done, which counts as waiting for others or as communicating.

        Args:
            begun: what to wait for.
            communicating: whether it is on its way, and does not only wait for others.
            moving: what else is, and wants to be asked about.
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
        """Begin to send an object, whose arrays must not change until finish() has seen the request."""
        return self._communicator.isend(value, to)

    def receive(self, source: int) -> Any:
        """The next object that a rank has sent."""
        started = time.perf_counter()
        message = self._poll(lambda: self._communicator.improbe(source))
        met = time.perf_counter()
        value = cast(pkl5.Message, message).recv()
        self.spent.waiting += met - started
        self.spent.communicating += time.perf_counter() - met
        return value

    def next_message(self) -> Any | None:
        """The next object that any rank has sent, if one has come; None is nothing to send."""
        message = self._communicator.improbe()
        return None if message is None else message.recv()

    def has_left(self, request: pkl5.Request) -> bool:
        """Whether what was sent is on its way; asking moves it on."""
        return bool(request.test()[0])

    def finish(self, request: pkl5.Request) -> None:
        """Wait until what was sent is on its way."""
        started = time.perf_counter()
        self._poll(lambda: request.test()[0])
        self.spent.communicating += time.perf_counter() - started

    # waiting

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Wait until all ranks are here; what follows is communication."""
        started = time.perf_counter()
        self._poll(self._communicator.Ibarrier().Test)
        met = time.perf_counter()
        yield
        self.spent.waiting += met - started
        self.spent.communicating += time.perf_counter() - met

    def _poll(self, ready: Callable[[], T], longest_nap_s: float = LONGEST_NAP_S) -> T:
        """Ask until the answer is yes: at once, then at growing intervals, so that others may have the core."""
        started = time.perf_counter()
        while not (answer := ready()):
            waiting = time.perf_counter() - started
            if waiting >= self._spin_s:
                time.sleep(min(max(waiting / 8, SHORTEST_NAP_S), longest_nap_s))
        return answer

    def _pieces(self, array: Any) -> Iterator[Any]:
        """A contiguous array, a message at a time."""
        flat = array.reshape(-1)
        items = max(1, self._piece_bytes // array.itemsize)
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
    """For example "1 rank"."""
    return f"{n} {'rank' if n == 1 else 'ranks'}"


def library() -> str:
    """Which MPI this is, for example "MPICH 5.0.2"."""
    said = MPI.Get_library_version()
    known = re.search(r"(MPICH) Version:\s*([\w.]+)|(Open MPI) v([\w.]+)", said)
    return " ".join(filter(None, known.groups())) if known else said.splitlines()[0][:40]


def run_mpi_job(main: Callable[[], int]) -> NoReturn:
    """Run a job's main on this rank and exit: 0 done, 2 wrong input in one line, 130 interrupted, 1 anything else.

    What only this rank has met with ends all the others at once, however they were started: MPI would leave them
    waiting. Ctrl-C and what ends a batch job are rank 0's business, which has files to tidy up.
    """
    world = MPI.COMM_WORLD
    if world.rank == 0:
        adopt_terminal()
        signal.signal(signal.SIGTERM, _interrupt)  # what batch systems send, and Open MPI when a rank is lost
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    name = Path(sys.argv[0]).name
    try:
        try:
            code = main()
        except AgreedError as error:
            if world.rank == 0:
                print(f"{name}: {error}", file=sys.stderr)
            code = error.exit_code
        except SystemExit as error:  # which --help and wrong flags are
            code = int(error.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        world.Barrier()  # to some launchers the first rank that exits with 2 is a reason to end the others
    except JobError as error:
        _abort(f"{name}: {error} (rank {world.rank})", error.exit_code)
    except KeyboardInterrupt as interrupt:
        left = "; ".join(getattr(interrupt, "__notes__", ["no result was written"]))
        _abort(f"{name}: interrupted ({str(interrupt) or 'SIGINT'}); {left}", INTERRUPTED)
    except BaseException:
        _abort(f"{name}: rank {world.rank} of {world.size} failed\n{traceback.format_exc()}", 1)
    raise SystemExit(code)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _abort(message: str, code: int) -> NoReturn:
    """Say why, and end every rank."""
    print(message, file=sys.stderr, flush=True)
    time.sleep(PASSED_ON_S)
    # under srun, MPICH's Abort may wait for an answer from a launcher that is ending too
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    MPI.COMM_WORLD.Abort(code)
    raise SystemExit(code)
