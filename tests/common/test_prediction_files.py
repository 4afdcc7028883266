from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, RunError
from common.predict.files import FORMATS, SKIPPED, ParquetFile, PredictionFile, PredictionRows
from common.predict.predictions import RowFormat

NAMES = ("ash", 'be"ech', "żółw,1")
ROW_FORMAT = RowFormat(2, scores=True)
ODD = ["plain.png", 'a,"b"\n.png', "bytes\udcff.png", "żółw.png", "bad\r.png"]


def some_rows(ids: list[str], row_format: RowFormat = ROW_FORMAT) -> PredictionRows:
    """Rows, of which the ones whose ids begin with "bad" belong to skipped images."""
    n = len(ids)
    top = (np.arange(n)[:, None] + np.arange(row_format.top)) % len(NAMES)
    bad = np.array([name.startswith("bad") for name in ids], bool)
    top[bad] = -1
    scores = np.where(bad[:, None], np.nan, 0.5 + np.arange(n)[:, None] / 100) * np.ones((1, row_format.top))
    return PredictionRows(
        ids, top, scores if row_format.scores else None, ["no image" if b else None for b in bad]
    )


def a_file(kind: str, folder: Path, row_format: RowFormat = ROW_FORMAT) -> PredictionFile:
    return PredictionFile.of(kind, folder, row_format, NAMES)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_found_again(tmp_path: Path, kind: str) -> None:
    file = a_file(kind, tmp_path)
    file.write(some_rows(ODD))
    file.write(some_rows(["plain.png", "more.png"]))
    file.close()
    found = a_file(kind, tmp_path).resume()
    assert found == {
        "plain.png": [0, 0],
        'a,"b"\n.png': [1],
        "bytes\\udcff.png": [2],
        "żółw.png": [0],
        "bad\r.png": [-1],
        "more.png": [1],
    }
    assert b"bad\r.png" in (tmp_path / SKIPPED).read_bytes()


def test_a_contests_csv(tmp_path: Path) -> None:
    file = a_file("csv", tmp_path, RowFormat())
    file.write(some_rows(["1", "2", "bad3"], RowFormat()))
    file.close()
    assert (tmp_path / "predictions.csv").read_bytes() == b'Id,Predicted\n1,ash\n2,"be""ech"\nbad3,\n'


def test_wherever_csv_is_cut_whole_rows_stay_and_the_rest_can_follow(tmp_path: Path) -> None:
    file = a_file("csv", tmp_path)
    file.write(some_rows(ODD))
    file.close()
    whole = (tmp_path / "predictions.csv").read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / "predictions.csv").write_bytes(whole[:cut])
        again = a_file("csv", tmp_path)
        written = again.resume()
        left = ODD[sum(map(len, written.values())) :]
        rows = some_rows(ODD)
        some = slice(len(ODD) - len(left), None)
        again.write(
            PredictionRows(
                left, rows.top[some], rows.scores[some] if rows.scores is not None else None, rows.errors[some]
            )
        )
        again.close()
        assert (tmp_path / "predictions.csv").read_bytes() == whole, cut
        assert (tmp_path / SKIPPED).read_bytes().count(b"no image") == 1, cut


def test_reasons_that_are_cut_or_doubled(tmp_path: Path) -> None:
    file = a_file("csv", tmp_path, RowFormat())
    file.write(some_rows(["bad ż", "bad", "bad"], RowFormat()))
    file.close()
    whole = (tmp_path / SKIPPED).read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / SKIPPED).write_bytes(whole[:cut])
        assert len(a_file("csv", tmp_path, RowFormat()).resume()) == 2
    (tmp_path / SKIPPED).write_bytes(whole + whole[whole.index(b"bad") :])
    a_file("csv", tmp_path, RowFormat()).resume()
    assert (tmp_path / SKIPPED).read_bytes() == whole


def test_parts_of_parquet_become_one_file_and_more_can_follow(tmp_path: Path) -> None:
    file = a_file("parquet", tmp_path)
    for name in ("a", "b"):
        file.write(some_rows([name]))
        file.flush()
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "part-00000000.parquet",
        "part-00000001.parquet",
    ]
    (tmp_path / "predictions" / ".part-00000002.parquet.77.partial").write_bytes(b"PAR1")
    killed = a_file("parquet", tmp_path)
    assert set(killed.resume()) == {"a", "b"}
    killed.write(some_rows(["c"]))
    killed.close()
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.column("name").to_pylist() == ["a", "b", "c"]
    assert table.schema.names == ROW_FORMAT.schema().names
    assert not (tmp_path / "predictions").exists()
    more = a_file("parquet", tmp_path)
    assert set(more.resume()) == {"a", "b", "c"}
    more.write(some_rows(["d"]))
    more.close()
    assert pq.read_table(tmp_path / "predictions.parquet").column("name").to_pylist() == ["a", "b", "c", "d"]


def test_a_kill_between_one_file_and_the_end_of_its_parts_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    file = a_file("parquet", tmp_path)
    file.write(some_rows(["a", "b"]))
    file.close()
    monkeypatch.undo()
    assert (tmp_path / "predictions" / "part-00000000.parquet").exists()
    again = ParquetFile(tmp_path, ROW_FORMAT, NAMES)
    assert {name: len(rows) for name, rows in again.resume().items()} == {"a": 1, "b": 1}
    again.write(some_rows(["c"]))
    again.close()
    assert pq.read_table(tmp_path / "predictions.parquet").column("name").to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize("kind", FORMATS)
def test_predictions_of_another_form_or_model_are_refused(tmp_path: Path, kind: str) -> None:
    file = a_file(kind, tmp_path)
    file.write(some_rows(["a", "b"]))
    file.close()
    with pytest.raises(InputError, match="columns"):
        a_file(kind, tmp_path, RowFormat(1)).resume()
    with pytest.raises(InputError, match="no class of this model"):
        PredictionFile.of(kind, tmp_path, ROW_FORMAT, ("oak", "elm", "yew")).resume()


def test_a_foreign_or_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_bytes(b"something else that is long enough, without an end")
    with pytest.raises(InputError, match="no predictions with the columns"):
        a_file("csv", tmp_path).resume()
    (tmp_path / "predictions.csv").write_bytes(b"Id,Predicted,Score,Predicted2,Score2\na\rb,ash,1,ash,1\n")
    with pytest.raises(InputError, match="no predictions"):
        a_file("csv", tmp_path).resume()
    (tmp_path / "predictions.csv").unlink()
    (tmp_path / "predictions.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        a_file("csv", tmp_path).resume()
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="damaged"):
        a_file("parquet", tmp_path).resume()


def test_a_full_disk_is_told_in_one_line_and_what_is_written_stays(tmp_path: Path) -> None:
    file = a_file("csv", tmp_path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # writes beyond it fail, as on a full disk
        file.write(some_rows([f"{number}.png" for number in range(1000)]))
        with pytest.raises(RunError, match=r"cannot be written .*--resume"):
            file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    found = list(a_file("csv", tmp_path).resume())
    assert 0 < len(found) < 1000
    assert found == [f"{number}.png" for number in range(len(found))]
