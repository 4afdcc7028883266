"""HDFS as a file system of Arrow's, by hdfs-native or by Hadoop's own library."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pyarrow import fs

HDFS = "hdfs://"

LIBHDFS = "hdfs"
"""Arrow's name for the file system of Hadoop's own library."""

FIRST_TRY = {"dfs.client.failover.max.attempts": "2"}
"""Settings for the first request: an address where nobody answers is told in seconds. Later ones take minutes."""


def hdfs(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address, and the path on it.

    hdfs-native needs no Java. Without it, Arrow takes Hadoop's libhdfs, for which HADOOP_HOME and CLASSPATH must
    be set. Both read the configuration in HADOOP_CONF_DIR, whose default file system has addresses without a host.

    Raises:
        OSError: there is neither, or the configuration has no such name.
        ValueError: this is no address.
    """
    try:
        from hdfs_native import Client

        from common.data.native_hdfs import NativeHdfs
    except ImportError:
        try:
            found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(location)
        except OSError as error:
            raise OSError(f"{error}; pip install hdfs-native") from error
        return found

    address = urlsplit(location)
    if "SPARK_USER" in os.environ:  # in containers of YARN, whose processes may belong to another
        os.environ.setdefault("HADOOP_USER_NAME", os.environ["SPARK_USER"])
    try:
        Client(f"{HDFS}{address.netloc}", FIRST_TRY).get_file_info("/")
        handler = fs.FSSpecHandler(NativeHdfs(address.hostname, address.port, skip_instance_cache=True))
    except Exception as error:  # of classes of its own
        raise OSError(str(error) or type(error).__name__) from error
    return fs.PyFileSystem(handler), address.path
