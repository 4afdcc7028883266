"""Predictions in a pipeline, against PyTorch in one process."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mpi4py import MPI
from PIL import Image

from common.data.catalogue import Classes
from common.data.decode import PixelFormat
from common.data.imagenet import COLOUR_DEVIATION, COLOUR_MEAN
from common.data.measuring import DECODING
from common.errors import InputError
from common.nets.checkpoints import BEST, Checkpoint, Progress
from common.nets.fast import FastClassifier
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing
from common.nets.trained import TrainedNetwork
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.pipeline.layout import Layout, RoleName
from mpi_jobs.pipeline.prediction_run import PredictionRun
from mpi_jobs.pipeline.profile import Profile
from mpi_jobs.pipeline.profile_run import ProfileRun
from tests.support.tables import make_table

SIDE = 24
SPEC = NetworkSpec("small", 3, SIDE, SIDE, 3)
CLASSES = Classes(("ash", "beech", "cedar"), ("7", "30", "100"))
PREPROCESSING = Preprocessing.for_channels(PixelFormat((SIDE, SIDE), crop=True), 3)
WORLD = World(MPI.COMM_WORLD)


class Made(NamedTuple):
    """Images and a network, which rank 0 has made and all ranks see.

    Attributes:
        folder: with images/, model/, herbarium/.
        names: of all images, in order.
        logits: by name, what PyTorch says of those that can be decoded.
    """

    folder: Path
    names: list[str]
    logits: dict[str, np.ndarray]


def save_model(folder: Path, network: torch.nn.Module, classes: Classes = CLASSES) -> None:
    folder.mkdir()
    Checkpoint(
        SPEC,
        {name: value.detach() for name, value in network.named_parameters()},
        {name: value[None] for name, value in network.named_buffers()},
        {},
        Progress(images=[1]),
        classes,
        PREPROCESSING,
        {},
        {},
        1,
    ).save(folder / BEST)


def make(folder: Path) -> Made:
    """Make images of many sizes, whose class is where they are bright, and a network trained on them."""
    from torchvision import transforms  # only rank 0 needs it

    published = transforms.Compose(
        [
            transforms.Resize(SIDE),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(COLOUR_MEAN, COLOUR_DEVIATION),
        ]
    )
    rng = np.random.default_rng(3)
    tensors: dict[str, torch.Tensor] = {}
    for label, name in enumerate(CLASSES.names):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(25):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 150, (height, width, 3), np.uint8)
            pixels[:, width * label // 3 : width * (label + 1) // 3] += 90
            path = folder / "images" / name / f"{i:02d}.{'png' if i % 2 else 'jpg'}"
            Image.fromarray(pixels).save(path)
            with Image.open(path) as image:
                tensors[path.relative_to(folder / "images").as_posix()] = published(image)
    batch = torch.stack(list(tensors.values()))
    labels = torch.arange(3).repeat_interleave(25)
    torch.manual_seed(0)
    network = build(SPEC)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(12):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), labels).backward()
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        logits = {name: network(tensor[None])[0].numpy() for name, tensor in tensors.items()}
    save_model(folder / "model", network)
    truncated = (folder / "images" / "ash" / "00.jpg").read_bytes()[:300]
    (folder / "images" / "ash" / "03b.jpg").write_bytes(truncated)
    (folder / "images" / "beech" / "empty.png").write_bytes(b"")
    herbarium(folder / "herbarium", folder / "images")
    return Made(folder, sorted([*logits, "ash/03b.jpg", "beech/empty.png"]), logits)


def herbarium(folder: Path, images: Path) -> None:
    """Make a herbarium test set: metadata without annotations, and with textual ids."""
    records = []
    for number, path in enumerate(sorted(images.rglob("*.*"))[::-1]):
        name = f"images/{number:03d}{path.suffix}"
        (folder / "test" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / "test" / name)
        records.append({"id": f"i{number}", "file_name": name, "width": 1, "height": 1, "license": 0})
    (folder / "test" / "metadata.json").write_text(json.dumps({"info": {}, "images": records, "licenses": []}))


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    found = WORLD.at_root(lambda: make(Path(tempfile.mkdtemp())))
    yield found
    WORLD.meet()
    if WORLD.is_root:
        shutil.rmtree(found.folder)


def predict(ranks: World, made: Made, out: str, *flags: str, data: str = "") -> Path:
    """Predict on all of these ranks, and return the run folder."""
    folder = made.folder / f"{out}-{ranks.size}"
    data = data or f"folder:{made.folder / 'images'}"
    always = ["--model", str(made.folder / "model"), "--data", data, "--device", "cpu"]
    run = PredictionRun(ranks, [*always, "--out", str(folder), *flags])
    run.predict()
    run.finish()
    ranks.meet()
    return folder


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("order", ["", "--unordered"])
def test_predictions_are_those_of_pytorch_each_image_once(made: Made, batch: int, order: str) -> None:
    ranks = WORLD
    flags = ["--batch", str(batch), *filter(None, [order])]
    folder = predict(ranks, made, f"same-{batch}{order}", *flags)
    title, *rows = rows_of(folder)
    assert title == ["Id", "Predicted"]
    names = [name for name, _ in rows]
    assert (sorted(names) if order else names) == made.names
    expected = {name: CLASSES.written[int(logits.argmax())] for name, logits in made.logits.items()}
    assert dict(rows) == {name: expected.get(name, "") for name in made.names}
    assert len(set(expected.values())) == 3
    record = json.loads((folder / "metrics.json").read_text())
    right = [CLASSES.names[int(logits.argmax())] == name.split("/")[0] for name, logits in made.logits.items()]
    assert record["accuracy"] == pytest.approx(np.mean(right))
    assert record["images"] == {"predicted": 75, "unusable": 2, "labelled": 75, "ignored": 0}
    with (folder / "skipped.csv").open(newline="") as file:
        assert {row[0]: row[1] for row in csv.reader(file)}.keys() == {"name", "ash/03b.jpg", "beech/empty.png"}
    predicted = sum(rank["images"] for rank in record["ranks"] if RoleName.PREDICTOR in rank["roles"])
    assert predicted == 75
    assert 'id="layout"' in (folder / "report.html").read_text()


def test_the_best_classes_with_probabilities_in_parquet(made: Made) -> None:
    ranks = WORLD
    folder = predict(ranks, made, "top", "--top", "2", "--scores", "--format", "parquet", "--memory", "0.001")
    assert not (folder / "predictions").exists()
    found = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert found["name"] == made.names
    for row, name in enumerate(made.names):
        if name not in made.logits:
            assert found["predicted"][row] is None
            assert found["score"][row] is None
            assert found["error"][row]
            continue
        probabilities = torch.from_numpy(made.logits[name]).softmax(0).numpy()
        best = np.argsort(-probabilities)[:2]
        assert [found["predicted"][row], found["predicted_2"][row]] == [CLASSES.written[c] for c in best]
        assert [found["score"][row], found["score_2"][row]] == pytest.approx(probabilities[best], abs=1e-5)
        assert found["error"][row] is None


def test_the_fast_way_says_the_same(made: Made) -> None:
    ranks = WORLD
    rows = rows_of(predict(ranks, made, "fast", "--fast", "--batch", "5"))[1:]
    assert [name for name, _ in rows] == made.names
    for name, predicted in rows:
        if name not in made.logits:
            assert predicted == ""
            continue
        best, next_best = np.sort(made.logits[name])[::-1][:2]
        if best - next_best > 0.05:
            assert predicted == CLASSES.written[int(made.logits[name].argmax())], name


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_a_kill_left_is_completed_to_the_same(made: Made, kind: str) -> None:
    ranks = WORLD
    whole = predict(ranks, made, f"whole-{kind}", "--format", kind)
    cut = made.folder / f"cut-{kind}-{ranks.size}"
    if ranks.is_root:
        shutil.copytree(whole, cut)
        (cut / "metrics.json").unlink()
        if kind == "csv":
            data = (whole / "predictions.csv").read_bytes()
            (cut / "predictions.csv").write_bytes(data[: len(data) // 2])
        else:
            (cut / "predictions").mkdir()
            table = pq.read_table(whole / "predictions.parquet")
            pq.write_table(table[:30], cut / "predictions" / "part-00000000.parquet")
            (cut / "predictions" / ".part-00000001.parquet.9.partial").write_bytes(b"PAR1")
            (cut / "predictions.parquet").unlink()
    ranks.meet()
    run = PredictionRun(ranks, ["--resume", str(cut)])
    run.predict()
    run.finish()
    ranks.meet()
    if kind == "csv":
        assert (cut / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    else:
        assert pq.read_table(cut / "predictions.parquet").equals(pq.read_table(whole / "predictions.parquet"))
        assert sorted(path.name for path in cut.iterdir()) == sorted(path.name for path in whole.iterdir())
    reasons = (folder.joinpath("skipped.csv").read_text().splitlines() for folder in (cut, whole))
    assert Counter(next(reasons)) == Counter(next(reasons))
    after, before = (json.loads((folder / "metrics.json").read_text()) for folder in (cut, whole))
    assert after["resumed_after"] > 0
    for key in ("images", "predicted", "accuracy", "macro_f1"):
        assert after[key] == before[key]


def test_a_table_is_predicted_as_the_folder_is_that_it_was_made_of(made: Made) -> None:
    ranks = WORLD
    table = made.folder / f"table-{ranks.size}"
    ranks.at_root(lambda: make_table(made.folder / "images", table, PREPROCESSING.pixel_format))
    flags = ["--top", "2", "--scores", "--batch", "5"]
    title, *rows = rows_of(predict(ranks, made, "files", *flags))
    whole = predict(ranks, made, "rows", *flags, data=f"parquet:{table}")
    found_title, *found = rows_of(whole)
    assert found_title == title
    truth = {row[0]: row[1:] for row in rows if row[1]}  # what cannot be decoded is not in the table
    assert sorted(row[0] for row in found) == sorted(truth)
    for name, *row in found:
        assert row[::2] == truth[name][::2]
        assert [float(score) for score in row[1::2]] == pytest.approx(
            [float(s) for s in truth[name][1::2]], abs=1e-5
        )
    cut = made.folder / f"cut-rows-{ranks.size}"
    if ranks.is_root:
        shutil.copytree(whole, cut)
        (cut / "metrics.json").unlink()
        data = (whole / "predictions.csv").read_bytes()
        (cut / "predictions.csv").write_bytes(data[: len(data) // 2])
    ranks.meet()
    run = PredictionRun(ranks, ["--resume", str(cut)])
    run.predict()
    ranks.meet()
    # the last digit of a score depends on the images beside it
    assert [[*row[:2], row[3]] for row in rows_of(cut)] == [[*row[:2], row[3]] for row in rows_of(whole)]


def test_a_list_with_what_is_not_there_and_no_end_of_its_last_line(made: Made) -> None:
    ranks = WORLD
    first, second = (made.folder / "images" / name for name in list(made.logits)[:2])
    path = made.folder / f"list-{ranks.size}.txt"
    if ranks.is_root:
        path.write_text(f"{first}\r\n\n{made.folder}/no such.jpg\n{first}\n/etc/passwd\n{second}\n{first}"[:-3])
    ranks.meet()
    rows = rows_of(predict(ranks, made, "list", data=f"list:{path}"))[1:]
    cut = str(first)[:-3]
    assert [name for name, _ in rows] == [
        str(first),
        f"{made.folder}/no such.jpg",
        str(first),
        "/etc/passwd",
        str(second),
        cut,
    ]
    assert [bool(predicted) for _, predicted in rows] == [True, False, True, False, True, False]


def test_a_submission_has_the_ids_of_the_metadata(made: Made) -> None:
    ranks = WORLD
    rows = rows_of(predict(ranks, made, "submission", data=f"herbarium:{made.folder / 'herbarium'}"))
    assert rows[0] == ["Id", "Predicted"]
    assert [name for name, _ in rows[1:]] == [f"i{number}" for number in range(77)]
    last_first = sorted(made.names)[::-1]
    for (_, predicted), name in zip(rows[1:], last_first, strict=True):
        known = name in made.logits
        assert predicted == (CLASSES.ids[int(made.logits[name].argmax())] if known and CLASSES.ids else "")


def test_wrong_input_is_told_on_every_rank(made: Made) -> None:
    ranks = WORLD
    folder, model = made.folder, str(made.folder / "model")
    done = predict(ranks, made, "wrong")
    if ranks.is_root:
        torch.save({"format": "another"}, folder / f"other-{ranks.size}.pt")
        torch.manual_seed(5)
        save_model(folder / f"model-{ranks.size}", build(SPEC))
        (folder / f"none-{ranks.size}").mkdir()
    images, runs = f"folder:{folder / 'images'}", set(Path("runs").glob("*"))
    wrong: list[tuple[list[str], str]] = [
        (["--model", str(folder / f"other-{ranks.size}.pt"), "--data", images], "no checkpoint of train_cnn.py"),
        (["--model", model, "--data", f"folder:{folder / f'none-{ranks.size}'}"], "no images in it"),
        (["--model", model, "--data", "list:/dev/null"], "no images in it"),
        (["--model", model, "--data", images, "--out", "/proc/predictions"], "cannot be made"),
        (["--model", model, "--data", images, "--out", str(done)], "not an empty folder"),
        (["--resume", str(done), "--model", str(folder / f"model-{ranks.size}")], "by another model"),
        (["--resume", str(done), "--top", "2"], "--top was not as it is now"),
        (["--resume", str(folder)], "no run of predict_cnn.py"),
        (["--model", model, "--data", images, "--profile", str(done / "metrics.json")], "writes one"),
    ]
    for flags, message in wrong:
        with pytest.raises(AgreedError, match=message) as error:
            PredictionRun(ranks, flags)
        assert error.value.exit_code == InputError.exit_code
    assert set(Path("runs").glob("*")) == runs


def test_a_profile_shapes_a_run(made: Made) -> None:
    ranks = WORLD
    out = made.folder / f"profile-run-{ranks.size}"
    data = ["--model", str(made.folder / "model"), "--data", f"folder:{made.folder / 'images'}"]
    run = ProfileRun(ranks, [*data, "--device", "cpu", "--seconds", "0.5", "--out", str(out), "--batch", "8"])
    run.finish(run.measure())
    ranks.meet()
    record = json.loads((out / "profile.json").read_text())
    for way in ("plain", "fast"):
        profile = Profile.load(out / "profile.json", way)
        assert profile.predicting == ("to tensor", "normalise", "predict")
        assert all(profile.seconds[step] > 0 for step in (*DECODING[1:], *profile.predicting))
        assert record["ways"][way]["preprocess"] == pytest.approx(profile.preprocess)
    assert record["compared"] == 75
    assert record["n_differ"] <= 1
    assert 'id="layouts"' in (out / "report.html").read_text()
    folder = predict(ranks, made, "shaped", "--profile", str(out / "profile.json"))
    record = json.loads((folder / "metrics.json").read_text())
    profile = Profile.load(out / "profile.json", "plain")
    layout = Layout.of(ranks.size, profile.recommend(ranks.size, record["cores"]))
    assert record["layout"]["text"] == str(layout)
    assert record["profile"]["rate"] == pytest.approx(profile.rate(layout, record["cores"]))


def test_classes_are_the_same_by_id_or_else_by_name() -> None:
    assert CLASSES.positions(Classes(("cedar", "oak", "ash"))).tolist() == [2, -1, 0]
    assert CLASSES.positions(Classes(("x", "y"), ("30", "8"))).tolist() == [1, -1]
    twice = CLASSES._replace(names=("ash", "ash", "cedar"))
    assert twice.positions(Classes(("ash", "cedar"))).tolist() == [-1, 2]


def test_what_is_close_in_bfloat16_is_scored_in_float32(made: Made) -> None:
    model = TrainedNetwork.load(made.folder / "model")
    exact = model.classifier(torch.device("cpu"), "plain")
    fast = FastClassifier.of(exact)
    pixels = np.random.default_rng(4).integers(0, 256, (300, SIDE, SIDE, 3), np.uint8)
    with torch.inference_mode():
        truth, found = exact.logits(pixels), fast.logits(pixels)
        rough = fast.network(fast.preprocessing.tensor(pixels, fast.device, torch.float32).bfloat16()).float()
    assert torch.equal(found.argmax(1), truth.argmax(1))
    best = rough.topk(2, dim=1).values
    close = best[:, 0] - best[:, 1] < 0.02 * rough.abs().amax(1)
    assert 0 < close.sum() < 300
    assert torch.allclose(found[close], truth[close], atol=1e-5)
    assert torch.equal(found[~close], rough[~close])
