"""Hadoop's daemons, each a process of its own: NameNode, DataNode, ResourceManager and NodeManagers.

YARN counts memory as on a node of Amazon EMR: a container that takes more than it asked for is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.support.hadoop.jars import class_path

HDFS, YARN = "org.apache.hadoop.hdfs.server", "org.apache.hadoop.yarn.server"
NAME_NODE, DATA_NODE = f"{HDFS}.namenode.NameNode", f"{HDFS}.datanode.DataNode"
LOGS = "org.apache.hadoop.yarn.client.cli.LogsCLI"
RESOURCE_MANAGER, NODE_MANAGER = f"{YARN}.resourcemanager.ResourceManager", f"{YARN}.nodemanager.NodeManager"

JAVA = (
    *("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED"),
)
"""Java for small servers that are to start soon."""

START_S = 90
"""Seconds that all of them may take to start."""

LOGS_S = 20
"""Seconds that the logs of an application may take to arrive on HDFS after its end."""

LOST_S = 10
"""Seconds without a sign of life after which YARN counts a node as lost."""

LOG4J = """
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{HH:mm:ss} %p %c{1}: %m%n
"""

INHERITED = ("JAVA_HOME", "PATH", "LANG", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Variables of a NodeManager that its containers get as well; on EMR, PATH and an instance's role do the same."""


@dataclass
class Hadoop:
    """Servers that run.

    Attributes:
        conf: the folder of the clients' configuration, for HADOOP_CONF_DIR.
        web: address of the ResourceManager's web server.
        nodes: the NodeManagers.
        folder: holds the logs, as NAME.log.
    """

    conf: Path
    web: str
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def ask(self, path: str) -> dict[str, Any]:
        """Return the ResourceManager's answer to a request below /ws/v1/cluster/."""
        address = f"{self.web}/ws/v1/cluster/{path}"
        request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
        return found

    def driver_log(self, application: str) -> str:
        """Return what the driver of an application that has ended has printed, once it has arrived on HDFS."""
        driver = f"{application.replace('application', 'container')}_01_000001"
        words = [*JAVA, "-cp", f"{self.conf}{os.pathsep}{class_path()}", LOGS]
        words += ["-applicationId", application, "-containerId", driver]
        deadline = time.monotonic() + LOGS_S
        while True:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            if driver in done.stdout or time.monotonic() > deadline:
                return done.stdout
            time.sleep(1)

    def lose_node(self, number: int) -> int:
        """Kill a NodeManager and all processes of its containers at once; return the number of the latter."""
        self.nodes[number].kill()
        processes = list(self.processes(number))
        for process in processes:
            with suppress(OSError):  # it has ended
                os.kill(process, signal.SIGKILL)
        return len(processes)

    def processes(self, number: int, word: bytes = b"") -> Iterator[int]:
        """Yield the processes of containers on a node whose command lines have a word."""
        below = self.folder / f"local-{number}"
        for process in Path("/proc").iterdir():
            with suppress(OSError):  # it has ended, or is no process
                if below in (process / "cwd").readlink().parents and word in (process / "cmdline").read_bytes():
                    yield int(process.name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(path: Path, properties: Mapping[str, object]) -> None:
    """Write a file of Hadoop's configuration."""
    entries = (
        f"<property><name>{name}</name><value>{escape(str(value))}</value></property>"
        for name, value in properties.items()
    )
    path.write_text(f"<configuration>{''.join(entries)}</configuration>")


@dataclass(frozen=True)
class _Configuration:
    """The configuration of all servers and clients."""

    folder: Path
    memory_mb: int
    cores: int
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(_free_port() for _ in range(6)))

    def write(self, name: str, more: Mapping[str, object] | None = None) -> Path:
        """Write all files into a folder of this name; return it."""
        conf = self.folder / name
        conf.mkdir()
        here, folder = "127.0.0.1", self.folder
        name_node, resource, scheduler, tracker, admin, web = (f"{here}:{port}" for port in self.ports)
        _write(conf / "core-site.xml", {"fs.defaultFS": f"hdfs://{name_node}", "hadoop.tmp.dir": folder / "tmp"})
        open_ports = ("namenode.http-address", "datanode.address", "datanode.http.address", "datanode.ipc.address")
        disks = {"namenode.name.dir": "names", "datanode.data.dir": "data"}
        hdfs = {
            **{f"dfs.{name}": f"{here}:0" for name in open_ports},
            **{f"dfs.{name}": (folder / disk).as_uri() for name, disk in disks.items()},
            "dfs.replication": 1,
            "dfs.namenode.safemode.extension": 0,
        }
        _write(conf / "hdfs-site.xml", hdfs)
        manager, node = "yarn.resourcemanager", "yarn.nodemanager"
        addresses = {
            f"{manager}.address": resource,
            f"{manager}.scheduler.address": scheduler,
            f"{manager}.resource-tracker.address": tracker,
            f"{manager}.admin.address": admin,
            f"{manager}.webapp.address": web,
            **{f"{node}.{part}address": f"{here}:0" for part in ("", "localizer.", "webapp.")},
        }
        limits = {
            f"{node}.resource.memory-mb": self.memory_mb,
            f"{node}.resource.cpu-vcores": self.cores,
            f"{node}.pmem-check-enabled": "true",
            f"{node}.vmem-check-enabled": "false",
            f"{node}.container-monitor.interval-ms": 300,  # 3,000 on EMR, where jobs are longer
            f"{node}.env-whitelist": ",".join(INHERITED),
            f"{node}.disk-health-checker.max-disk-utilization-per-disk-percentage": 100,
            "yarn.scheduler.minimum-allocation-mb": 32,  # as on EMR
            "yarn.scheduler.maximum-allocation-mb": self.memory_mb,
            "yarn.nm.liveness-monitor.expiry-interval-ms": LOST_S * 1000,
        }
        logs = {
            "yarn.log-aggregation-enable": "true",
            f"{node}.remote-app-log-dir": "/var/log/hadoop-yarn/apps",
        }
        _write(conf / "yarn-site.xml", {**addresses, **limits, **logs, **(more or {})})
        queue = "yarn.scheduler.capacity"
        queues = {f"{queue}.root.queues": "default", f"{queue}.maximum-am-resource-percent": 1}
        queues |= {f"{queue}.root.default.{limit}": 100 for limit in ("capacity", "maximum-capacity")}
        _write(conf / "capacity-scheduler.xml", queues)
        (conf / "log4j.properties").write_text(LOG4J)
        return conf


