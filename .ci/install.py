"""`install.py REQUIREMENT…`: install into this environment, with the versions of requirements.lock as constraints.

uv does it in a third of pip's time, and keeps to pip's settings. Where it cannot, or fails, pip does it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Settings of pip, and the variables that uv takes them from."""

OF_PIP_ALONE = {
    *("cache-dir", "config-file", "disable-pip-version-check"),
    *("no-color", "no-input", "progress-bar", "quiet", "root-user-action"),
}
"""Settings that say how pip behaves, and not what it installs."""


def main(requirements: list[str]) -> int:
    """Install requirements; return the exit code of what installed them."""
    built = {**os.environ, "DIST_EXTRA_CONFIG": str(ROOT / ".ci" / "wheels.cfg")}
    constraint = ["--quiet", "--constraint", str(ROOT / "requirements.lock")]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *constraint]
    taken = settings()
    if taken is not None and subprocess.run([*pip, "uv"], check=False, stderr=subprocess.DEVNULL).returncode == 0:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, *constraint]
        done = subprocess.run([*uv, *requirements], check=False, env=built | taken, capture_output=True, text=True)
        if done.returncode == 0:
            return 0
        print(f"pip takes the place of uv, which failed: {done.stderr.strip()}", file=sys.stderr)
    return subprocess.run([*pip, *requirements], check=False, env=built).returncode


def settings() -> dict[str, str] | None:
    """Return pip's settings as variables of uv, or None if there are others that uv does not know."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    taken = {}
    for line in listed.splitlines():
        place, _, value = line.partition("=")
        name = place.rpartition(".")[2]
        if name in NAMES:
            separator = "," if name == "find-links" else " "
            taken[NAMES[name]] = separator.join(str(ast.literal_eval(value)).split())
        elif name not in OF_PIP_ALONE:
            return None
    return taken


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
