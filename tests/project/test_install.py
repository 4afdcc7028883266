"""The set-up's installer: pip's settings hold for uv too, and pip takes over where uv cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import environment
from tests.support.places import ROOT

INSTALL = ROOT / ".ci" / "install.py"


def printed_settings(**variables: str) -> str:
    """Return what the installer passes to uv, printed by a process in which only these settings of pip hold."""
    clean = {name: value for name, value in environment().items() if not name.startswith("PIP_")}
    script = f"import runpy; print(runpy.run_path({str(INSTALL)!r})['settings']())"
    own = clean | {"PIP_CONFIG_FILE": "/dev/null"} | variables  # no file of settings
    done = subprocess.run([sys.executable, "-c", script], env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "{}"),
        (
            {"PIP_INDEX_URL": "http://mirror/simple", "PIP_EXTRA_INDEX_URL": "http://a http://b"},
            "{'UV_INDEX': 'http://a http://b', 'UV_DEFAULT_INDEX': 'http://mirror/simple'}",
        ),
        ({"PIP_FIND_LINKS": "/wheels /more", "PIP_NO_INPUT": "1"}, "{'UV_FIND_LINKS': '/wheels,/more'}"),
        ({"PIP_TRUSTED_HOST": "mirror"}, "None"),
        ({"PIP_NO_INDEX": "1"}, "None"),
    ],
)
def test_settings_of_pip_are_taken_over_or_left_to_pip(variables: dict[str, str], expected: str) -> None:
    assert printed_settings(**variables) == expected


def test_pip_tells_what_uv_could_not_install(tmp_path: Path) -> None:
    words = [sys.executable, INSTALL, "./nowhere"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip takes the place of uv, which failed: " in done.stderr
    assert "ERROR: Invalid requirement: './nowhere'" in done.stderr
