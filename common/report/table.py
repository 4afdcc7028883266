"""report.html of a table: what is in it, what could not be used, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.arrays import Pixels
from common.console import Console
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.data.table.table import REPORT, Table
from common.provenance import Engine, command, versions
from common.report import plots
from common.report.pages import render

MOST_BARS = 60
"""Classes that a bar chart can show and still be read."""


def write_report(
    table: Table,
    added: int,
    already: int,
    quarantined: Sequence[Skipped],
    samples: Mapping[int, Pixels],
    engine: Engine,
    console: Console,
) -> str:
    """Write the table's report beside its dataset.json.

    Args:
        table: as it is now.
        added: how many images this run added.
        already: how many names of its source were there before.
        quarantined: the images that could not be used.
        samples: an image of each of a few classes, by label.
        engine: what it ran on.
        console: knows how long each phase took.

    Returns:
        where the report is.
    """
    counts = np.sum(list(table.class_counts.values()), axis=0)
    largest = np.argsort(-counts, kind="stable")[:MOST_BARS]
    if len(counts) <= MOST_BARS:
        largest = np.arange(len(counts))
    busy = console.seconds.get("decode and write", 0)
    page = render(
        "ingest.html.j2",
        table=table,
        n=int(counts.sum()),
        splits={split: int(own.sum()) for split, own in table.class_counts.items()},
        added=added,
        already=already,
        rate=added / busy if busy else 0,
        engine=engine.name,
        samples=[
            {"image": plots.png(image), "name": table.class_names[label], "caption": table.class_names[label]}
            for label, image in samples.items()
        ],
        classes=[(table.class_names[c], int(counts[c])) for c in largest],
        quarantined=quarantined[:MOST_SKIPPED],
        seconds=console.seconds,
        command=command(),
        versions=versions(),
    )
    table.storage.write(REPORT, page)
    return f"{table.storage}/{REPORT}"
