"""HDFS as a file system of Arrow's, by hdfs-native or by Hadoop's own library."""

from __future__ import annotations

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
        from hdfs_native.fsspec import HdfsFileSystem
    except ImportError:
        try:
            found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(location)
        except OSError as error:
            raise OSError(f"{error}; pip install hdfs-native") from error
        return found

    class Replacing(HdfsFileSystem):
        """Renames a file to the name of another, which it replaces at once."""

        def mv(self, path1: str, path2: str, **_: object) -> None:
            self.client.rename(self._strip_protocol(path1), self._strip_protocol(path2), True)

    address = urlsplit(location)
    try:
        Client(f"{HDFS}{address.netloc}", FIRST_TRY).get_file_info("/")
        handler = fs.FSSpecHandler(Replacing(address.hostname, address.port, skip_instance_cache=True))
    except Exception as error:  # of classes of its own
        raise OSError(str(error) or type(error).__name__) from error
    return fs.PyFileSystem(handler), address.path
