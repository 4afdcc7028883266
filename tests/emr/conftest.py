from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def _small_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the archive of packages by a small file. Making a real one takes seconds and is tested elsewhere."""
    monkeypatch.chdir(tmp_path)

    def small(folder: Path, python: str, architecture: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "deps.tar.gz").write_bytes(b"small")
        return folder / "deps.tar.gz"

    monkeypatch.setattr("emr.plan.dependencies_archive", small)
