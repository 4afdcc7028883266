"""The page that compares runs, on runs of real jobs and in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from common.report.runs import find_runs, read_runs
from spark_jobs import serial
from tests.support.jobs import command, metrics_of, run_main
from tests.support.places import ROOT

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them in a folder below, and one that is being written."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    for name, features in (("plain", "pixels"), ("random", "random:100"), ("deep er/ü & <b>", "patches:4")):
        run_main(serial.main, folder / name, "--features", features, "--lambdas", "1,100")
    shutil.copytree(folder / "plain", folder / ".unfinished")
    for i, name in enumerate(("plain", "random", "deep er/ü & <b>")):
        os.utime(folder / name / "metrics.json", (1e9 + i * 1e6,) * 2)
    return folder


def compare(*words: str | Path, cwd: Path) -> Any:
    return command(sys.executable, "-m", "common.compare", *words, cwd=cwd)


def shown(page: Path) -> list[dict[str, Any]]:
    """Return what a page holds."""
    text = page.read_text()
    data = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    found: list[dict[str, Any]] = json.loads(data)
    return found


def test_runs_are_found_below_folders_and_read(runs: Path) -> None:
    found, problems = read_runs(find_runs([runs]))
    assert problems == []
    assert [run.name for run in found] == ["deep er/ü & <b>", "random", "plain"]  # the latest first
    for run in found:
        metrics = metrics_of(run.folder)
        assert (run.accuracy, run.macro_f1, run.lambda_) == tuple(
            metrics[key] for key in ("test_accuracy", "macro_f1", "best_lambda")
        )
        assert run.confusion is not None
        right = sum(n for truth, predicted, n in run.confusion if truth == predicted)
        assert right / sum(n for *_, n in run.confusion) == run.accuracy
        assert run.rate == metrics["images"]["train"] / metrics["seconds"]["total"]
    assert [run.model for run in found] == ["patches:4", "random:100", "pixels"]
    alone, _ = read_runs(find_runs([runs / "plain"]))
    assert [run.name for run in alone] == ["plain"]
    both, _ = read_runs(find_runs([runs / "plain", runs / "deep er"]))
    assert sorted(run.name for run in both) == ["deep er/ü & <b>", "plain/plain"]


def test_old_runs_and_damaged_ones(runs: Path, tmp_path: Path) -> None:
    """Runs of earlier versions have no confusion; a file that is cut off is named, and others are shown."""
    shutil.copytree(runs / "plain", tmp_path / "old")
    metrics = metrics_of(tmp_path / "old")
    del metrics["confusion"]
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.json").write_text('{"job": "seri')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "metrics.json").write_text("[]")
    (tmp_path / "old" / "report.html").unlink()
    done = compare(".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 runs, 2 could not be read: compare.html\n"
    assert sorted(line.split(": ")[1] for line in done.stderr.splitlines()) == [
        "cut/metrics.json",
        "list/metrics.json",
    ]
    (old,) = shown(tmp_path / "compare.html")
    assert (old["name"], old["link"], old["confusion"]) == ("old", None, None)


def test_runs_that_diverged_and_runs_that_are_named_twice(runs: Path, tmp_path: Path) -> None:
    """NaN is no JSON, and would leave the page empty."""
    metrics = metrics_of(runs / "plain")
    for name, changed in (("nan", {"macro_f1": float("nan")}), ("huge", {"test_accuracy": float("inf")})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics | changed))
    done = compare(".", "nan", tmp_path / "huge", "--out", "page.html", cwd=tmp_path)
    assert done.stdout == "2 runs: page.html\n", done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "NaN" not in text.split('id="data">')[1].split("</script>")[0]
    found = {Path(run["name"]).name: run for run in shown(tmp_path / "page.html")}
    assert found["nan"]["macro_f1"] is None
    assert found["huge"]["accuracy"] is None
    inside = compare(".", cwd=runs / "plain")
    assert inside.returncode == 0
    assert [run["name"] for run in shown(runs / "plain" / "compare.html")] == ["plain"]
    (runs / "plain" / "compare.html").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "compare: nowhere: no such folder; name a folder with run folders in it\n"),
        (["empty"], "compare: empty: no run folder is there; run a job first\n"),
        (["plain", "--out", "no/such/page.html"], "compare: --out no/such/page.html: cannot be written"),
    ],
)
def test_bad_folders_are_one_line(runs: Path, words: list[str], message: str) -> None:
    (runs / "empty").mkdir(exist_ok=True)
    done = compare(*words, cwd=runs)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_job_writes_the_page_when_it_is_done(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "plain", tmp_path / "before")
    flags = ("--features", "random:50", "--lambdas", "1,100", "--compare")
    run_main(serial.main, tmp_path / "new", *flags, str(tmp_path))
    assert f"comparison of 2 runs: {tmp_path / 'compare.html'}\n" in capsys.readouterr().out
    assert {run["name"] for run in shown(tmp_path / "compare.html")} == {"before", "new"}
    (tmp_path / "before" / "metrics.json").write_text("{")
    run_main(serial.main, tmp_path / "newer", *flags, str(tmp_path))
    said = capsys.readouterr()
    assert f"comparison of 2 runs: {tmp_path / 'compare.html'}\n" in said.out
    assert "before/metrics.json: cannot be read" in said.err
    run_main(serial.main, tmp_path / "newest", *flags, str(tmp_path / "nowhere"))
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert (tmp_path / "newest" / "report.html").is_file()


def logged(folder: Path) -> dict[str, Path]:
    """Return the folders of runs in a folder of MLflow's, by their names."""
    found = {}
    for path in folder.glob("[0-9]*/*/meta.yaml"):
        (name,) = (line.partition(": ")[2] for line in path.read_text().splitlines() if "run_name" in line)
        found[name] = path.parent
    return found


