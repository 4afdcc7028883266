"""The Python versions of Amazon EMR's releases, according to its release guide."""

from __future__ import annotations

import re

from common.errors import InputError

PYTHONS = (
    (r"emr-spark-8\.\d+\.\d+", ("3.11", "3.12", "3.13")),
    (r"emr-7\.0\.\d+", ("3.9",)),
    (r"emr-7\.\d+\.\d+", ("3.9", "3.11")),
)
"""Pattern of releases, and the versions of Python that they have."""

MIN_PYTHON = (3, 11)
"""The oldest version that this project runs on."""


def check_python(release: str, python: str) -> None:
    """Check that a release has this version of Python, and that the version is new enough.

    Raises:
        InputError: it has not, or is not; the message lists the versions.
    """
    if not re.fullmatch(r"\d+\.\d+", python):
        raise InputError(f"python {python!r}: give major and minor version, such as 3.11")
    has = next((pythons for pattern, pythons in PYTHONS if re.fullmatch(pattern, release)), None)
    if has is None:
        raise InputError(f"release {release!r}: use emr-spark-8.0.0, or emr-7.1.0 and later")
    fitting = [version for version in has if tuple(map(int, version.split("."))) >= MIN_PYTHON]
    if not fitting:
        raise InputError(f"release {release}: its Python is {', '.join(has)}, and 3.11 is needed; use a later one")
    if python not in fitting:
        raise InputError(f"release {release} has Python {', '.join(has)}: python {python} cannot be used")
