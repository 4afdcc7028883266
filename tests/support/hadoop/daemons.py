"""Hadoop's daemons, each a process of its own: NameNode, DataNode, ResourceManager and NodeManagers.

YARN counts memory as on a node of Amazon EMR: a container that takes more than it asked for is killed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from tests.support.hadoop.jars import class_path
from tests.support.java import QUICK_JAVA
from tests.support.ports import free_port

HDFS, YARN = "org.apache.hadoop.hdfs.server", "org.apache.hadoop.yarn.server"
NAME_NODE, DATA_NODE = f"{HDFS}.namenode.NameNode", f"{HDFS}.datanode.DataNode"
CLIENT = "org.apache.hadoop.yarn.client.cli"
LOGS, APPLICATION = f"{CLIENT}.LogsCLI", f"{CLIENT}.ApplicationCLI"
RESOURCE_MANAGER, NODE_MANAGER = f"{YARN}.resourcemanager.ResourceManager", f"{YARN}.nodemanager.NodeManager"

JAVA = (
    *("java", "-Xmx256m", *QUICK_JAVA.split()),
    *("--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED"),
)
"""Java for small servers that are to start soon."""

APPLICATIONS = re.compile(r"\bapplication_\d+_\d+\b")

STATES = re.compile(r"RMAppImpl: (application_\S+) State change from \w+ to (\w+) on event")
"""Matches the lines about states; the JSON of applications leaves out most of them here, and XML is an error."""

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

AWS = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
INHERITED = ("JAVA_HOME", "PATH", "LANG", "HADOOP_CONF_DIR", *AWS)
"""Variables of a NodeManager that its containers get as well; on EMR, PATH and an instance's role do the same."""


