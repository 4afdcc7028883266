"""The argument parser of all jobs: errors in one line, and flags that describe themselves."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from common.data.shipped import absolute
from common.run.flag_types import ROLES, ValueRole

PARSE_ONLY = "JOB_PARSE_ONLY"
"""If set, a job validates its flags and exits with 0."""

DESCRIBE = "JOB_DESCRIBE_FLAGS"
"""If set, a job prints its flags as JSON (see Parser.described) and exits with 0."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of flags that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default is not None and action.default is not False and action.default != []
        return super()._get_help_string(action) if shown else action.help


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose values may begin with a minus sign."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with 2."""
        print(f"{self.prog}: {message}; --help lists the flags", file=sys.stderr)
        raise SystemExit(2)

    def described(self) -> list[dict[str, Any]]:
        """Return the flags and positional arguments, in order, as JSON.

        Each has the keys "flags" (its names; empty for a positional argument), "name" (for people), "takes_value"
        and "role" (a ValueRole).
        """
        return [
            {
                "flags": list(action.option_strings),
                "name": str(action.metavar or action.dest),
                "takes_value": action.nargs != 0,
                "role": ROLES.get(action.type, ValueRole.PLAIN),
            }
            for action in self._actions
        ]

    def parse_arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse argv, or the arguments of this process if it is None.

        argparse alone would take `--lambdas -5:5:10` for two flags.

        Raises:
            InputError: the current folder is gone.
        """
        absolute(Path())
        if DESCRIBE in os.environ:
            print(json.dumps(self.described()))
            raise SystemExit(0)
        words: list[str] = []
        for word in sys.argv[1:] if argv is None else argv:
            if re.match(r"-[\d.]", word) and words and re.fullmatch(r"--[a-z-]+", words[-1]):
                words[-1] += f"={word}"
            else:
                words.append(word)
        arguments = self.parse_args(words)
        if PARSE_ONLY in os.environ:
            raise SystemExit(0)
        return arguments
