"""Messages of a deployment on a terminal, with progress and a question after Ctrl-C; in a pipe, plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm


class Terminal:
    """Shows messages on stderr.

    Args:
        quiet: whether to show nothing but errors.

    Attributes:
        interactive: whether somebody is there to answer a question.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self.interactive = self._live and sys.stdin.isatty()

    def info(self, text: str) -> None:
        """Show an event, unless quiet."""
        if not self._quiet:
            print(f"{self._cleared()}{text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Show an error, even if quiet."""
        print(f"{self._cleared()}{text}", file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """Show the current state, which the next message replaces. Pipes do not get it."""
        if self._live:
            print(f"{self._cleared()}{text} …", end="\r", file=sys.stderr, flush=True)

    def _cleared(self) -> str:
        """Return the escape sequence that clears the line of the last status."""
        return "\033[K" if self._live else ""

    def upload_bar(self, what: str, size: int) -> Callable[[int], None]:
        """Show a progress bar of `size` bytes; the returned function advances it, and closes it at the end."""
        bar = tqdm(
            total=size, unit="B", unit_scale=True, desc=f"upload {what}", disable=not self._live, leave=False
        )
        sent = 0

        def advance(n_bytes: int) -> None:
            nonlocal sent
            sent += n_bytes
            bar.update(n_bytes)
            if sent >= size:
                bar.close()

        return advance

    def confirm_stop(self) -> bool:
        """Return True to cancel and terminate after Ctrl-C. The user is asked, if somebody can answer."""
        if not self.interactive:
            return True
        self.interactive = False  # a second Ctrl-C counts as yes
        try:
            answer = input("\nCancel the job, and end the cluster or application if it is ours? [Y/n] ")
        except (EOFError, KeyboardInterrupt):
            return True
        self.interactive = answer.strip().lower().startswith("n")
        return not self.interactive
