"""What a person at a terminal sees of a deployment, and is asked; in a pipe, what happened line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm


class Terminal:
    """Tells on stderr.

    Args:
        quiet: whether nobody wants to be told.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self.asks = self._live and sys.stdin.isatty()

    def line(self, text: str) -> None:
        """Something happened."""
        if not self._quiet:
            print(f"{self._cleared()}{text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Something went wrong, which even those want to hear who want quiet."""
        print(f"{self._cleared()}{text}", file=sys.stderr, flush=True)

    def live(self, text: str) -> None:
        """So it stands, until the next of these."""
        if self._live:
            print(f"{self._cleared()}{text} …", end="\r", file=sys.stderr, flush=True)

    def _cleared(self) -> str:
        return "\033[K" if self._live else ""

    def moving(self, what: str, size: int) -> Callable[[int], None]:
        """A bar of bytes that move."""
        bar = tqdm(
            total=size, unit="B", unit_scale=True, desc=f"upload {what}", disable=not self._live, leave=False
        )
        moved = 0

        def move(n: int) -> None:
            nonlocal moved
            moved += n
            bar.update(n)
            if moved >= size:
                bar.close()

        return move

    def stop(self) -> bool:
        """After Ctrl-C: whether to cancel and terminate, which is asked for where somebody can answer."""
        if not self.asks:
            return True
        self.asks = False  # a second Ctrl-C is an answer
        try:
            answer = input("\nCancel the step, and terminate the cluster if it is ours? [Y/n] ")
        except (EOFError, KeyboardInterrupt):
            return True
        self.asks = answer.strip().lower().startswith("n")
        return not self.asks
