from __future__ import annotations

import pytest

from bench.harness import Claim, main, table


def test_a_claim_holds_up_to_its_bound() -> None:
    assert Claim.at_most("x", 1.6, 1.6).holds
    assert not Claim.at_most("x", 1.61, 1.6).holds
    assert Claim.at_least("x", 25, 25).holds
    assert not Claim.at_least("x", 24.9, 25).holds


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (3.0, 1)])
def test_check_fails_if_a_claim_does_not_hold(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--check"])
    assert main("", lambda: ({}, [Claim.at_most("the claim", value, 2)])) == code
    assert "the claim" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["bench"])
    assert main("", lambda: ({}, [Claim.at_most("the claim", value, 2)])) == 0


def test_tables_are_markdown() -> None:
    assert table(["a", "bb"], [["1", "2"]]).splitlines() == ["| a | bb |", "|---|----|", "| 1 | 2  |"]
