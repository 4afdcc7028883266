from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from common.errors import RunError
from common.tools.download import fetch
from tests.support.jobs import command

CONTENT = np.random.default_rng(8).bytes(300_000)
FILES = {"a.gz": hashlib.sha256(CONTENT).hexdigest()}


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /good/, breaks off once at /broken/, ignores ranges at /whole/, falsifies at /wrong/."""

    requests: list[tuple[str, str | None]]
    broke = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted_range = self.headers.get("Range")
        self.server.requests.append((self.path, wanted_range))
        mirror = self.path.split("/")[1]
        if mirror == "missing":
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", wanted_range)[0]) if wanted_range and mirror != "whole" else 0
        body = (CONTENT[::-1] if mirror == "wrong" else CONTENT)[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mirror == "broken" and not self.server.broke:
            self.server.broke = True
            body = body[:100_000]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def mirrors(server: Server, *names: str) -> list[str]:
    return [f"http://127.0.0.1:{server.server_port}/{name}" for name in names]


def test_a_file_is_downloaded_once_and_then_left_alone(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(tmp_path / "data", FILES, mirrors(server, "good"), progress=False)
    assert (tmp_path / "data" / "a.gz").read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.gz"]


def test_a_mirror_that_lacks_or_falsifies_the_file_is_passed_over(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path, FILES, mirrors(server, "missing", "wrong", "good"), progress=False)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path, FILES, mirrors(server, "broken"), progress=False)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    (_, first), (_, second) = server.requests
    assert first is None
    assert second is not None
    assert int(re.findall(r"\d+", second)[0]) > 0


def test_what_an_interrupted_run_left_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".a.gz.partial").write_bytes(CONTENT[:1234])
    fetch(tmp_path, FILES, mirrors(server, "good"), progress=False)
    assert server.requests == [("/good/a.gz", "bytes=1234-")]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_asked_again_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".a.gz.partial").write_bytes(CONTENT[:1234])
    fetch(tmp_path, FILES, mirrors(server, "whole"), progress=False)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT[:-1])
    fetch(tmp_path, FILES, mirrors(server, "good"), progress=False)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_without_any_good_mirror_one_line_names_the_bundled_set(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a.gz .*2 mirrors.*--data digits"):
        fetch(tmp_path / "data", FILES, mirrors(server, "missing", "wrong"), progress=False)
    assert not list(tmp_path.iterdir())


def test_offline_the_command_exits_with_1_and_one_line(tmp_path: Path) -> None:
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = command("python", "-m", "common.tools.download", "--data-root", tmp_path, cwd=tmp_path, **closed)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--data digits" in done.stderr
