from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.augmented import write_mnist
from bench.cost_model import Cell, CostModel, FitSize, UnitCost
from bench.ranks import FIT, run
from bench.scaling import add_speedups
from common.data.decode import PixelFormat
from common.data.sources import open_labelled
from tests.support.jobs import command
from tests.support.places import DATA, ROOT

MPI_RIDGE = """
import sys
from bench import harness, mpi_ridge
mpi_ridge.DATA, mpi_ridge.ROUNDS = ("--data", "digits"), 1
mpi_ridge.TILES = [None, mpi_ridge.Tile(512, 40)]
sys.exit(harness.main("", mpi_ridge.measure))
"""

SPREAD = """
import sys
from bench import spread
spread.DATA, spread.ROUNDS = ("--data", "digits", "--features", "random:1000", "--lambdas", "1,100"), 1
sys.exit(spread.main())
"""

GRID = "--ranks 2 --threads 1,2 --cores 2 --repeats 1 --images 900 --each 300"


def test_the_mpi_benchmark_measures_everything_and_writes_it_down(tmp_path: Path) -> None:
    done = command("python", "-c", MPI_RIDGE, "--json", "mpi.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "mpi.json").read_text())
    assert len(result["measured"]["rounds"]) == 5
    assert len(result["measured"]["tiles"]) == 4
    assert len(result["claims"]) == 3
    assert all(claim["claim"] in done.stdout for claim in result["claims"])
    assert [path.name for path in tmp_path.iterdir()] == ["mpi.json"]


def test_the_benchmark_of_tiles_finds_the_same_on_one_rank_and_on_two(tmp_path: Path) -> None:
    done = command("python", "-c", SPREAD, "--json", "spread.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "spread.json").read_text())
    claims = {claim["claim"]: claim for claim in result["claims"]}
    assert len(claims) == 7
    assert claims["executors have the counts of ranks"]["holds"]
    assert claims["different fingerprints and counts"]["value"] == 1
    assert claims["relative residual of a system"]["holds"]


def test_the_published_pattern_finds_what_the_jobs_find(tmp_path: Path) -> None:
    words = ["mpiexec", "-n", "3", "python", ROOT / "bench" / "published_ridge.py", "--quiet"]
    published = json.loads(command(*words, cwd=tmp_path).stdout)
    done = command("python", ROOT / "spark_jobs" / "serial.py", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0
    ours = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert published["correct"] == max(ours["validation_correct"])
    assert published["best_lambda"] == ours["best_lambda"]


@pytest.mark.mnist
def test_the_scaling_benchmark_draws_every_cell(tmp_path: Path) -> None:
    words = ["python", "-m", "bench.scaling", *GRID.split(), "--json", "scaling.json", "--folder", "figures"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), IMAGE_DATA_ROOT=str(DATA))
    assert done.returncode == 0, done.stderr[-4000:]
    measured = json.loads((tmp_path / "scaling.json").read_text())["measured"]
    cells = {(c["problem"], c["ranks"], c["threads"]): c for c in measured["cells"] if c["problem"] != "alone"}
    assert len(cells) == 4 + 3
    assert len(measured["cells"]) == 4 + 3 + 3  # and the growing problem at all its sizes on one rank
    assert cells["growing", 2, 2]["images"] == 1200
    for cell in cells.values():
        assert cell["oversubscribed"] == (cell["ranks"] * cell["threads"] > 2)
        parts = cell["parallel_s"] + cell["communication_s"] + cell["overhead_s"]
        assert parts == pytest.approx(cell["fit_s"])
        assert min(cell["parallel_s"], cell["communication_s"], cell["overhead_s"]) > -1e-9
        assert cell["fit_s"] < cell["wall_s"]
    assert "2 × 2 oversubscribed" in done.stdout
    assert cells["fixed", 1, 1]["speedup"] == 1
    assert len(measured["elsewhere"]) == 4
    assert all(set(phases) == set(FIT) for phases in measured["elsewhere"].values())
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["scaling_amdahl.png", "scaling_heat_maps.png"]  # and the images are gone
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in figures)


def test_speedups_are_against_one_rank_at_the_same_problem() -> None:
    cells = [
        {"problem": "fixed", "ranks": 1, "threads": 1, "images": 8, "fit_s": 4.0},
        {"problem": "fixed", "ranks": 2, "threads": 2, "images": 8, "fit_s": 2.0},
        {"problem": "alone", "ranks": 1, "threads": 1, "images": 8, "fit_s": 6.0},
        {"problem": "growing", "ranks": 4, "threads": 1, "images": 8, "fit_s": 2.0},
    ]
    add_speedups(cells)
    assert [cell["speedup"] for cell in cells] == [1, 2, 1, 3]
    assert [cell["efficiency"] for cell in cells] == [1, 0.5, 1, 0.75]


def test_the_cost_model_finds_the_constants_that_made_the_measurements() -> None:
    truth = CostModel(UnitCost(2e-11, 0.2), UnitCost(4e-11, 0.5), UnitCost(1e-11, 0.1), 1e-9, 2e-5, 2e-10)
    grid = [(1, 1), (1, 2), (1, 4), (2, 1), (4, 1)]
    problems = [FitSize(n, 784, 10, 10) for n in (10_000, 80_000)]
    cells = [Cell(p, r, t, truth.phases(p, r, t)) for p in problems for r, t in grid]
    sums = [(8, 2 * truth.alpha), (1 << 25, 2 * truth.alpha + (1 << 25) * truth.beta)]
    found = CostModel.fitted(cells, sums)
    for problem in problems:
        for ranks, threads in [*grid, (16, 2), (64, 8)]:
            assert found.seconds(problem, ranks, threads) == pytest.approx(
                truth.seconds(problem, ranks, threads), 0.05
            )
    assert found.product.serial == pytest.approx(0.2)
    assert found.system.serial == pytest.approx(0.5)


def test_the_cost_model_follows_the_arithmetic() -> None:
    product, system, score = UnitCost(2e-11, 0.0), UnitCost(4e-11, 0.0), UnitCost(1e-11, 0.0)
    model = CostModel(product, system, score, 0.0, 0.0, 0.0)  # free messages
    small, large = FitSize(10_000, 784, 10, 10), FitSize(40_000, 784, 10, 10)
    assert model.phases(large, 1, 1)["moments"] == pytest.approx(4 * model.phases(small, 1, 1)["moments"])
    assert model.phases(small, 4, 2)["moments"] == pytest.approx(model.phases(small, 1, 1)["moments"] / 8)
    assert model.phases(small, 10, 1)["path"] == pytest.approx(model.phases(small, 1, 1)["path"] / 10)
    assert model.on(1e-3, 0).seconds(small, 2, 1) > model.seconds(small, 2, 1)
    assert model.on(1e-3, 0).seconds(small, 1, 1) == model.seconds(small, 1, 1)


@pytest.mark.mnist
def test_a_grown_mnist_begins_as_mnist_does(tmp_path: Path) -> None:
    write_mnist(DATA, 60_500, tmp_path)
    train, test = open_labelled("mnist", tmp_path, PixelFormat())[:2]
    original = open_labelled("mnist", DATA, PixelFormat()).train
    assert len(train) == 60_500
    assert test is not None
    assert len(test) == 10_000
    items = np.array([0, 59_999])
    assert np.array_equal(train.reader.read(items).pixels, original.reader.read(items).pixels)
    assert np.array_equal(train.labels[60_000:], original.labels[:500])


def test_a_job_that_fails_raises_an_error_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="unrecognized arguments: --nope"):
        run(2, ROOT / "mpi_jobs" / "ridge_data_parallel.py", "--nope")


