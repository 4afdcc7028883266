"""The report of a table: its images, the quarantine, and how long the last ingest took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.arrays import Pixels
from common.console import Console
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.data.storage import writing_to
from common.data.table.table import REPORT, Table
from common.provenance import Engine, command, versions
from common.report import plots
from common.report.pages import MOST_BARS, render


def write_report(
    table: Table,
    added: int,
    already: int,
    quarantined: Sequence[Skipped],
    samples: Mapping[int, Pixels],
    engine: Engine,
    console: Console,
) -> str:
    """Write the report of a table beside its dataset.json.

    Args:
        table: the table after the ingest.
        added: the number of images that the ingest added.
        already: the number of names of the source that the table held before.
        quarantined: the images that could not be used.
        samples: by label, one image of each of a few classes.
        engine: the engine that the ingest ran on.
        console: its seconds say how long each phase took.

    Returns:
        The location of the report.
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
    with writing_to(table.storage):
        table.storage.write(REPORT, page)
    return f"{table.storage}/{REPORT}"
