"""Progress on a terminal, silence in a pipe, and the clock behind both."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm


class Bar:
    """A progress bar that is advanced by calling it."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, units: int) -> None:
        """Advance the bar by a number of units."""
        self._bar.update(units)

    def tell(self, text: str) -> None:
        """Show a text beside the bar."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text)


class Console:
    """Shows progress on a terminal and nothing in a pipe, and measures the phases of a job.

    Args:
        quiet: True to show nothing at all.
        phases: False to measure phases without showing them.

    Attributes:
        live: True if stderr is a terminal and the console is not quiet.
        seconds: the seconds that each phase took so far, in order.
    """

    def __init__(self, quiet: bool = False, phases: bool = True) -> None:
        self.quiet = quiet
        self._phases = phases
        self.live = not quiet and sys.stderr.isatty()
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()
        self._in_bar = False

    def total_seconds(self) -> float:
        """Return the seconds since this console was made."""
        return time.perf_counter() - self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase, and show it on a terminal. The times of phases of one name add up."""
        shown = self.live and self._phases and not self._in_bar
        if shown:
            print(f"  {name} …", end="\r", file=sys.stderr, flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        if shown:
            self._show(name)

    @contextmanager
    def bar(self, total: int | None, unit: str, what: str | None = None, done: int = 0) -> Iterator[Bar]:
        """Show a progress bar on a terminal, and yield the function that advances it.

        Phases inside the bar are shown when it ends, because there may be many of one name.

        Args:
            total: the number of units; None if it is unknown.
            unit: the name of a unit.
            what: a label in front of the bar.
            done: the number of units that were done before.
        """
        before = dict(self.seconds)
        self._in_bar = True
        with tqdm(total=total, unit=unit, desc=what, disable=not self.live, leave=False, initial=done) as bar:
            yield Bar(bar)
        self._in_bar = False
        for name in self.seconds:
            if self.live and self._phases and self.seconds[name] != before.get(name):
                self._show(name)

    def _show(self, name: str) -> None:
        print(f"\033[K  {name:<12} {self.seconds[name]:8.2f} s", file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print a warning to stderr, in a pipe too."""
        print(f"warning: {message}", file=sys.stderr)

    def say(self, message: str) -> None:
        """Print a line of the result to stdout, unless quiet."""
        if not self.quiet:
            with suppress(BrokenPipeError):  # nobody reads it any more
                print(message)
