"""The one exception that means: the user's input or flags are wrong."""

from __future__ import annotations


class InputError(Exception):
    """One line that says what is wrong, where, and how to mend it. Jobs turn it into exit code 2."""
