from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import DATA, ROOT

SMALL = """
import sys
from dataclasses import replace
from bench import features
spec = "patches:4+landmarks:60"
features.CASES = {
    name: replace(case, spec=case.spec if case.network else spec, accuracy=0.5, beside=("--epochs", "1"))
    for name, case in features.CASES.items()
}
large = features.CASES["mnist-large"]
features.CASES["mnist-large"] = replace(large, images="digits", network=("--network", "medium", "--epochs", "2"))
features.LIMIT_S, features.PATIENCE = 200, 1000
raise SystemExit(features.main())
"""


@pytest.mark.hands
def test_the_benchmark_of_features_measures_a_set_and_writes_it_down(tmp_path: Path) -> None:
    words = ["python", "-c", SMALL, "hands", "--json", "out.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), IMAGE_DATA_ROOT=str(DATA))
    assert done.returncode == 0, done.stderr[-4000:]
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert [run["features"]["spec"] for run in measured["runs"]] == ["patches:4+landmarks:60"] * 2
    assert measured["runs"][0]["moments_sha256"] != measured["runs"][1]["moments_sha256"]
    assert measured["others"]["small network"]["test_accuracy"] > 0
    for kernel, least in (("RBFSampler", 0.3), ("Nystroem", 0.5)):  # of 60 features; a guess is right in 0.1
        assert measured["others"][kernel]["test_accuracy"] > least
    assert "hands: least test accuracy" in done.stdout


def test_the_benchmark_of_a_network_in_front_of_the_ridge_classifier(tmp_path: Path) -> None:
    words = ["python", "-c", SMALL, "mnist-large", "--seed", "1", "--json", "out.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    (run,) = json.loads((tmp_path / "out.json").read_text())["measured"]["runs"]
    assert run["features"]["spec"].startswith("network:")
    assert (run["seed"], run["n_features"]) == (1, 128)
    assert run["seconds"]["train network"] > run["seconds"]["moments"] > 0
    assert "seconds in all" in done.stdout


def test_the_benchmark_of_products_compares_them(tmp_path: Path) -> None:
    small = "import sys; from bench import features; features.IMAGES = 600; raise SystemExit(features.main())"
    done = command("python", "-c", small, "moments", "--json", "out.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    products = json.loads((tmp_path / "out.json").read_text())["measured"]["products"]
    assert {product["d"] for product in products} == {784, 4096}
    assert all(product["ratio"] > 0 for product in products)
