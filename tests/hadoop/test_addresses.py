"""Run folders, moments and files of tables at addresses: on S3 and on HDFS, by real servers."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hdfs_native import Client
from pyarrow import fs

from common.atomic import write_json
from common.data.decode import AS_THEY_ARE
from common.data.native_hdfs import NativeHdfs
from common.data.shipped import seen_by_workers
from common.data.sources.finding import find_matches
from common.data.sources.glob import Glob
from common.data.sources.remote import RemoteTree
from common.data.sources.tree import LocalTree
from common.data.storage import Storage
from common.errors import InputError
from common.ridge.moments_file import SavedMoments
from common.run.flag_types import run_folder
from common.run.folder import RunFolder
from spark_jobs import serial
from tests.support.hadoop.jars import NEEDS, has_maven
from tests.support.hadoop.servers import Servers
from tests.support.moments import BASIS, moments
from tests.support.odd_names import odd_tree
from tests.support.s3 import BUCKET, S3Server

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """A folder on a server.

    Attributes:
        address: its address.
        files: returns the names of the files below a folder in it.
        refuse: makes a folder in it one that this process may not read.
    """

    address: str
    files: Callable[[str], list[str]]
    refuse: Callable[[str], None]


@pytest.fixture(params=["s3", pytest.param("hdfs", marks=pytest.mark.skipif(not has_maven(), reason=NEEDS))])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    name = request.node.name.partition("[")[0]
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3")
        for variable, value in s3.environment.items():
            monkeypatch.setenv(variable, value)

        def keys(folder: str) -> list[str]:
            below = f"{name}/{folder}"
            return [key.removeprefix(below) for key in s3.keys(below) if not key.endswith("/")]

        def wrong_key(_: str) -> None:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

        return Place(f"s3://{BUCKET}/{name}", keys, wrong_key)
    servers: Servers = request.getfixturevalue("servers")
    client = Client(servers.yarn.hdfs)

    def paths(folder: str) -> list[str]:
        below = f"/{name}/{folder}"
        try:
            found = [status.path for status in client.list_status(below, True) if not status.isdir]
        except FileNotFoundError:
            return []
        return sorted(path.removeprefix(below) for path in found)

    def another_user(folder: str) -> None:
        client.set_permission(f"/{name}/{folder}", 0o700)
        monkeypatch.setenv("HADOOP_USER_NAME", "stranger")

    return Place(f"{servers.yarn.hdfs}/{name}", paths, another_user)


@pytest.mark.skipif(not has_maven(), reason=NEEDS)
def test_a_folder_that_appears_while_it_is_listed_is_missing_and_no_file(servers: Servers) -> None:
    """Arrow asks twice, and so a job that looked beside another that wrote could fail."""

    class Late(NativeHdfs):
        def isdir(self, path: str) -> bool:
            found = super().isdir(path)
            self.client.mkdirs(path)
            return found

    at = urlsplit(servers.yarn.hdfs)
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(Late(at.hostname, at.port, skip_instance_cache=True)))
    late = fs.FileSelector("/appears", allow_not_found=True)
    assert filesystem.get_file_info(late) == []
    Client(servers.yarn.hdfs).mkdirs("/appears/folder")
    assert [found.type for found in filesystem.get_file_info(late)] == [fs.FileType.Directory]


def test_a_run_folder_is_uploaded_whole(place: Place) -> None:
    folder = RunFolder(run_folder(f"{place.address}/runs/a/"), "job")
    with folder.written() as staging:
        (staging / "figures").mkdir()
        (staging / "figures" / "z.svg").write_text("z")
        write_json(staging / "metrics.json", {})
        (staging / "report.html").write_text("report")
        assert place.files("runs/a/") == []
    assert sorted(place.files("runs/a/")) == ["figures/z.svg", "metrics.json", "report.html"]
    assert folder.file("report.html") == f"{place.address}/runs/a/report.html"
    with pytest.raises(InputError, match=f"--out {place.address}/runs/a: holds something already; name another"):
        RunFolder(run_folder(f"{place.address}/runs/a"), "job")


def test_a_run_that_fails_leaves_nothing(place: Place) -> None:
    folder = RunFolder(f"{place.address}/runs/b", "job")
    there = []

    def run() -> None:
        with folder.written() as staging:
            folder.shared(staging).write("predictions/0.parquet", b"what a worker wrote")
            there.extend(place.files("runs/b/"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert there == ["predictions/0.parquet"]
    assert place.files("runs/b/") == []


def test_a_job_that_fills_its_folder_piece_by_piece_needs_a_local_one(place: Place) -> None:
    with pytest.raises(InputError, match="this job writes to a folder of this machine; name one"):
        _ = RunFolder(f"{place.address}/runs/c", "job").path


@pytest.mark.parametrize("address", ["s3://no-such-bucket/runs/x", "gopher://somewhere/x", "hdfs://127.0.0.1:9/x"])
def test_a_location_that_cannot_be_reached_is_one_line(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    for variable, value in s3.environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=r"\S+: cannot be reached \([^\n]+\)") as raised:
        RunFolder(address, "job")
    assert "\n" not in str(raised.value)


def test_a_file_is_replaced_at_once(place: Place) -> None:
    """A reader finds the old content or the new one, and never none: HDFS by itself replaces nothing."""
    storage, seen, done = Storage.at(place.address), set[bytes](), threading.Event()
    storage.write("a/b", b"0")
    problems: list[Exception] = []

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(storage.read("a/b"))
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 12):
        storage.write("a/b", f"{i}".encode())
    done.set()
    reader.join()
    assert not problems
    assert len(seen) > 1
    assert storage.read("a/b") == b"11"


def test_a_file_whose_writing_fails_leaves_nothing(place: Place) -> None:
    storage = Storage.at(place.address)
    storage.write("a/b", b"0")

    def fail() -> None:
        with storage.writing("a") as file:
            file.stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert storage.names("a") == ["a/b"]
    assert storage.names("none") == []
    with pytest.raises(FileNotFoundError):
        storage.read("a/c")


def test_a_job_writes_to_an_address(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert serial.main(["--quiet", "--out", f"{place.address}/runs/serial"]) == 0
    assert capsys.readouterr().out == f"report: {place.address}/runs/serial/report.html\n"
    assert {"metrics.json", "model.npz", "model.json", "report.html"} <= set(place.files("runs/serial/"))


def test_moments_at_an_address_equal_those_in_a_file(place: Place, tmp_path: Path) -> None:
    before = SavedMoments(BASIS, moments(60), frozenset({"a"}))
    before.save(f"{place.address}/moments/a.npz")
    before.save(tmp_path / "a.npz")
    there, here = SavedMoments.load(f"{place.address}/moments/a.npz"), SavedMoments.load(tmp_path / "a.npz")
    assert there.basis == here.basis == before.basis
    for fold, expected in here.moments.items():
        assert np.array_equal(there.moments[fold].gram, expected.gram)
    with pytest.raises(InputError, match=r"no such file; gram\.py --save-moments"):
        SavedMoments.load(f"{place.address}/moments/none.npz")


FOUND = (
    "*/*",
    "**",
    "*",
    "**/*.png",
    "oak/*",
    "{o,_}*/*.JPEG",
    r"oak/\[1\]*",
    "[^o]*/[a-s]*",
    "*/.hidden/*",
    "x*",
)


def test_globs_find_and_read_what_they_do_on_this_machine(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = odd_tree(tmp_path)
    found: dict[str, Path] = {}
    for path in tree.root.rglob("*"):
        name = path.relative_to(tree.root).as_posix()
        strange = ":" in name and place.address.startswith("hdfs")  # HDFS has no such names
        linked = name.startswith(("oak/linked", "oak/loop"))
        if path.is_file() and not linked and not strange and name.isprintable() and "\\" not in name:
            found[name] = path
    here = tmp_path / "here"
    for name, path in found.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, here / name)
    storage = Storage.at(f"{place.address}/a b%20é")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write(name, found[name].read_bytes()), found))
    for pattern in FOUND:
        local, remote = find_matches(LocalTree(here), pattern), find_matches(RemoteTree(storage), pattern)
        assert remote == local, pattern
    local, remote = (Glob.of(f"{root}/*/*").open(AS_THEY_ARE).train for root in (here, storage))
    assert remote.classes == local.classes
    expected, read = local.reader.read(local.items), remote.reader.read(remote.items)
    assert np.array_equal(read.pixels, expected.pixels)
    assert read.skipped == expected.skipped
    assert len(expected.kept) > 50
    monkeypatch.setattr("common.data.sources.remote.SMALL_BYTES", 300)  # of which some are larger
    twice = Glob.of(f"{place.address}//{storage.location.rpartition('/')[2]}//*/*").open(AS_THEY_ARE).train
    assert np.array_equal(pickle.loads(pickle.dumps(twice.reader)).read(twice.items).pixels, expected.pixels)  # noqa: S301


def test_a_glob_that_cannot_be_read_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=rf"{place.address}/nowhere/\*: no file matches it"):
        Glob.of(f"{place.address}/nowhere/*").open(AS_THEY_ARE)
    Storage.at(f"{place.address}/one").write("1.png", b"")
    tree = RemoteTree(Storage.at(f"{place.address}/one"))
    gone, empty = tree.contents(["gone.png", "1.png"])
    assert (str(gone), empty) == ("No such file or directory", b"")
    Storage.at(place.address).write("private/1.png", b"")
    place.refuse("private")
    reason = r"ACCESS_DENIED|SIGNATURE|AccessControlException"
    with pytest.raises(InputError, match=rf"private/\*: .*({reason}).*; make it readable") as caught:
        Glob.of(f"{place.address}/private/*").open(AS_THEY_ARE)
    assert "\n" not in str(caught.value)
    # an image that may not be read is no damaged image: the others are not read either
    with pytest.raises(OSError, match=reason):
        list(RemoteTree(Storage.at(f"{place.address}/private")).contents(["1.png"]))


def test_addresses_of_this_machine_are_paths(tmp_path: Path) -> None:
    for address in (f"file:{tmp_path}", f"file://{tmp_path}", f"file://localhost{tmp_path}/"):
        assert Storage.at(address) == Storage.at(str(tmp_path))


def test_shipped_files_are_found_below_the_working_directory_of_each_process() -> None:
    assert seen_by_workers(Path("shipped-photos/ash")) == Path("shipped-photos/ash")
    assert seen_by_workers(Path("photos/shipped-ash")) == Path("photos/shipped-ash").absolute()
    assert seen_by_workers(Path("~/photos")).is_absolute()