def test_runs_are_logged_to_mlflow_once(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "runs" / "plain")
    trained = {"epochs": [{"loss": 2.5, "n": 3}, {"loss": float("nan")}], "recipe": {"lr": 0.5, "batch": 8}}
    changed = metrics_of(runs / "random") | trained
    (tmp_path / "runs" / "random").mkdir()
    (tmp_path / "runs" / "random" / "metrics.json").write_text(json.dumps(changed))
    done = compare("runs", "--mlflow", "mlruns", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2 runs logged to mlruns, 0 were there\n")
    found = logged(tmp_path / "mlruns")
    assert set(found) == {"plain", "random"}
    plain, metrics = found["plain"], metrics_of(runs / "plain")
    assert (plain / "params" / "data").read_text() == "digits"
    assert (plain / "params" / "model").read_text() == "pixels"
    assert (plain / "params" / "images.test").read_text() == "359"
    values = [line.split()[1:] for line in (plain / "metrics" / "validation_accuracy").read_text().splitlines()]
    assert [(float(value), int(step)) for value, step in values] == [
        (accuracy, step) for step, accuracy in enumerate(metrics["validation_accuracy"])
    ]
    (accuracy,) = (plain / "metrics" / "test_accuracy").read_text().splitlines()
    assert float(accuracy.split()[1]) == metrics["test_accuracy"]
    copied = {path.relative_to(plain / "artifacts") for path in (plain / "artifacts").rglob("*")}
    assert copied == {path.relative_to(runs / "plain") for path in (runs / "plain").rglob("*")}
    (loss,) = (found["random"] / "metrics" / "epoch.loss").read_text().splitlines()
    assert loss.split()[1:] == ["2.5", "1"]
    assert (found["random"] / "params" / "batch").read_text() == "8"
    # one was interrupted, and is logged again
    meta = found["random"] / "meta.yaml"
    meta.write_text(meta.read_text().replace("status: 3", "status: 1"))
    again = compare("runs", "--mlflow", "mlruns", cwd=tmp_path)
    assert again.stdout.endswith("1 runs logged to mlruns, 1 were there\n"), again.stderr
    stages = [
        (path / "meta.yaml").read_text().count("lifecycle_stage: active") for path in meta.parent.parent.glob("*/")
    ]
    assert sum(stages) == 2


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("http://127.0.0.1:9", 1, "API request to http://127.0.0.1:9"),
        ("sqlite:///runs.db", 2, "give the http:// address of a tracking server, or a folder\n"),
        ("/proc/mlruns", 1, "No such file or directory\n"),
    ],
)
def test_places_where_mlflow_cannot_log_are_one_line(
    runs: Path, tmp_path: Path, uri: str, code: int, message: str
) -> None:
    done = compare(runs, "--out", tmp_path / "page.html", "--mlflow", uri, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(f"compare: --mlflow {uri}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "page.html").is_file()


def test_without_mlflow_a_line_says_what_brings_it(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError")
    words = (sys.executable, "-m", "common.compare", runs, "--out", tmp_path / "page.html", "--mlflow", "mlruns")
    done = command(*words, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stderr) == (
        2,
        "compare: --mlflow: MLflow is not installed; make setup PARTS=mlflow\n",
    )


def test_links_lead_from_wherever_the_page_is(runs: Path, tmp_path: Path) -> None:
    done = compare(runs, "--out", tmp_path / "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from urllib.parse import unquote

    for run in shown(tmp_path / "page.html"):
        assert (tmp_path / unquote(run["link"])).resolve() == runs / run["name"] / "report.html"
    text = (tmp_path / "page.html").read_text()
    assert "https://" not in text
    assert "http://" not in text


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_sorts_filters_plots_and_compares(runs: Path, browser: Any, width: int) -> None:
    assert compare(runs, cwd=runs.parent).returncode == 0
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((runs / "compare.html").as_uri())

    def names() -> list[str]:
        found: list[str] = browser.execute_script(
            "return [...document.querySelectorAll('#runs tbody tr td:first-child')].map(d => d.textContent)"
        )
        return found

    def click(column: str) -> None:
        browser.execute_script(
            "[...document.querySelectorAll('#runs th button')].find(b => b.textContent === arguments[0]).click()",
            column,
        )

    assert names() == ["deep er/ü & <b>", "random", "plain"]
    click("run")
    assert names() == ["deep er/ü & <b>", "plain", "random"]
    click("run")
    assert names() == ["random", "plain", "deep er/ü & <b>"]
    by_accuracy = sorted(shown(runs / "compare.html"), key=lambda run: -run["accuracy"])
    click("accuracy")
    assert names() == [run["name"] for run in by_accuracy]
    for plot in ("over-time", "over-cost"):
        assert browser.execute_script(f"return document.querySelectorAll('#{plot} circle').length") == 3
    browser.find_element("id", "filter").send_keys("serial random")
    assert names() == ["random"]
    assert browser.execute_script("return document.getElementById('count').textContent") == "1 of 3"
    assert browser.execute_script("return document.querySelectorAll('#over-time circle').length") == 1
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    rows = browser.execute_script(
        "const rows = [...document.querySelectorAll('#difference tbody tr')];"
        "return rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    first, second = (
        next(run for run in by_accuracy if run["name"] == name) for name in ("deep er/ü & <b>", "random")
    )
    counts = [{(t, p): n for t, p, n in run["confusion"]} for run in (first, second)]
    differ = {pair for pair in counts[0] | counts[1] if counts[0].get(pair, 0) != counts[1].get(pair, 0)}
    assert len(rows) == min(20, len(differ))
    truth, predicted, ours, theirs, difference = rows[0]
    pair = int(truth), int(truth if predicted == "itself" else predicted)
    assert (int(ours), int(theirs)) == (counts[0].get(pair, 0), counts[1].get(pair, 0))
    assert difference == f"{'+' if int(ours) > int(theirs) else '−'}{abs(int(ours) - int(theirs))}"
    assert browser.get_log("browser") == []
    browser.execute_script("document.querySelector('#runs tbody a').click()")
    assert browser.current_url == (runs / "random" / "report.html").as_uri()


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_hundreds_of_runs(runs: Path, tmp_path: Path, browser: Any, width: int) -> None:
    metrics = metrics_of(runs / "plain")
    for i in range(500):
        (tmp_path / f"run-{i:03}").mkdir()
        own = {**metrics, "test_accuracy": 0.5 + i / 1001, "seconds": {"total": 1 + i}}
        (tmp_path / f"run-{i:03}" / "metrics.json").write_text(json.dumps(own))
    done = compare(tmp_path, cwd=tmp_path)
    assert done.stdout == f"500 runs: {tmp_path / 'compare.html'}\n"
    assert (tmp_path / "compare.html").stat().st_size < 2_000_000
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "compare.html").as_uri())
    assert browser.execute_script("return document.querySelectorAll('#runs tbody tr').length") == 500
    assert browser.execute_script("return document.querySelectorAll('#over-cost circle').length") == 500
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.find_element("id", "filter").send_keys("run-49")
    assert browser.execute_script("return document.querySelectorAll('#runs tbody tr').length") == 10
