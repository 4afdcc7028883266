"""`install.py REQUIREMENT…`: install into this environment, with the versions of requirements.lock as constraints.

uv does it in a third of pip's time, and keeps to pip's settings. Where there are some that it lacks, such as other
indexes, which it searches in another way, or where it fails, pip does it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"

SECTIONS = ("global", "install", ":env:")
"""Where pip takes the settings of an installation from; later ones hold before earlier ones."""

NAMES = {
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
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    building = {**os.environ, "DIST_EXTRA_CONFIG": str(ROOT / ".ci" / "wheels.cfg")}
    constrained = building | {"PIP_CONSTRAINT": LOCK}  # which holds for what builds packages, too
    taken = settings()
    if taken is not None and subprocess.run([*pip, "uv"], check=False, env=constrained, cwd=ROOT).returncode == 0:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
        uv += ["--constraints", LOCK, "--build-constraints", LOCK, *requirements]
        done = subprocess.run(uv, check=False, env=building | taken, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return 0
        print(f"pip takes the place of uv, which failed: {done.stderr.strip()}", file=sys.stderr)
    return subprocess.run([*pip, *requirements], check=False, env=constrained, cwd=ROOT).returncode


def settings() -> dict[str, str] | None:
    """Return pip's settings as variables of uv, or None if one has no counterpart or pip cannot read them."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(words, check=False, capture_output=True, text=True)
    if listed.returncode != 0:
        return None
    places = [line.partition("=")[::2] for line in listed.stdout.splitlines()]
    taken = {}
    for section in SECTIONS:
        for place, value in places:
            name = place.removeprefix(f"{section}.")
            if name == place or name in OF_PIP_ALONE:
                continue
            if name not in NAMES:
                return None
            separator = "," if name == "find-links" else " "
            taken[NAMES[name]] = separator.join(str(ast.literal_eval(value)).split())
    return {name: value for name, value in taken.items() if value}


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