CNN = """
import sys
from bench import cnn, harness
cnn.CASES = {"many": cnn.TrainingCase("small", 8, 20_000, 4, rounds=2, steps=1)}
cnn.EPOCHS, cnn.ROUNDS, cnn.RANKS = 2, 1, (2, 3)
cnn.HANDS, cnn.SIDE = sys.argv.pop(1), 16
sys.exit(harness.main("", cnn.measure))
"""


def test_the_cnn_benchmark_measures_everything_and_writes_it_down(tmp_path: Path, folder_of_images: Path) -> None:
    words = ["python", "-c", CNN, f"folder:{folder_of_images}", "--json", "cnn.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "cnn.json").read_text())
    ways = {"shared", "messages", "alone", "exchange alone", "ddp", "ddp tuned", "ddp sharded", "published"}
    for ranks in ("2", "3"):
        rounds = result["measured"]["steps"]["many"][ranks]
        assert set(rounds) == ways
        assert all(second > 0 for seconds in rounds.values() for second in seconds)
    assert len(result["claims"]) == 2 * 4 + 1 + 1
    assert all(claim["claim"] in done.stdout for claim in result["claims"])


def test_one_rank_is_compared_with_plain_torch(tmp_path: Path) -> None:
    """The benchmark does this on a GPU; here it runs on the processor."""
    case = json.dumps({"network": "small", "side": 8, "n_classes": 10, "batch": 4, "rounds": 2, "steps": 1})
    words = ["mpiexec", "-n", "1", "python", ROOT / "bench" / "cnn_rank.py", case]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"plain", "ours"}


PREDICT = """
import sys
from pathlib import Path
from bench import harness, predict
predict.DATA, predict.SIDE, predict.RATIOS = Path(sys.argv.pop(1)), 16, ("1",)
sizes = predict.Sizes(photographs=0, hands=1, published=2, epochs=1, small=40_000, rounds=1, sweeps=1)
sys.exit(harness.main("", lambda: predict.measure(sizes)))
"""


def test_the_prediction_benchmark_measures_everything(tmp_path: Path, folder_of_images: Path) -> None:
    folder_of_images.rename(folder_of_images.parent / "hands")
    words = ["python", "-c", PREDICT, folder_of_images.parent, "--json", "predict.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "predict.json").read_text())
    (found,) = result["measured"]["rates"].values()
    assert {"plain", "fast", "published", "DataLoader, fp32", "bound, plain"} <= set(found["rates"])
    assert all(rate > 0 for rates in found["rates"].values() for rate in rates)
    assert found["images"] == 60
    assert result["measured"]["memory"]["rows"] == 40_000
    assert len(result["claims"]) == 4 + 1 + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hands", "predict.json"]
