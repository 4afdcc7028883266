from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.atomic import write_atomically
from common.errors import InputError, RunError
from common.run.folder import RunFolder
from tests.support.jobs import metrics_of, serial


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(TypeError), write_atomically(tmp_path / "a") as file:
        file.writelines([b"half", None])
    assert not list(tmp_path.iterdir())
    with write_atomically(tmp_path / "a") as file:
        file.write(b"whole")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_run_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "x")
    with pytest.raises(TypeError), folder.written() as staging:
        (staging / "half").write_text(None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "run").mkdir()  # an empty folder may be named
    with folder.written() as staging:
        (staging / "file").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "file").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        RunFolder(tmp_path, "x")
    with pytest.raises(InputError, match="not an empty folder"):
        RunFolder(tmp_path / "file", "x")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(tmp_path / "file" / "run", "x")


def test_runs_of_the_same_second_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    folders = [RunFolder(None, "job") for _ in range(3)]
    for i, folder in enumerate(folders):
        with folder.written() as staging:
            (staging / "file").write_text(str(i))
    assert [folder.path.name for folder in folders] == ["job-now", "job-now-2", "job-now-3"]
    assert [(folder.path / "file").read_text() for folder in folders] == ["0", "1", "2"]


def test_an_empty_folder_behind_a_link_is_filled(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with RunFolder(tmp_path / "link", "x").written() as staging:
        (staging / "file").write_text("")
    assert (tmp_path / "link" / "file").exists()


def test_what_could_not_be_written_in_the_end_is_refused_in_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="too long"):
        RunFolder(tmp_path / ("n" * 256), "x")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder(Path("/proc/run"), "x")
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "volume")
    with pytest.raises(InputError, match="mount point"):
        RunFolder(tmp_path / "volume", "x")
    with RunFolder(tmp_path / ("n" * 255), "x").written() as staging:
        (staging / "file").write_text("")


def test_a_folder_that_can_be_written_no_more_is_one_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "in" / "run", "run")
    (tmp_path / "in").write_text("in the way")
    with pytest.raises(RunError, match=r"--out .*/in/run: cannot be written \(.+\)"), run.written():
        pass
    run = RunFolder(tmp_path / "run", "run")

    def fill_the_disk() -> None:
        with run.written() as folder:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        fill_the_disk()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_folder_is_for_whom_the_umask_says(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "x").written() as staging:
        (staging / "file").write_text("")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_run_folder_holds_what_it_should(tmp_path: Path) -> None:
    done = serial("--out", tmp_path / "run", "--lambdas", "0,1,100", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {
        path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    assert files == {
        "metrics.json",
        "model.npz",
        "model.json",
        "report.html",
        "figures/accuracy_over_lambda.svg",
        "figures/confusion.svg",
    }
    metrics = metrics_of(tmp_path / "run")
    expected = {
        "job",
        "engine",
        "data",
        "images",
        "shape",
        "classes",
        "penalty",
        "lambdas",
        "validation_correct",
        "validation_accuracy",
        "best_lambda",
        "test_accuracy",
        "macro_f1",
        "seconds",
        "workers",
        "threads",
        "seed",
        "versions",
        "command",
    }
    assert expected <= set(metrics)
    assert metrics["lambdas"] == [0, 1, 100]
    assert metrics["seed"] == 3
    assert metrics["seconds"]["total"] >= sum(v for k, v in metrics["seconds"].items() if k != "total") * 0.99
    assert metrics["test_accuracy"] > 0.9
    json.dumps(metrics, allow_nan=False)