@dataclass
class Hadoop:
    """Servers that run.

    Attributes:
        conf: the folder of the clients' configuration, for HADOOP_CONF_DIR.
        web: address of the ResourceManager's web server.
        hdfs: address of HDFS.
        folder: holds the logs, as NAME.log.
        start_node: starts a NodeManager.
        nodes: the NodeManagers.
    """

    conf: Path
    web: str
    hdfs: str
    folder: Path
    start_node: Callable[[int], subprocess.Popen[bytes]]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def driver_log(self, application: str) -> str:
        """Return what the driver of an application that has ended has printed, once it has arrived on HDFS."""
        driver = f"{application.replace('application', 'container')}_01_000001"
        words = [*self.java(LOGS), "-applicationId", application, "-containerId", driver]
        deadline = time.monotonic() + LOGS_S
        while True:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            if driver in done.stdout or time.monotonic() > deadline:
                return done.stdout
            time.sleep(1)

    @property
    def programs(self) -> Path:
        """A folder with the program `yarn`, of which there is what jobs need: `yarn application`."""
        folder = self.folder / "programs"
        if not folder.exists():
            folder.mkdir()
            (folder / "yarn").write_text(f'#!/bin/sh\nexec {shlex.join(self.java(APPLICATION))} "$@"\n')
            (folder / "yarn").chmod(0o755)
        return folder

    def java(self, main_class: str) -> list[str]:
        """Return the words that run one of Hadoop's command lines."""
        return [*JAVA, "-cp", f"{self.conf}{os.pathsep}{class_path()}", main_class]

    def applications(self) -> dict[str, str]:
        """Return the states of all applications by their ids, from the ResourceManager's log."""
        return dict(STATES.findall(self._resources_log()))

    def attempts(self, application: str) -> int:
        """Return how often the driver of an application was started."""
        attempt = application.replace("application", "appattempt")
        return len(set(re.findall(rf"{attempt}_\d+", self._resources_log())))

    def _resources_log(self) -> str:
        return (self.folder / "resources-server.log").read_text(errors="replace")

    def replace_node(self, number: int) -> None:
        """Start a node in the place of one that was lost, and wait until YARN knows both."""
        self.nodes[number] = self.start_node(number)
        self.wait(len(self.nodes))

    def wait(self, n_nodes: int) -> None:
        """Wait until so many nodes have reported to the ResourceManager.

        Raises:
            RuntimeError: they have not in time; the message has the ends of the logs.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(OSError):  # it does not answer yet
                address = f"{self.web}/ws/v1/cluster/metrics"
                request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    if json.load(answer)["activeNodes"] == n_nodes:
                        return
            time.sleep(0.2)
        ends = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))
        raise RuntimeError(f"Hadoop did not start in {START_S} s\n{ends}")

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


def write_configuration(path: Path, properties: Mapping[str, object]) -> None:
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
    core_site: Mapping[str, str]
    yarn_site: Mapping[str, str]
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_port() for _ in range(6)))

    @property
    def hdfs(self) -> str:
        """Address of HDFS."""
        return f"hdfs://127.0.0.1:{self.ports[0]}"

    def write(self, name: str, more: Mapping[str, object] | None = None) -> Path:
        """Write all files into a folder of this name; return it."""
        conf = self.folder / name
        conf.mkdir()
        here, folder = "127.0.0.1", self.folder
        _, resource, scheduler, tracker, admin, web = (f"{here}:{port}" for port in self.ports)
        core = {"fs.defaultFS": self.hdfs, "hadoop.tmp.dir": folder / "tmp", **self.core_site}
        write_configuration(conf / "core-site.xml", core)
        open_ports = ("namenode.http-address", "datanode.address", "datanode.http.address", "datanode.ipc.address")
        disks = {"namenode.name.dir": "names", "datanode.data.dir": "data"}
        hdfs = {
            **{f"dfs.{name}": f"{here}:0" for name in open_ports},
            **{f"dfs.{name}": (folder / disk).as_uri() for name, disk in disks.items()},
            "dfs.replication": 1,
            "dfs.namenode.safemode.extension": 0,
        }
        write_configuration(conf / "hdfs-site.xml", hdfs)
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
            # by default control groups have to do it, which a NodeManager of no root has not
            f"{node}.resource.memory.enforced": "false",
            f"{node}.vmem-check-enabled": "false",
            f"{node}.container-monitor.interval-ms": 1000,  # 3,000 on EMR, where jobs are longer
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
        write_configuration(
            conf / "yarn-site.xml", {**addresses, **limits, **logs, **self.yarn_site, **(more or {})}
        )
        queue = "yarn.scheduler.capacity"
        queues = {f"{queue}.root.queues": "default", f"{queue}.maximum-am-resource-percent": 1}
        queues |= {f"{queue}.root.default.{limit}": 100 for limit in ("capacity", "maximum-capacity")}
        write_configuration(conf / "capacity-scheduler.xml", queues)
        (conf / "log4j.properties").write_text(LOG4J)
        return conf


@contextmanager
def hadoop(
    folder: Path,
    memory_mb: int,
    cores: int,
    environment: Mapping[str, str],
    core_site: Mapping[str, str],
    yarn_site: Mapping[str, str],
    n_nodes: int = 2,
) -> Iterator[Hadoop]:
    """Start the servers; end them all at the end of the block.

    Args:
        folder: a new folder for everything that they write.
        memory_mb: the memory of each node, in MiB.
        cores: the cores of each node.
        environment: the environment of the servers.
        core_site: further settings of file systems.
        yarn_site: further settings of YARN.
        n_nodes: the number of NodeManagers.

    Raises:
        RuntimeError: they do not start in time.
    """
    folder.mkdir()
    configuration = _Configuration(folder, memory_mb, cores, core_site, yarn_site)
    classes, processes = class_path(), list[subprocess.Popen[bytes]]()

    def start(server: str, name: str, conf: Path, *flags: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            words = [*JAVA, "-cp", f"{conf}{os.pathsep}{classes}", server, *flags]
            process = subprocess.Popen(
                words,
                cwd=folder,
                env={**environment, "HADOOP_CONF_DIR": str(conf)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    def start_node(number: int) -> subprocess.Popen[bytes]:
        name = f"node-{number}-{len(processes)}"
        own = {f"yarn.nodemanager.{kind}-dirs": folder / f"{kind}-{number}" for kind in ("local", "log")}
        return start(NODE_MANAGER, name, configuration.write(f"conf-{name}", own))

    conf = configuration.write("conf")
    web = f"http://127.0.0.1:{configuration.ports[-1]}"
    servers = Hadoop(conf, web, configuration.hdfs, folder, start_node)
    try:
        start(NAME_NODE, "format", conf, "-format", "-nonInteractive").wait(START_S)
        for server, name in ((NAME_NODE, "names"), (DATA_NODE, "data"), (RESOURCE_MANAGER, "resources")):
            start(server, f"{name}-server", conf)
        servers.nodes += [start_node(number) for number in range(n_nodes)]
        servers.wait(n_nodes)
        yield servers
    finally:
        for number in range(len(servers.nodes)):
            servers.lose_node(number)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()
