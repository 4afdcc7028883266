from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from common.report.plots import accuracy_over_lambda
from tests.support.jobs import metrics_of, serial


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    done = serial("--out", folder / "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_report_needs_nothing_beside_it(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert 'src="data:image/' in page
    assert len(page) < 1_000_000


def test_axes_are_labelled_in_figures_and_not_in_markup(run_folder: Path) -> None:
    for figure in (run_folder / "figures").glob("*.svg"):
        texts = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text())
        assert texts
        assert not [text for text in texts if "$" in text or "\\" in text], figure


@pytest.mark.parametrize(
    ("lambdas", "expected"),
    [
        ([1e-5, 1e-3, 1e-1, 10, 1e3, 1e5], ["10⁻⁵", "10⁻³", "10⁻¹", "10¹", "10³", "10⁵"]),
        ([0, 1, 10, 100], ["0", "10⁰", "10¹", "10²"]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([1e-5, 1e-4], ["10⁻⁵", "10⁻⁴"]),
    ],
)
def test_lambdas_are_labelled_by_powers_or_numbers(lambdas: list[float], expected: list[str]) -> None:
    figure = accuracy_over_lambda(lambdas, [0.9] * len(lambdas), lambdas[-1], 0.9).decode()
    texts = re.findall(r"<text[^>]*>([^<]+)<", figure)
    assert texts[: texts.index("λ")] == expected


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_every_figure(run_folder: Path, browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((run_folder / "report.html").as_uri())
    metrics = metrics_of(run_folder)

    def images(selector: str) -> list[list[int]]:
        """Return the natural and the shown width of each image; a broken image has a natural width of 0."""
        found: list[list[int]] = browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(i => [i.naturalWidth, i.clientWidth])",
            selector,
        )
        return found

    for selector, count in (("#accuracy", 1), ("#confusion", 1), ("#weights img", 10), ("#mistakes img", None)):
        found = images(selector)
        assert found, selector
        assert count is None or len(found) == count
        assert all(natural > 0 and shown > 20 for natural, shown in found), selector
    n_wrong = round((1 - metrics["test_accuracy"]) * metrics["images"]["test"])
    assert len(images("#mistakes img")) == min(n_wrong, 24)
    assert "taken for" in browser.execute_script(
        "return document.querySelector('#mistakes figcaption').textContent"
    )

    bars = browser.execute_script("return [...document.querySelectorAll('#time .bar')].map(b => b.clientWidth)")
    assert len(bars) == len(metrics["seconds"]) - 2  # without the total and the time of the report itself
    assert max(bars) > 50
    text = browser.execute_script("return document.body.innerText")
    assert f"{metrics['test_accuracy']:.4f}" in text
    assert f"{metrics['macro_f1']:.4f}" in text
    assert "spark_jobs/serial.py" in shlex.split(metrics["command"])[1]
    assert metrics["command"] in text
    # the page does not scroll sideways
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
