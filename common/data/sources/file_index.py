"""Finding the file that a text names, as people write names: with or without suffix and folders."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from common.data.sources.finding import SUFFIXES
from common.errors import InputError


def without_suffix(name: str) -> str:
    """Return a name of an image without its suffix, if that is one of images."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


class FileIndex:
    """Image files of a folder by their names.

    A text names the file of exactly that path, else the one of that path whatever the suffixes are, else the only
    one whose path ends so, else the one whose path the text ends with. Accents may be composed or not.

    Args:
        names: the files, relative to the folder with forward slashes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._ends: dict[str, list[str]] = defaultdict(list)
        for name in names:
            composed = unicodedata.normalize("NFC", name)
            self._exact[composed].append(name)
            parts = without_suffix(composed).split("/")
            self._whole["/".join(parts)].append(name)
            for start in range(1, len(parts)):
                self._ends["/".join(parts[start:])].append(name)

    def __contains__(self, text: str) -> bool:
        """Return True if a text names a file, or may name several."""
        try:
            return self.find(text) is not None
        except InputError:
            return True

    def find(self, text: str) -> str | None:
        """Return the name of the file that a text names; None if it names none.

        Raises:
            InputError: it may mean several files.
        """
        written = unicodedata.normalize("NFC", text)
        path = posixpath.normpath(written.replace("\\", "/")).lstrip("/")
        parts = without_suffix(path).split("/")
        found = self._exact.get(written) or self._exact.get(path)
        found = found or self._whole.get("/".join(parts)) or self._ends.get("/".join(parts))
        for start in range(1, len(parts)):
            found = found or self._whole.get("/".join(parts[start:]))
        if not found:
            return None
        suffix = path.removeprefix(without_suffix(path)).lower()
        if len(found) > 1 and suffix:
            found = [name for name in found if name.lower().endswith(suffix)] or found
        if len(found) > 1:
            raise InputError(f"{text!r} may be {found[0]!r} or {found[1]!r}; write its path")
        return found[0]
