"""Every command of README, tutorial, how-to pages and API page, as it stands there: one workflow per page.

Ridge jobs of most pages run in this process and share its Spark session, with the words that stand on the page:
each spark-submit costs seconds. README, the page about clusters and the pages that change code start processes.
"""

from __future__ import annotations

import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.herbarium import herbarium
from tests.support.jobs import environment
from tests.support.places import DATA, ROOT

pytestmark = pytest.mark.spark

PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ROOT / "docs" / "reference" / "api.md",
    ROOT / "CONTRIBUTING.md",
]


BLOCK = re.compile(r'^```(sh|python|diff)(?: title="(.*?)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)


class Step(NamedTuple):
    """A command line, or a block of Python or of changes to files.

    Attributes:
        kind: "sh", "python" or "diff".
        text: what stands on the page.
        title: the file to write, of Python that belongs into one.
    """

    kind: str
    text: str
    title: str


def steps(page: Path) -> list[Step]:
    """Return the steps that a page tells its readers to take, in order."""
    found = []
    for kind, title, text in BLOCK.findall(page.read_text()):
        if kind == "sh":
            found += [Step(kind, re.sub(r"\s+#.*", "", line), "") for line in text.splitlines()]
        else:
            found.append(Step(kind, text, title))
    return found


def commands(page: Path) -> list[str]:
    return [step.text for step in steps(page) if step.kind == "sh"]


COMMANDS = [line for page in PAGES for line in commands(page)]

ELSEWHERE = {
    "make test": "is what runs this",
    "make check": "is what runs the fast tests beside this",
    "make docs": "tests/docs/test_site.py builds the site",
    "spark-submit spark_jobs/outer.py": "tests/spark_jobs runs it, and looks at what comes of it",
    "make lint": "tests/project/test_project.py runs each of its commands",
    "mpiexec -n 4 python mpi_jobs/train_cnn.py": "tests/mpi_jobs runs it, and looks at what comes of it",
    "python -m bench.ridge --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.features moments --check": "takes minutes: tests/bench runs the same code on fewer images",
    "python -m bench.features mnist --check": "takes minutes: tests/bench runs the same code on another set",
    "python mpi_jobs/train_cnn.py --epochs 2 --out runs/small": "tests/common/test_export trains such a network",
    "python -m common.export runs/small small.pt2 --format torch": "tests/common/test_export writes such a file",
    "python -m bench.estimators rows --check": "takes minutes: tests/bench runs the same code on fewer rows",
    "python -m bench.estimators memory --check": "takes minutes: tests/bench runs the same code on fewer rows",
    "python -m bench.estimators spark --check": "takes minutes: tests/bench runs the same code on fewer rows",
    "python -m bench.scale --check": "takes minutes: tests/bench runs the same code on fewer images",
    "python -m bench.globs --check": "takes minutes: tests/bench runs the same code on fewer images",
    "python -m bench.strategy --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.mpi_ridge --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.spread --check": "takes minutes: tests/bench runs the same code on fewer images",
    "mpiexec -n 2 python mpi_jobs/train_cnn.py --data folder:my-images --network efficientnet-lite0 --pretrained "
    "--head ridge --freeze 1 --backbone-lr 0.3 --image-size 96 --epochs 3 --lr 0.001 --out runs/tuned": (
        "tests/mpi_jobs runs it with smaller images"
    ),
    "python spark_jobs/serial.py --data folder:my-images --features network:runs/tuned --out runs/tuned-ridge": (
        "tests/mpi_jobs runs it after that"
    ),
    "mpiexec -n 4 python mpi_jobs/predict_cnn.py --model runs/deep --data folder:week2 --top 3 --scores "
    "--out runs/deep-in-ranks": "tests/spark_jobs/test_network_features.py runs it with a smaller network",
    "python -m bench.embeddings --check": "takes minutes: tests/bench runs the same code on fewer images",
    "mpiexec -n 4 python mpi_jobs/predict_cnn.py --model runs/plants --data herbarium:my-challenge "
    "--profile runs/profile/profile.json --fast": "tests/mpi/test_pipeline.py predicts by a profile, and fast",
    "mpiexec -n 2 python mpi_jobs/train_cnn.py --data herbarium:my-flora --network resnet18 --image-size 96 "
    "--epochs 2 --out runs/resnet": "tests/mpi_jobs/test_train_cnn.py trains that network, on other images",
    "python -m bench.cnn --check": "takes minutes: tests/bench runs the same code on tiny networks",
    "python -m bench.predict --check": "takes minutes: tests/bench runs the same code on fewer images",
    'make emr-deploy JOB=gram ARGS="--data mnist"': "asks AWS: tests/emr runs it on a stand-in",
    'make emr-deploy TARGET=serverless JOB=gram ARGS="--data mnist"': "asks AWS: tests/emr runs one on a stand-in",
    **dict.fromkeys(
        [line for line in COMMANDS if line.startswith("aws iam")],
        "asks AWS: tests/emr makes the role on a stand-in, from the same files",
    ),
    **dict.fromkeys(
        [line for line in COMMANDS if line.startswith("python -m emr deploy")],
        "asks AWS: tests/emr runs both jobs on a stand-in",
    ),
    "spark-submit spark_jobs/gram.py --features random:1000 --whole 1 --lambdas 1,10 --out runs/in-tiles": (
        "tests/spark_jobs/test_tiles.py runs it, and looks at what comes of it"
    ),
    "mpiexec -n 4 python mpi_jobs/train_cnn.py --data parquet:tables/mine --out runs/network": (
        "tests/mpi/test_cnn_tables.py trains on a table, and looks at what comes of it"
    ),
    "mpiexec -n 4 python mpi_jobs/predict_cnn.py --model runs/network --data parquet:tables/week2 "
    "--out runs/week2-by-network": "tests/mpi/test_pipeline.py predicts a table",
    "python spark_jobs/serial.py --data folder:photos --labels labels.csv --group-column patient --size 24x36 "
    "--grey": "tests/common/test_label_files.py runs it, and looks at what comes of it",
    "spark-submit spark_jobs/gram.py --data parquet:tables/mine --folds 5 --add-moments mine.npz "
    "--drop-class cedar --save-moments fewer.npz --out runs/fewer": (
        "tests/spark_jobs/test_dropping.py runs it, and looks at what comes of it"
    ),
    "make bench-scaling": "takes minutes: tests/bench runs the same code on fewer images",
}
NEEDS_MNIST = {'make run JOB=gram ARGS="--data mnist"'}
SHARED = {"python -m common.tools.make_herbarium folder:my-images my-challenge", ". .venv/bin/activate"}
"""Commands with which more than one page begins."""

AS_TYPED = {"README", "CONTRIBUTING", "docs/how-to/spark-cluster"}
"""Pages whose jobs are all started as typed."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources beside the environment that is already there."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("common", "spark_jobs", "mpi_jobs", "emr", "bench", "docs", "tests", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if not part.name.startswith(".ready"):
            (folder / ".venv" / part.name).symlink_to(part)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for ready in (".ready", *(f".ready-{extra}" for extra in extras)):
        (folder / ".venv" / ready).touch()  # newer than what it is made from: make has nothing to set up
    return folder


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 12
    assert set(ELSEWHERE) <= set(COMMANDS)
    assert set(COMMANDS) >= NEEDS_MNIST
    for master, n in (("spark", 1), ("yarn", 2)):  # tests/spark_jobs and tests/hadoop run them
        assert sum(line.startswith(f"spark-submit --master {master}") for line in COMMANDS) == n
    assert sum(line.startswith("sbatch") for line in COMMANDS) == 4  # tests/mpi_jobs runs them


def test_no_two_pages_run_the_same_command() -> None:
    """Each page makes what it needs, and no page repeats the commands of another, except the shared ones."""
    pages = Counter(line for page in PAGES for line in set(commands(page)) if is_run(line))
    assert {line for line, count in pages.items() if count > 1} <= SHARED


def is_run(line: str) -> bool:
    """Return True if this module runs a command, and not a test elsewhere."""
    return line not in ELSEWHERE and not line.startswith(("spark-submit --master", "sbatch"))


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


RIDGE_JOB = re.compile(r"(spark-submit|python) (spark_jobs/\w+\.py) [^|>&;]*$")


def runs_here(page: Path) -> bool:
    """Return True if the ridge jobs of a page run in this process."""
    return page_name(page) not in AS_TYPED and not any(step.kind == "diff" or step.title for step in steps(page))


def needs_spark(page: Path) -> bool:
    """Return True if jobs of Spark run in this process."""
    found = [RIDGE_JOB.match(step.text) for step in steps(page) if step.kind == "sh" and is_run(step.text)]
    return runs_here(page) and any(job and job[1] == "spark-submit" for job in found)


WITH_STEPS = [page for page in PAGES if any(step.kind != "sh" or is_run(step.text) for step in steps(page))]


@pytest.mark.parametrize("page", [page for page in WITH_STEPS if needs_spark(page)], ids=page_name)
def test_a_page_works_from_top_to_bottom_in_one_session(
    page: Path, spark: Any, checkout: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_through(page, checkout, folder_of_images, monkeypatch)


@pytest.mark.parametrize("page", [page for page in WITH_STEPS if not needs_spark(page)], ids=page_name)
def test_a_page_works_from_top_to_bottom(
    page: Path, checkout: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_through(page, checkout, folder_of_images, monkeypatch)


def work_through(page: Path, checkout: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all steps of a page."""
    monkeypatch.setenv("IMAGE_DATA_ROOT", str(DATA))
    here = runs_here(page)
    for step in steps(page):
        if step.kind == "sh" and is_run(step.text):
            if step.text not in NEEDS_MNIST or (DATA / "mnist").is_dir():
                bring_images(step.text, checkout, folder_of_images)
                if here and RIDGE_JOB.match(step.text):
                    look(step.text, run_here(step.text, checkout), checkout)
                else:
                    run_command(step.text, checkout)
        elif step.kind == "python" and step.title:
            (checkout / step.title).write_text(step.text)
        elif step.kind == "python":
            succeeds([sys.executable, "-c", step.text], checkout)
        elif step.kind == "diff":
            succeeds(
                ["git", "apply", "--recount", "-"],
                checkout,
                step.text,
                GIT_CEILING_DIRECTORIES=str(checkout.parent),
            )
    if NEEDS_MNIST & set(commands(page)) and not (DATA / "mnist").is_dir():
        pytest.skip("MNIST is not there: make data, or set IMAGE_DATA_ROOT; all other commands were run")


def succeeds(
    words: list[str], checkout: Path, text: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in the checkout, on the checkout's own modules."""
    done = run(words, checkout, text, **more)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


def run(words: list[str], checkout: Path, text: str | None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=checkout,
        env=environment(PYTHONPATH=str(checkout), **more),
        input=text or "",
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def run_here(line: str, checkout: Path) -> str:
    """Run a ridge job in this process as if in the checkout, and return what it prints."""
    _, job, *words = shlex.split(line)
    module = importlib.import_module(job.removesuffix(".py").replace("/", "."))
    with redirect_stdout(io.StringIO()) as printed, chdir(checkout):
        assert module.main(words) == 0
    return printed.getvalue()


def bring_images(line: str, checkout: Path, folder_of_images: Path) -> None:
    """Put the images that a command names into the checkout."""
    for name in ("my-images", "week2"):
        if name in line and not (checkout / name).exists():
            shutil.copytree(folder_of_images, checkout / name)
    if "next-week" in line and not (checkout / "next-week").exists():  # other images, and one more class
        for name, source in {"ash": "ash", "beech": "beech", "cedar": "cedar", "larch": "ash"}.items():
            (checkout / "next-week" / name).mkdir(parents=True)
            for path in sorted((folder_of_images / source).iterdir())[::4]:
                shutil.copy2(path, checkout / "next-week" / name / f"next-{path.name}")
    if "my-herbarium" in line and not (checkout / "my-herbarium").exists():
        herbarium(checkout / "my-herbarium")


def run_command(line: str, checkout: Path) -> None:
    """Run a command line as a user does, and look at what it leaves."""
    if line == "make data":  # whether or not this machine has a network: the download itself is tested elsewhere
        offline = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        offline["IMAGE_DATA_ROOT"] = str(checkout / "data")
        done = run(["bash", "-ec", line], checkout, None, **offline)
        assert done.returncode == 2
        assert "--data digits" in done.stderr
        return
    look(line, succeeds(["bash", "-ec", line], checkout).stdout, checkout)


def look(line: str, printed: str, checkout: Path) -> None:
    """Check that what a command says it has written is there."""
    if "spark_jobs/" in line or "mpi_jobs/" in line or "make run" in line:
        report = Path(printed.splitlines()[-1].removeprefix("report: "))
        assert report.is_file()
        assert report.is_relative_to(checkout / ("tables" if "ingest.py" in line else "runs"))
    if line == "make zip":
        assert (checkout / "dist" / "project.zip").is_file()
