"""A job's flags on this machine and on the cluster."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from common.errors import InputError
from common.run.flag_types import ValueRole
from common.run.parser import DESCRIBE
from emr import settings
from emr.inputs import JobFlags, JobInputs


def of(job: str, *words: str) -> JobInputs:
    return JobInputs.of(job, words, Path("data"))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/mnist/a.gz", "data/other/b", "photos/ash/1.png", "photos/.hidden/2.png", "photos/.x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize(
    "words",
    [
        ["--data", "digits"],
        ["--data=parquet:s3://bucket/table", "--folds", "5", "--grey"],
        ["--lambdas", "-5:5:10", "--penalty", "mean"],
        ["--save-moments", "s3://bucket/m.npz", "--add-moments", "s3://bucket/n.npz"],
    ],
)
def test_what_is_on_s3_or_needs_no_file_passes_through(words: list[str]) -> None:
    inputs = of("gram", *words)
    assert inputs.shipped == []
    assert " ".join(inputs.words).replace("=", " ") == " ".join(words).replace("=", " ")


NEW_JOB = """
from common.run.flag_types import output_location, source_spec
from common.run.parser import Parser

parser = Parser()
parser.add_argument("source", metavar="SOURCE", type=source_spec)
parser.add_argument("destination", metavar="DEST", type=output_location)
parser.add_argument("--new-switch", action="store_true")
parser.add_argument("--new-value")
parser.parse_arguments(None)
"""


def test_a_switch_that_is_new_to_a_job_does_not_swallow_the_word_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.py").write_text(NEW_JOB)
    monkeypatch.setattr("emr.inputs.JOBS", tmp_path)
    inputs = of("new", "--new-switch", "folder:photos", "s3://bucket/table", "--new-value", "7")
    assert inputs.words == ["folder:shipped-photos", "s3://bucket/table", "--new-switch", "--new-value=7"]
    with pytest.raises(InputError, match="new: --newer is none of its flags"):
        of("new", "--newer", "folder:photos", "s3://bucket/table")


ROLES = {
    "--data": ValueRole.SOURCE,
    "--labels": ValueRole.INPUT,
    "--test-data": ValueRole.SOURCE,
    "--test-labels": ValueRole.INPUT,
    "--validation-data": ValueRole.SOURCE,
    "--validation-labels": ValueRole.INPUT,
    "SOURCE": ValueRole.SOURCE,
    "DEST": ValueRole.OUTPUT,
    "--classes": ValueRole.INPUT,
    "--add-moments": ValueRole.INPUT,
    "--forget": ValueRole.INPUT,
    "--subtract-moments": ValueRole.INPUT,
    "--save-moments": ValueRole.OUTPUT,
    "--out": ValueRole.RUN_FOLDER,
    "--compare": ValueRole.RUN_FOLDER,
    "--model": ValueRole.MODEL,
    "--data-root": ValueRole.DATA_ROOT,
    "--features": ValueRole.FEATURES,
}


@pytest.mark.parametrize("job", settings.JOBS)
def test_jobs_say_which_of_their_flags_name_files(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DESCRIBE, "1")
    with pytest.raises(SystemExit):
        import_module(f"spark_jobs.{job}").main([])
    found = JobFlags.of(capsys.readouterr().out)
    flags = [*found.flags.values(), *found.positional]
    assert {flag.name: flag.role for flag in flags if flag.role != ValueRole.PLAIN}.items() <= ROLES.items()
    assert not {flag.name for flag in flags if flag.role == ValueRole.PLAIN} & set(ROLES)


def test_mnist_travels_alone() -> None:
    inputs = of("gram", "--data", "mnist", "--limit", "9")
    assert inputs.words == ["--data-root=shipped-data", "--data=mnist", "--limit=9"]
    assert [each.files for each in inputs.shipped] == [{"mnist/a.gz": Path("data/mnist/a.gz")}]
    assert of("gram", "--data-root", "data", "--data=mnist").words == inputs.words[:2]


def test_a_folder_travels_without_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "data" / "other")
    inputs = of("gram", "--data", f"folder:{tmp_path}/photos")
    assert inputs.words == ["--data=folder:shipped-photos"]
    assert list(inputs.shipped[0].files) == ["ash/1.png", "linked/b"]


def test_a_label_file_and_other_places_of_images_travel(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    inputs = of(
        "gram", "--data", "folder:photos", "--labels", "labels.csv", "--validation-data", "folder:photos/ash"
    )
    on_cluster = ["--data=folder:shipped-photos", "--labels=shipped-labels/labels.csv"]
    assert inputs.words == [*on_cluster, "--validation-data=folder:shipped-ash"]
    assert list(inputs.shipped[1].files) == ["labels.csv"]


def test_a_set_of_emnist_travels_without_the_others(tmp_path: Path) -> None:
    (tmp_path / "data" / "emnist").mkdir()
    for name in (
        "emnist-letters-train-images-idx3-ubyte",
        "emnist-letters-mapping.txt",
        "emnist-mnist-mapping.txt",
    ):
        (tmp_path / "data" / "emnist" / name).touch()
    inputs = of("gram", "--data", "emnist-letters")
    assert inputs.words == ["--data-root=shipped-data", "--data=emnist-letters"]
    assert sorted(inputs.shipped[0].files) == [
        "emnist/emnist-letters-mapping.txt",
        "emnist/emnist-letters-train-images-idx3-ubyte",
    ]


def test_a_model_and_data_of_one_name_travel_apart(tmp_path: Path) -> None:
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    for name in ("model.npz", "model.json", "report.html"):
        (tmp_path / "runs" / "photos" / name).touch()
    inputs = of("predict", "--model", "runs/photos", "--data", "folder:photos", "--scores", "--top", "3")
    assert inputs.words == ["--model=shipped-photos", "--data=folder:shipped-photos-2", "--scores", "--top=3"]
    assert list(inputs.shipped[0].files) == ["model.json", "model.npz"]


@pytest.mark.parametrize(
    ("files", "saved", "on_cluster"),
    [
        (["runs/best/model.npz", "runs/best/model.json", "runs/best/report.html"], "runs/best", "shipped-best"),
        (["tables/t/dataset.json", "tables/t/features.npz", "tables/t/images/a"], "tables/t", "shipped-t"),
        (["m.npz"], "m.npz", "shipped-m/m.npz"),
    ],
)
def test_a_saved_feature_map_travels_and_nothing_else_of_its_folder(
    tmp_path: Path, files: list[str], saved: str, on_cluster: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inputs = of("gram", "--features", f"from:{saved}")
    assert inputs.words == [f"--features=from:{on_cluster}"]
    assert sorted(inputs.shipped[0].files) == sorted(Path(name).name for name in files[:2])
    assert of("gram", "--features", "patches:64+landmarks:500").shipped == []


def test_a_network_travels_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "lite0.onnx").touch()
    inputs = of(
        "ingest", "s3://b/photos/*/*.jpg", "s3://b/t", "--features", "network:lite0.onnx,root+random:9,signs"
    )
    assert "--features=network:shipped-lite0/lite0.onnx,root+random:9,signs" in inputs.words
    beside = of("gram", "--data", "digits", "--features", "patches:9++network:lite0.onnx++pixels")
    assert "--features=patches:9++network:shipped-lite0/lite0.onnx++pixels" in beside.words
    assert list(inputs.shipped[0].files) == ["lite0.onnx"]


def test_metadata_travel_with_the_images_beside_them(tmp_path: Path) -> None:
    (tmp_path / "photos" / "metadata.json").touch()
    inputs = of("gram", "--data", "herbarium:photos/metadata.json")
    assert inputs.words == ["--data=herbarium:shipped-metadata/metadata.json"]
    assert list(inputs.shipped[0].files) == ["ash/1.png", "metadata.json"]


def test_ingest_reads_from_here_and_writes_to_s3() -> None:
    inputs = of("ingest", "folder:photos", "s3://bucket/table", "--size", "8x8", "--grey")
    assert inputs.words == ["folder:shipped-photos", "s3://bucket/table", "--size=8x8", "--grey"]
    assert of("ingest", "s3://b/*/*.jpg", "s3://b/t").shipped == []


def test_contents_tell_archives_apart(tmp_path: Path) -> None:
    first = of("gram", "--data", "folder:photos").shipped[0].digest()
    (tmp_path / "photos" / "ash" / "1.png").touch()
    assert of("gram", "--data", "folder:photos").shipped[0].digest() == first
    (tmp_path / "photos" / "ash" / "1.png").write_text("other")
    assert of("gram", "--data", "folder:photos").shipped[0].digest() != first


@pytest.mark.parametrize(
    ("job", "words", "message"),
    [
        ("gram", ["--data", "folder:none"], "--data folder:none: no files at none; name another"),
        ("gram", ["--data-root", "none", "--data", "mnist"], "no files at none/mnist; `make data` downloads it"),
        ("gram", ["--data", "folder:week*/*.png"], "wildcards are for s3:// addresses"),
        ("predict", ["--data", "week2/*/*.png"], "wildcards are for s3:// addresses"),
        ("gram", ["--data", "cifar"], "--data cifar: no such source; use one of digits, mnist"),
        ("gram", ["--data", "/photos"], "--data /photos: no such source"),
        ("gram", ["--data", "folder:s3://b/photos"], "on S3, images are named by a glob"),
        ("predict", ["--model", "s3://b/runs/x"], "fetch that run folder, and name it here"),
        ("gram", ["--features", "from:s3://b/m.npz"], "fetch that run folder or file, and name it here"),
        ("gram", ["--features", "from:none"], "--features from:none: no files at none; name another"),
        (
            "gram",
            ["--features", "network:efficientnet-lite0"],
            "the cluster has no PyTorch to export",
        ),
        ("gram", ["--features", "network:none.onnx"], "no files at none.onnx"),
        ("gram", ["--out", "runs/x"], "--out runs/x: the run folder comes to fetch_to"),
        ("gram", ["--save-moments", "m.npz"], "what a cluster writes here is gone with it; name an s3:// address"),
        (
            "ingest",
            ["folder:photos", "tables/mine"],
            "DEST tables/mine: what a cluster writes here is gone with it",
        ),
        ("ingest", ["folder:photos"], "give SOURCE and DEST"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked(job: str, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        of(job, *words)


def test_more_than_every_node_could_unpack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emr.inputs.MAX_BYTES", 3)
    with pytest.raises(InputError, match="every node would unpack them"):
        of("gram", "--data", "folder:photos")
