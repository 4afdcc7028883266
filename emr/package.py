"""`python -m emr.package DEST`: write the project as a zip for `spark-submit --py-files`."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

from common.atomic import write_whole

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "spark_jobs")
LEFT_OUT = ("common/compare/", "common/export/", "common/nets/", "common/tools/")
"""Parts of common that no Spark job imports: nets needs torch, which clusters lack; others are for runs here."""

SUFFIXES = (".py", ".j2")
"""Modules, and the templates of reports, which are read from beside their modules."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The modification time of every entry: the oldest that a zip can store."""


def zipped_project() -> bytes:
    """Return the packages that drivers and executors import, as a zip.

    The same sources give the same bytes on every machine and at any time.
    """
    files = {
        path.relative_to(ROOT).as_posix(): path
        for package in PACKAGES
        for suffix in SUFFIXES
        for path in (ROOT / package).rglob(f"*{suffix}")
        if path.is_file()
    }
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            if not name.startswith(LEFT_OUT):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, files[name].read_bytes())
    return zipped.getvalue()


def project_zip(destination: Path) -> Path:
    """Write the zipped project; return `destination`."""
    return write_whole(destination, zipped_project())


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the project as a zip for spark-submit --py-files.")
    parser.add_argument("destination", type=Path, help="the zip to write")
    print(project_zip(parser.parse_args().destination))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
