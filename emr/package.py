"""`python -m emr.package DEST`: the project as a zip, for `spark-submit --py-files`."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from common.atomic import write_atomically

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "spark_jobs")
EPOCH = (1980, 1, 1, 0, 0, 0)


def project_zip(destination: Path) -> Path:
    """Write the packages that executors import. The same sources give the same bytes, whenever and wherever."""
    files = sorted(
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in (".py", ".j2")
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(destination) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return destination


def main() -> int:
    """Parse and write."""
    parser = argparse.ArgumentParser(description="Write the project as a zip for spark-submit --py-files.")
    parser.add_argument("destination", type=Path)
    print(project_zip(parser.parse_args().destination))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