@contextmanager
def hadoop(
    folder: Path,
    memory_mb: int,
    cores: int,
    environment: Mapping[str, str],
    yarn_site: Mapping[str, str],
    n_nodes: int = 2,
) -> Iterator[Hadoop]:
    """Start the servers; end them all at the end of the block.

    Args:
        folder: a new folder for everything that they write.
        memory_mb: the memory of each node, in MiB.
        cores: the cores of each node.
        environment: the environment of the servers.
        yarn_site: further settings of YARN.
        n_nodes: the number of NodeManagers.

    Raises:
        RuntimeError: they do not start in time.
    """
    folder.mkdir()
    configuration, classes, processes = _Configuration(folder, memory_mb, cores), class_path(), []

    def start(server: str, name: str, conf: Path, *flags: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            words = [*JAVA, "-cp", f"{conf}{os.pathsep}{classes}", server, *flags]
            process = subprocess.Popen(
                words, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        processes.append(process)
        return process

    conf = configuration.write("conf", yarn_site)
    servers = Hadoop(conf, f"http://127.0.0.1:{configuration.ports[-1]}", folder)
    try:
        start(NAME_NODE, "format", conf, "-format", "-nonInteractive").wait(START_S)
        for server, name in ((NAME_NODE, "names"), (DATA_NODE, "data"), (RESOURCE_MANAGER, "resources")):
            start(server, f"{name}-server", conf)
        for number in range(n_nodes):
            own = {f"yarn.nodemanager.{kind}-dirs": folder / f"{kind}-{number}" for kind in ("local", "log")}
            servers.nodes.append(
                start(NODE_MANAGER, f"node-{number}", configuration.write(f"conf-{number}", {**yarn_site, **own}))
            )
        _wait(servers, n_nodes)
        yield servers
    finally:
        for number in range(len(servers.nodes)):
            servers.lose_node(number)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()


def _wait(servers: Hadoop, n_nodes: int) -> None:
    """Wait until all nodes have reported to the ResourceManager.

    Raises:
        RuntimeError: they have not in time; the message has the ends of their logs.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if servers.ask("metrics").get("activeNodes") == n_nodes:
                return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    ends = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(servers.folder.glob("*.log")))
    raise RuntimeError(f"Hadoop did not start in {START_S} s\n{ends}")
