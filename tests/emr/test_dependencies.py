"""The archive of packages: its contents, and the archives that are refused."""

from __future__ import annotations

import io
import re
import sys
import tarfile
from pathlib import Path

import pytest

from common.errors import InputError
from emr.dependencies import archive_name, check_archive, dependencies_archive, platforms, requirements
from emr.tarball import pack
from tests.support.jobs import command
from tests.support.places import ROOT


def archive(path: Path, *entries: tuple[str, str] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1].encode()))
    return path


def wheel(tag: str) -> tuple[str, str]:
    return "numpy-2.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n"


def link(name: str, to: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    return entry


@pytest.mark.parametrize(
    "tag",
    ["cp311-cp311-manylinux_2_28_x86_64", "cp38-abi3-manylinux_2_17_x86_64", "py3-none-any", "py2.py3-none-any"],
)
def test_wheels_that_fit(tmp_path: Path, tag: str) -> None:
    check_archive(archive(tmp_path / "a.tar.gz", wheel(tag), ("numpy/__init__.py", "")), "3.11", "x86_64")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            wheel("cp312-cp312-manylinux_2_28_x86_64"),
            "is for cp312-cp312-manylinux_2_28_x86_64, not for Python 3.11",
        ),
        (wheel("cp311-cp311-manylinux_2_28_aarch64"), "not for x86_64"),
        (wheel("cp311-cp311-macosx_14_0_arm64"), "not for x86_64"),
        (link("bin/python", "/usr/bin/python3"), "bin/python is no regular file"),
        (link("numpy", "elsewhere"), "numpy is no regular file"),
        (("/etc/passwd", "x"), "/etc/passwd would be unpacked outside its folder"),
        (("numpy/../../x", "x"), "would be unpacked outside its folder"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(
    tmp_path: Path, entry: tuple[str, str] | tarfile.TarInfo, message: str
) -> None:
    path = archive(tmp_path / "a.tar.gz", ("numpy/__init__.py", ""), entry)
    with pytest.raises(InputError, match=re.escape(message)):
        check_archive(path, "3.11", "x86_64")


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", ("numpy/__init__.py", "x" * 100_000))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        check_archive(path, "3.11", "x86_64")


def test_the_name_depends_on_the_ingredients() -> None:
    names = {archive_name(python, kind) for python in ("3.11", "3.12") for kind in ("x86_64", "aarch64")}
    assert len(names) == 4
    assert "manylinux_2_34_x86_64" in platforms("x86_64")
    assert not any("2_35" in tag for tag in platforms("x86_64"))  # newer than the cluster's C library


@pytest.mark.slow
def test_real_wheels_for_this_python(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The archive has everything that jobs import; test_end_to_end.py runs them with nothing else."""
    python = "{}.{}".format(*sys.version_info[:2])
    made = dependencies_archive(ROOT / "dist" / "emr", python, "x86_64")
    with tarfile.open(made) as tar:
        names = tar.getnames()
        assert all(entry.isfile() for entry in tar)
    tops = {name.partition("/")[0].partition("-")[0].lower() for name in names}
    assert {re.split("[><=]", name)[0].replace("-", "_") for name in requirements()} <= tops | {"scikit_learn"}
    assert "pyspark" not in tops
    assert not any("/tests/" in name or name.endswith(".pyc") for name in names)


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    made = []
    for i in range(2):
        (tmp_path / "file").write_text("content")
        with (tmp_path / f"{i}.tar.gz").open("wb") as file:
            pack(file, {"a/file": tmp_path / "file"}, 1)
        made.append((tmp_path / f"{i}.tar.gz").read_bytes())
    assert made[0] == made[1]


def test_a_package_without_a_wheel_for_the_cluster_is_an_error_of_one_line(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from emr.dependencies import _install; _install(pathlib.Path('t'), '2.7', 'x86_64')"
    )
    done = command(sys.executable, "-c", script, cwd=tmp_path, PIP_NO_INDEX="1")
    assert "RunError: pip cannot install the packages for Python 2.7 on x86_64: ERROR" in done.stderr
