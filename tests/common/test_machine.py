from __future__ import annotations

from pathlib import Path

import pytest

from common import machine


@pytest.mark.parametrize(
    ("limit", "expected"), [("1048576\n", 1 << 20), ("max\n", None), (str(1 << 60), None), (None, None)]
)
def test_the_memory_is_that_of_the_container_if_it_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int | None
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "memory.max")
    whole = machine.memory_bytes()
    assert whole > 1 << 28
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert machine.memory_bytes() == (expected or whole)
