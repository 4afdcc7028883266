r"""The language of globs, which is Hadoop's and `**`.

* and ? match within a name, [a-c] and [^a-c] one letter, {a,b} either of the two. \ takes the next letter as it
is, and a part ** matches any number of folders.
"""

from __future__ import annotations

import itertools
import re

from common.errors import InputError

WILDCARDS = re.compile(r"[*?\[{]")

ANY_DEPTH = "**"


def alternatives(pattern: str) -> list[list[str]]:
    """Return a glob without braces for each choice among its {a,b}, as parts of a path.

    Raises:
        InputError: a brace or bracket is not closed.
    """
    depth, start, commas = 0, 0, []
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        if letter == "\\":
            position += 1
        elif letter == "{":
            depth += 1
            if depth == 1:
                start = position
        elif letter == "," and depth == 1:
            commas.append(position)
        elif letter == "}" and depth:
            depth -= 1
            if not depth:
                cuts = [start, *commas, position]
                choices = [pattern[a + 1 : b] for a, b in itertools.pairwise(cuts)]
                head, tail = pattern[:start], pattern[position + 1 :]
                return [parts for choice in choices for parts in alternatives(head + choice + tail)]
        position += 1
    if depth:
        raise InputError(f"{pattern}: a brace is not closed")
    return [[part for part in pattern.split("/") if part]]


def plain_name(part: str) -> str | None:
    """Return the name that a part of a glob stands for, or None if there are wildcards in it."""
    letters = re.sub(r"\\(.)", "", part)
    return None if WILDCARDS.search(letters) else re.sub(r"\\(.)", r"\1", part)


def compiled(part: str) -> re.Pattern[str]:
    """Return what matches the same names as a part of a glob.

    Raises:
        InputError: a bracket is not closed, or its range is none.
    """
    expression, position = "", 0
    while position < len(part):
        letter = part[position]
        if letter == "\\" and position + 1 < len(part):
            position += 1
            expression += re.escape(part[position])
        elif letter == "*":
            expression += ".*"
        elif letter == "?":
            expression += "."
        elif letter == "[":
            end = part.find("]", position + 2)
            if end < 0:
                raise InputError(f"{part}: a bracket is not closed")
            inner = part[position + 1 : end]
            negated = inner[0] in "^!"
            letters = re.sub(r"([\[\]\\^&~|])", r"\\\1", inner[negated:])
            expression += f"[{'^' * negated}{letters}]"
            position = end
        else:
            expression += re.escape(letter)
        position += 1
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise InputError(f"{part}: no pattern ({error})") from error
