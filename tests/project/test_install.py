"""The set-up's installer: pip's settings hold for uv too, and pip takes over where uv cannot."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.jobs import environment
from tests.support.places import ROOT

INSTALL = ROOT / ".ci" / "install.py"


def only(**variables: str) -> dict[str, str]:
    """Return an environment in which these settings of pip hold, and no others."""
    clean = {name: value for name, value in environment().items() if not name.startswith("PIP_")}
    return clean | {"PIP_CONFIG_FILE": "/dev/null"} | variables


def printed_settings(**variables: str) -> str:
    """Return what the installer passes to uv where these settings of pip hold."""
    script = f"import runpy; print(runpy.run_path({str(INSTALL)!r})['settings']())"
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=only(**variables), capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "{}"),
        ({"PIP_INDEX_URL": "http://mirror/simple"}, "None"),
        ({"PIP_EXTRA_INDEX_URL": "http://a http://b"}, "None"),  # pip takes the best of all, uv of the first
        ({"PIP_FIND_LINKS": "/wheels /more", "PIP_NO_INPUT": "1"}, "{'UV_FIND_LINKS': '/wheels,/more'}"),
        ({"PIP_TRUSTED_HOST": "mirror"}, "None"),
        ({"PIP_NO_INDEX": "1"}, "None"),
    ],
)
def test_settings_of_pip_are_taken_over_or_left_to_pip(variables: dict[str, str], expected: str) -> None:
    assert printed_settings(**variables) == expected


def test_variables_hold_before_files_and_other_commands_have_their_own(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nproxy = http://file\ntimeout = 9\n[install]\ntimeout = 8\n[list]\nformat = json\n"
    )
    printed = printed_settings(PIP_CONFIG_FILE=str(tmp_path / "pip.conf"), PIP_PROXY="http://variable")
    found = ast.literal_eval(printed)  # a file of this machine may add others
    assert (found["ALL_PROXY"], found["UV_HTTP_TIMEOUT"]) == ("http://variable", "8")


@pytest.mark.skipif(find_spec("uv") is None, reason="pip has installed this environment, by its own settings")
def test_pip_tells_what_uv_could_not_install() -> None:
    words = [sys.executable, INSTALL, "./nowhere"]
    done = subprocess.run(words, env=only(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip takes the place of uv, which failed: " in done.stderr
    assert "ERROR: Invalid requirement: './nowhere'" in done.stderr
