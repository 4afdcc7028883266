"""Let this project's packages be found before others of their names on PYTHONPATH.

A .pth file does it, which Python reads when it starts: if the first package called `common` is not this project's,
the project's folder comes first.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINE = (
    "import os, sys; "
    "found = next((path for path in sys.path if os.path.isdir(os.path.join(path, 'common'))), None); "
    "found is None or os.path.isdir(os.path.join(found, 'common', 'ridge')) or sys.path.insert(0, {root!r})\n"
)

if __name__ == "__main__":
    Path(sysconfig.get_path("purelib"), "this-project-first.pth").write_text(LINE.format(root=str(ROOT)))
