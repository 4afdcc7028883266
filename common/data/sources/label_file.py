"""Label files: text in columns, such as CSV, whose rows have the name, the class and the group of an image."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from common.atomic import read_text
from common.data.sources.file_index import without_suffix
from common.errors import InputError

DELIMITERS = "\t|;,"
"""Characters between columns, the preferred ones first."""

SAMPLED = 50
"""Rows from which the delimiter follows."""

NAME_HEADERS = (
    *("filename", "filepath", "file", "imagepath", "imagefile", "imagename", "imageid", "image"),
    *("imgpath", "imgname", "imgid", "img", "path", "photo", "picture", "name", "id"),
)
"""Usual headers of the column of file names, the best first; without capitals, spaces and underscores."""

LABEL_HEADERS = ("label", "labels", "class", "classname", "category", "target", "labelid", "classid")
"""Usual headers of the column of classes, the best first."""


class LabelFile(NamedTuple):
    """A label file and how to read it. A column is named by its header, or by its number from 1.

    Attributes:
        path: the file.
        file_column: the column of file names; None to find it by its header.
        label_column: the column of classes; None to find it by its header.
        group_column: the column of groups; None for none.
        all_needed: False if the file may lack the columns that are named.
    """

    path: Path
    file_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    all_needed: bool = True


class LabelRow(NamedTuple):
    """One row of a label file.

    Attributes:
        line: its last line in the file.
        name: the name of the image, as it stands there.
        label: the class, "" if there is none.
        group: the group, "" if there is none.
    """

    line: int
    name: str
    label: str
    group: str


class LabelRows(NamedTuple):
    """The contents of a label file.

    Attributes:
        rows: the rows, in order.
        grouped: True if they have groups.
        note: a line for people that says which columns are used.
    """

    rows: list[LabelRow]
    grouped: bool
    note: str


class Record(NamedTuple):
    """The cells of one row, without spaces around them, and its last line in the file."""

    line: int
    cells: list[str]


class Columns(NamedTuple):
    """Which column is what.

    Attributes:
        file: the position of the file names.
        label: the position of the classes.
        group: the position of the groups; None for none.
        header: the names of all columns, and None if the file has no header.
    """

    file: int
    label: int
    group: int | None
    header: list[str] | None

    def note(self, path: Path) -> str:
        """Say which columns are used."""
        uses = [("files", self.file), ("classes", self.label)]
        uses += [] if self.group is None else [("groups", self.group)]
        named = [repr(name) for name in self.header] if self.header else None
        columns = [f"{use} by {named[at] if named else f'column {at + 1}'}" for use, at in uses]
        return f"{path.name}: {', '.join(columns)}"


def read_label_file(file: LabelFile, is_image: Callable[[str], bool]) -> LabelRows:
    """Read a label file: UTF-8, with or without byte order mark and header, columns split by one of DELIMITERS.

    Args:
        file: the file.
        is_image: whether a text names an image; if one of the first row does, that row is no header.

    Raises:
        InputError: the file cannot be read, is no such text, or lacks a column.
    """
    path = file.path
    text = read_text(path, str(path))
    delimiter = _delimiter(text)
    records = list(_records(path, text, delimiter))
    if not records:
        raise InputError(f"{path}: an empty file; it should have the name of an image and its class in each row")
    first = records[0].cells
    if len(first) < 2:
        raise InputError(
            f"{path}: one column, {first[0]!r}; it should have names of images and classes, with a comma, "
            "semicolon, bar or tab between them"
        )
    columns = _columns(file, first, not any(_names_an_image(cell, is_image) for cell in first))
    rows = [_row(path, record, columns, len(first)) for record in records[columns.header is not None :]]
    if not rows:
        raise InputError(f"{path}: a header and no rows")
    return LabelRows(rows, columns.group is not None, columns.note(path))


def _names_an_image(cell: str, is_image: Callable[[str], bool]) -> bool:
    return bool(cell) and (without_suffix(cell) != cell or is_image(cell))


def _records(path: Path, text: str, delimiter: str) -> Iterator[Record]:
    """Yield the rows that are not blank.

    Raises:
        InputError: the quotes are wrong, so that rows would be lost.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield Record(reader.line_num, stripped)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: cannot be read ({error}); mend its quotes") from error


