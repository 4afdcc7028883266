"""SeaweedFS, a real S3 server on this machine: listings in pages, ranges, multipart uploads, signed requests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.ports import free_port

PROGRAM = Path(sys.executable).with_name("weed")
KEY, SECRET, REGION = "tester", "not-a-secret", "eu-west-1"
START_S = 60
"""Seconds that the server may take to start."""

BUCKET = "data"

UPLOADS = 16
"""Files that are uploaded at the same time."""

REQUESTS = re.compile(r'(?m)^SeaweedFS_s3_request_total\{.*?type="(\w+)".*?\} (\S+)$')
"""Matches the counters of requests."""

NO_OTHERS = ("-s3.port.iceberg=0", "-s3.port.lance=0")
"""Keeps servers away that would have ports of their own."""


@dataclass(frozen=True)
class S3Server:
    """A server that runs.

    Attributes:
        endpoint: its address.
        metrics: the address of its counters.
        log: what it prints.
    """

    endpoint: str
    metrics: str
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables for processes that use the server as if it were Amazon S3."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def hadoop(self) -> dict[str, str]:
        """Settings of Hadoop's S3 file system, which takes the place of EMR's for s3:// too."""
        return {
            "fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
            "fs.s3a.endpoint": self.endpoint,
            "fs.s3a.endpoint.region": REGION,
            "fs.s3a.access.key": KEY,
            "fs.s3a.secret.key": SECRET,
            "fs.s3a.path.style.access": "true",
        }

    def client(self) -> Any:
        """Return a client of the server."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(retries={"max_attempts": 1}),
        )

    def upload(self, folder: Path, prefix: str) -> None:
        """Upload all files below a folder."""
        client = self.client()

        def put(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())

        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(put, [path for path in sorted(folder.rglob("*")) if path.is_file()]))

    def requests(self) -> Counter[str]:
        """Return how many requests of each kind there have been, such as "GET" and "LIST"."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:  # noqa: S310
            found = REQUESTS.findall(answer.read().decode())
        total = Counter[str]()
        for kind, n in found:
            total[kind] += int(float(n))
        return total

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects with a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server with one empty bucket; end it at the end of the block, with all that it holds.

    Args:
        folder: a new folder for everything that it writes but its log, which is kept beside it.

    Raises:
        RuntimeError: it does not start in time; the message has the end of its log.
    """
    folder.mkdir()
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    servers = ("master", "volume", "filer", "s3")
    # ports of their own for gRPC, which would otherwise be 10,000 higher, if there are such
    ports = {f"{name}.{port}": free_port() for name in servers for port in ("port", "port.grpc")}
    ports["metricsPort"] = free_port()
    # volumes of 64 MB each: when none has room, every PUT is an InternalError
    words = [PROGRAM, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-volume.max=64"]
    words += ["-master.volumeSizeLimitMB=64", "-filer", "-s3", *NO_OTHERS, f"-s3.config={folder / 's3.json'}"]
    log = folder.with_name(f"{folder.name}.log")  # beside the folder, and so still there after a failure
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, words), *(f"-{name}={port}" for name, port in ports.items())],
            cwd=folder,
            env={**os.environ, "WEED_S3_SSE_KEY": "encrypts objects that ask for it"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    here = "http://127.0.0.1"
    server = S3Server(f"{here}:{ports['s3.port']}", f"{here}:{ports['metricsPort']}/metrics", log)
    try:
        _wait(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)  # it would take long over SIGTERM
        process.wait()
        shutil.rmtree(folder)


def _wait(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server has made a bucket.

    Raises:
        RuntimeError: it has not in time.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.client().create_bucket(Bucket=BUCKET)
            server.client().put_object(Bucket=BUCKET, Key="started", Body=b"")
            server.client().delete_object(Bucket=BUCKET, Key="started")
        except (BotoCoreError, ClientError) as error:
            if "BucketAlready" not in str(error):
                time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"SeaweedFS did not start in {START_S} s\n{server.log.read_text()[-3000:]}")
