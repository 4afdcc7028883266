"""Progress on a terminal, silence in a pipe, and the clock behind both."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class Bar:
    """Moves a progress bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, units: int) -> None:
        """Move it on."""
        self._bar.update(units)

    def tell(self, text: str) -> None:
        """Show something beside it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(text)


class Console:
    """Progress for a terminal and silence for a pipe, and the clock behind both.

    Args:
        quiet: whether nobody wants to be told anything.
        phases: whether to show each phase, and not only measure it.

    Attributes:
        live: whether a person is watching.
        seconds: the phases so far and how long each took, in order.
    """

    def __init__(self, quiet: bool = False, phases: bool = True) -> None:
        self.quiet = quiet
        self._phases = phases
        self.live = not quiet and sys.stderr.isatty()
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()
        self._in_bar = False

    def total_seconds(self) -> float:
        """Seconds since this console was made."""
        return time.perf_counter() - self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; on a terminal, say that it runs and how long it took. Phases of one name add up."""
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
        """A progress bar on a terminal; yields what moves it by so many units.

        Phases inside the bar, of which there may be many of one name, are shown when it ends.

        Args:
            total: units there are; None where nobody knows.
            unit: their name.
            what: is under way.
            done: units that were done before.
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
        """One line on stderr, whoever is watching."""
        print(f"warning: {message}", file=sys.stderr)

    def say(self, message: str) -> None:
        """One line of the result on stdout, unless quiet."""
        if not self.quiet:
            print(message)
