"""Shipped files: local files that travel with a job to a cluster whose workers do not see the driver's disk.

`spark-submit --archives photos.tar.gz#shipped-photos` unpacks an archive below the working directory of the driver
(in YARN's cluster mode) and of each executor. That directory differs from process to process, so paths into
shipped folders stay relative. All other paths are made absolute, because workers are started elsewhere.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = "shipped-"
"""Prefix of the names of shipped folders."""


def seen_by_workers(path: Path) -> Path:
    """Return the path at which driver and workers find the same file."""
    return path if path.parts[:1] and path.parts[0].startswith(SHIPPED) else path.expanduser().absolute()
