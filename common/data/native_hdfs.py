"""HDFS by hdfs-native, which needs no Java. Names are taken as they are, and no error is hidden."""

from __future__ import annotations

from typing import Any

from hdfs_native.fsspec import HdfsFileSystem


class NativeHdfs(HdfsFileSystem):
    """A file system of fsspec's, for Arrow.

    fsspec's own methods take whatever may not be read for missing, and cut names at # and ?.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.client: Any = _Asking(self.client)

    def _open(self, *arguments: Any, **settings: Any) -> Any:
        return _Asking(super()._open(*arguments, **settings))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/") or "/"

    def isfile(self, path: str) -> bool:
        """Return True if there is a file of this name."""
        return self._type(path) == "file"

    def exists(self, path: str, **_: object) -> bool:
        """Return True if there is a file of this name.

        Arrow asks this of a name that is no folder, and takes True for a file. A folder may have appeared since.
        """
        return self.isfile(path)

    def isdir(self, path: str) -> bool:
        """Return True if there is a folder of this name."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def find(self, path: str, maxdepth: int | None = None, **_: object) -> dict[str, Any]:
        """Return what is below a folder, by name, at most so many levels down."""
        entries: list[Any] = self.ls(path, detail=True)
        found = {entry["name"]: entry for entry in entries}
        deeper = maxdepth is None or maxdepth > 1
        for folder in [name for name, entry in found.items() if deeper and entry["type"] == "directory"]:
            found |= self.find(folder, None if maxdepth is None else maxdepth - 1)
        return found

    def mv(self, path1: str, path2: str, **_: object) -> None:
        """Rename a file to the name of another, which it replaces at once."""
        self.client.rename(path1, path2, True)


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
                return list(answer) if name == "list_status" else answer  # which asks for page after page
            except RuntimeError as error:
                kind = FileNotFoundError if "LeaseExpiredException" in str(error) else OSError
                raise kind(str(error).partition("\\n")[0]) from error

        return ask