def _delimiter(text: str) -> str:
    """Return the delimiter that gives most of the first rows as many cells as the first has, at least two."""

    def fit(delimiter: str) -> tuple[int, int]:
        widths: list[int] = []
        with suppress(InputError):
            widths += [len(record.cells) for record in islice(_records(Path(), text, delimiter), SAMPLED)]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    return max(DELIMITERS, key=fit)


def _columns(file: LabelFile, first: list[str], has_header: bool) -> Columns:
    """Return which column is what.

    Raises:
        InputError: a column that a flag names is not there, or nothing tells which column holds the classes.
    """
    header = first if has_header else [""] * len(first)
    file_at = _chosen(file, header, "--file-column", file.file_column)
    label_at = _chosen(file, header, "--label-column", file.label_column)
    group_at = _chosen(file, header, "--group-column", file.group_column)
    others = [at for at in range(len(first)) if at not in (file_at, label_at, group_at)]
    usual_label = label_at if label_at is not None else _usual(header, others, LABEL_HEADERS)
    if file_at is None:
        file_at = _usual(header, others, NAME_HEADERS)
    if file_at is None:
        file_at = next((at for at in others if at != usual_label), None)
    others = [at for at in others if at != file_at]
    label_at = usual_label
    if label_at is None and others and (len(others) == 1 or not has_header):
        label_at = others[0]
    if file_at is None or label_at is None or len({file_at, label_at, group_at}) < 3:
        raise InputError(
            f"{file.path}: which columns hold the names of images and the classes? --file-column and "
            f"--label-column say so; its columns: {', '.join(first)}"
        )
    return Columns(file_at, label_at, group_at, first if has_header else None)


def _chosen(file: LabelFile, header: list[str], flag: str, wanted: str | None) -> int | None:
    """Return the position of the column that a flag names; None if it names none.

    Raises:
        InputError: the column is not there, and it is needed.
    """
    if wanted is None:
        return None
    at = _position(header, wanted)
    if at is None and file.all_needed:
        listed = f"its columns: {', '.join(header)}" if any(header) else "it has no header; name it by its number"
        raise InputError(f"{file.path}: no column {wanted!r} for {flag}; {listed}")
    return at


def _position(header: Sequence[str], wanted: str) -> int | None:
    """Return the position of the column with this header or, if there is none, with this number from 1."""
    for names, name in ((header, wanted), ([each.casefold() for each in header], wanted.casefold())):
        if names.count(name) == 1:
            return names.index(name)
    return int(wanted) - 1 if wanted.isdecimal() and 1 <= int(wanted) <= len(header) else None


def _usual(header: Sequence[str], among: Sequence[int], usual: Sequence[str]) -> int | None:
    """Return the position of the header that comes first among usual ones."""
    plain = {re.sub(r"[\s_.-]", "", header[at]).casefold(): at for at in reversed(among)}
    return next((plain[name] for name in usual if name in plain), None)


def _row(path: Path, record: Record, columns: Columns, width: int) -> LabelRow:
    """Return the cells of a row that count.

    Raises:
        InputError: there are more cells than columns, or there is no name.
    """
    line, cells = record
    if any(cells[width:]):
        wide = f"{len(cells)} cells, and the first row has {width}"
        raise InputError(f"{path}: line {line}: {wide}; put quotes around what is one cell")
    cells = [*cells, *[""] * (width - len(cells))]
    if not cells[columns.file]:
        raise InputError(f"{path}: line {line}: no name of an image; write or remove it")
    group = "" if columns.group is None else cells[columns.group]
    return LabelRow(line, cells[columns.file], cells[columns.label], group)
