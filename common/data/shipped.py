"""Files that travel with a job, for clusters whose workers do not see the driver's disk.

`spark-submit --archives photos.tar.gz#carried-photos` unpacks an archive below the working directory of the driver
(in YARN's cluster mode) and of each executor. Where those are differs from process to process, so paths into it
stay relative; all others are made absolute, because workers are started elsewhere.
"""

from __future__ import annotations

from pathlib import Path

CARRIED = "carried-"
"""How the names of such folders begin."""


def seen_by_workers(path: Path) -> Path:
    """The path under which driver and workers find the same file."""
    return path if path.parts[:1] and path.parts[0].startswith(CARRIED) else path.expanduser().absolute()
