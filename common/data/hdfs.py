"""HDFS as a file system of Arrow's, by hdfs-native or by Hadoop's own library."""

from __future__ import annotations

from typing import Any
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
        """Takes names as they are, # and ? too; a file that is renamed replaces another at once."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.client: Any = _Asking(self.client)  # type: ignore[assignment]

        def _open(self, *arguments: Any, **settings: Any) -> Any:
            return _Asking(super()._open(*arguments, **settings))

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.rstrip("/") or "/"

        # fsspec's own take whatever may not be read for missing, and say nothing
        def isfile(self, path: str) -> bool:
            return self._type(path) == "file"

        def isdir(self, path: str) -> bool:
            return self._type(path) == "directory"

        def _type(self, path: str) -> str | None:
            try:
                return str(self.info(path)["type"])
            except FileNotFoundError:
                return None

        def find(self, path: str, maxdepth: int | None = None, **_: object) -> dict[str, Any]:
            entries: list[Any] = self.ls(path, detail=True)
            found = {entry["name"]: entry for entry in entries}
            deeper = maxdepth is None or maxdepth > 1
            for folder in [name for name, entry in found.items() if deeper and entry["type"] == "directory"]:
                found |= self.find(folder, None if maxdepth is None else maxdepth - 1)
            return found

        def mv(self, path1: str, path2: str, **_: object) -> None:
            self.client.rename(path1, path2, True)

    address = urlsplit(location)
    try:
        Client(f"{HDFS}{address.netloc}", FIRST_TRY).get_file_info("/")
        handler = fs.FSSpecHandler(Replacing(address.hostname, address.port, skip_instance_cache=True))
    except Exception as error:  # of classes of its own
        raise OSError(str(error) or type(error).__name__) from error
    return fs.PyFileSystem(handler), address.path


class _Asking:
    """A client or file whose errors are OSErrors, as those of other file systems are."""

    def __init__(self, asked: Any) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asked, name)
        if not callable(found):
            return found

        def ask(*arguments: Any, **settings: Any) -> Any:
            try:
                answer = found(*arguments, **settings)
                return list(answer) if name == "list_status" else answer  # asks for names one page after another
            except RuntimeError as error:
                kind = FileNotFoundError if "LeaseExpiredException" in str(error) else OSError
                raise kind(str(error).partition("\\n")[0]) from error

        return ask
