"""train_cnn.py as users run it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError, RunError
from common.nets.checkpoints import BEST, LAST, Checkpoint, load_tensors, read_weights
from common.nets.networks import NetworkSpec, build, load_weights
from common.nets.pretrained import pretrained_weights
from common.run.exits import INTERRUPTED
from tests.support.disturbed import Job
from tests.support.jobs import command, metrics_of, mpiexec, serial
from tests.support.places import DATA, ROOT

pytestmark = pytest.mark.slow

JOB = ROOT / "mpi_jobs" / "train_cnn.py"


def test_digits_as_typed(tmp_path: Path) -> None:
    done = mpiexec(4, JOB, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 23
    report = Path(lines[-1].removeprefix("report: "))
    record = metrics_of(report.parent)
    assert record["test_accuracy"] >= 0.97
    assert record["workers"] == len(record["ranks"]) == 4
    assert sum(rank["images"] for rank in record["ranks"]) == 20 * record["images"]["train"]
    assert record["best_epoch"] == 1 + int(np.argmax([e["validation_accuracy"] for e in record["epochs"]]))
    assert {"loss", "accuracy", "validation_accuracy", "macro_f1", "seconds", "images_per_second"} <= set(
        record["epochs"][0]
    )
    page = report.read_text()
    assert 'id="history"' in page
    assert 'id="ranks"' in page
    names = {path.name for path in report.parent.iterdir()}
    assert names == {"report.html", "metrics.json", "figures", LAST, BEST}


@pytest.mark.hands
def test_hands_as_a_herbarium(tmp_path: Path) -> None:
    tool = ("python", "-m", "common.tools.make_herbarium")
    made = command(*tool, f"folder:{DATA / 'hands'}", "herbarium", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert made.returncode == 0, made.stderr
    flags = ["--data", "herbarium:herbarium", "--image-size", "48", "--augment", "crop", "--epochs", "8"]
    done = mpiexec(2, JOB, *flags, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = metrics_of(tmp_path / "run")
    assert record["shape"] == [48, 48, 3]
    assert record["test_accuracy"] >= 0.8


@pytest.mark.mnist
def test_mnist_in_an_epoch(tmp_path: Path) -> None:
    flags = ["--epochs", "1", "--limit", "20000"]
    done = mpiexec(2, JOB, "--data", "mnist", *flags, "--out", "run", "--tensorboard", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["test_accuracy"] >= 0.94
    (events,) = (tmp_path / "run" / "tensorboard").glob("events.*")
    assert events.stat().st_size > 300


def test_a_classifier_of_torchvision_from_weights_of_other_classes(tmp_path: Path, folder_of_images: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    weights = models.resnet18(num_classes=7).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    flags = ["--data", f"folder:{folder_of_images}", "--image-size", "32", "--network", "resnet18"]
    flags += ["--epochs", "1"]
    flags += ["--label-smoothing", "0.1", "--weight-decay", "0.01", "--optimiser", "sgd", "--augment", "flip,crop"]
    done = mpiexec(2, JOB, *flags, "--weights", "weights.pt", "--lr", "1e-9", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "weights.pt has no weights that fit fc.weight, fc.bias: these start at random" in done.stdout
    last = Checkpoint.load(tmp_path / "run" / LAST)
    assert torch.allclose(last.parameters["conv1.weight"], weights["conv1.weight"], atol=1e-4)
    assert last.parameters["fc.weight"].shape == (3, 512)


def test_a_pretrained_network_is_trained_further_and_embeds_images(tmp_path: Path, folder_of_images: Path) -> None:
    network = ["--network", "efficientnet-lite0", "--image-size", "64"]
    flags = ["--data", f"folder:{folder_of_images}", *network, "--pretrained", "--epochs", "1", "--lr", "1e-9"]
    flags += ["--head", "ridge", "--freeze", "1", "--backbone-lr", "0.1"]
    done = mpiexec(2, JOB, *flags, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "start at random" not in done.stdout
    weights = torch.load(pretrained_weights("efficientnet-lite0"), weights_only=True)
    last = Checkpoint.load(tmp_path / "run" / LAST)
    assert torch.equal(last.parameters["_conv_stem.weight"], weights["_conv_stem.weight"])
    assert last.parameters["_fc.weight"].shape == (3, 1280)
    assert "the head begins as a ridge classifier: λ " in done.stdout
    begun = metrics_of(tmp_path / "run")["ridge_head"]
    assert begun.keys() == {"lambda", "scale", "validation_accuracy", "validation_loss"}
    record = metrics_of(tmp_path / "run")
    assert record["validation_accuracy"] >= begun["validation_accuracy"]  # the start is epoch 0
    assert record["best_epoch"] == int(record["validation_accuracy"] > begun["validation_accuracy"])
    assert "Its head began as a ridge classifier" in (tmp_path / "run" / "report.html").read_text()
    words = ["--data", f"folder:{folder_of_images}", "--features", "network:run,root", "--out", "fitted"]
    fitted = serial(*words, cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert metrics_of(tmp_path / "fitted")["n_features"] == 1280
    assert metrics_of(tmp_path / "fitted")["shape"] == [64, 64, 3]
    refused = mpiexec(1, JOB, "--pretrained", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--pretrained works with --network efficientnet-lite0, and this is small" in refused.stderr


@pytest.mark.parametrize(
    ("wrap", "unwrapped"),
    [
        (lambda weights: weights, []),
        (lambda weights: {f"module.{name}": value for name, value in weights.items()}, ["module."]),
        (
            lambda weights: {f"_orig_mod.module.{name}": v for name, v in weights.items()},
            ["_orig_mod.", "module."],
        ),
        (
            lambda weights: {
                "epoch": 3,
                "state_dict": {f"model.{name}": value for name, value in weights.items()}
                | {"loss.w": torch.ones(1)},
            },
            ["state_dict", "model."],
        ),
        (lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {}}, ["model_state_dict"]),
    ],
)
def test_weights_are_unwrapped(
    tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], dict[str, object]], unwrapped: list[str]
) -> None:
    spec = NetworkSpec("small", 1, 8, 8, 3)
    torch.manual_seed(1)
    truth = build(spec).state_dict()
    torch.save(wrap(truth), tmp_path / "weights.pt")
    network = build(spec)
    found = read_weights(tmp_path / "weights.pt", network.state_dict())
    assert sorted(found.unwrapped) == sorted(unwrapped)
    assert load_weights(network, found.weights) == []
    assert all(torch.equal(value, truth[name]) for name, value in network.state_dict().items())


def test_a_run_goes_on_from_any_folder_though_its_images_were_named_from_one(
    tmp_path: Path, folder_of_images: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "flat").mkdir()
    for path in folder_of_images.rglob("1*.png"):
        path.rename(tmp_path / "flat" / f"{path.parent.name}-{path.name}")
    rows = [f"{path.stem},{path.name.partition('-')[0]}" for path in (tmp_path / "flat").iterdir()]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    flags = ["--data", "folder:flat", "--labels", "labels.csv", "--image-size", "16", "--out", "run", "--quiet"]
    flags += ["--validation-data", f"folder:{folder_of_images.name}"]
    done = mpiexec(1, JOB, *flags, "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = mpiexec(1, JOB, "--resume", "../run", "--epochs", "2", "--quiet", cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(tmp_path / "run")
    assert len(metrics["epochs"]) == 2
    assert metrics["images"] == {"train": 24, "validation": 30, "test": 6, "skipped": 0, "ignored": 0}


@pytest.fixture
def damaged(folder_of_images: Path) -> Path:
    """Sixty images: one is truncated, one empty, one of another kind, and one a link to a file that is gone."""
    whole = (folder_of_images / "ash" / "00.png").read_bytes()
    (folder_of_images / "ash" / "03.png").write_bytes(whole[:200])
    (folder_of_images / "beech" / "05.png").write_bytes(b"")
    (folder_of_images / "beech" / "07.png").write_bytes(b"GIF89a" + bytes(50))
    (folder_of_images / "cedar" / "09.png").unlink()
    (folder_of_images / "cedar" / "09.png").symlink_to("nowhere.png")
    return folder_of_images


def test_damaged_images_are_skipped_counted_and_listed(tmp_path: Path, damaged: Path) -> None:
    flags = ["--data", f"folder:{damaged}", "--image-size", "16", "--epochs", "2", "--batch", "4", "--out", "run"]
    done = mpiexec(2, JOB, *flags, "--max-corrupt", "0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 images were skipped" in done.stderr
    assert metrics_of(tmp_path / "run")["images"]["skipped"] == 4
    listed = (tmp_path / "run" / "skipped.csv").read_text()
    skipped = ["ash/03.png", "beech/05.png", "beech/07.png", "cedar/09.png"]
    assert [line.partition(",")[0] for line in listed.splitlines()] == ["name", *skipped]
    assert 'id="skipped"' in (tmp_path / "run" / "report.html").read_text()
    stopped = mpiexec(2, JOB, *flags[:-1], "stopped", cwd=tmp_path)
    assert stopped.returncode == 2
    assert "images cannot be used, more than --max-corrupt 0.01 allows" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "stopped").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch", "4", "--global-batch", "8"], "not allowed with argument"),
        (["--resume", str(JOB)], "no file of torch's"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, flags: list[str], message: str) -> None:
    """tests/mpi/test_cnn_runs.py tests other wrong input, on every rank."""
    done = mpiexec(2, JOB, *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = mpiexec(3, JOB, *LONG, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


LONG = ["--epochs", "6", "--batch", "4", "--limit", "250", "--augment", "crop"]
LONG += ["--checkpoint-minutes", "0.001", "--out", "run"]


def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    job = Job(tmp_path, ["train_cnn.py", *LONG], "mpich")
    job.wait_for((tmp_path / "run" / LAST).exists)
    moment = os.urandom(1)[0] / 255
    job.wait_for(lambda: Checkpoint.load(tmp_path / "run" / LAST).progress.epoch >= 3 * moment)
    code, _ = job.disturb(lambda ranks: os.kill(ranks[1], signal.SIGKILL))
    assert code != 0
    killed = Checkpoint.load(tmp_path / "run" / LAST).progress
    assert killed.epoch < 6
    done = mpiexec(3, JOB, "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("going on with ")
    whole, resumed = Checkpoint.load(undisturbed / LAST), Checkpoint.load(tmp_path / "run" / LAST)
    for name, truth in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], truth), f"{name}, killed in epoch {killed.epoch}"
    assert metrics_of(tmp_path / "run")["test_accuracy"] == metrics_of(undisturbed)["test_accuracy"]
    again = mpiexec(1, JOB, "--resume", "run", cwd=tmp_path)
    assert again.returncode == 2
    assert "all of its 6 epochs are done; --epochs N for more" in again.stderr


def test_a_run_goes_on_with_another_number_of_ranks_and_says_what_differs(
    tmp_path: Path, undisturbed: Path
) -> None:
    done = mpiexec(2, JOB, "--resume", undisturbed, "--epochs", "7", "--weight-decay", "0.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "going on with epoch 7 of 7"
    assert lines[1].startswith(
        "what differs from before: 2 ranks instead of 3, which share the 12 images of a step"
    )
    assert "what differs from before: --epochs 7 instead of 6" in lines
    assert "what differs from before: --weight-decay 0.1 instead of 0.0" in lines
    assert len(metrics_of(undisturbed)["epochs"]) == 7


def interrupt(job: Job, _: list[int]) -> None:
    job.process.send_signal(signal.SIGINT)


def kill(_: Job, ranks: list[int]) -> None:
    os.kill(ranks[0], signal.SIGKILL)


@pytest.mark.parametrize(
    ("mpi", "how"),
    [("mpich", interrupt), ("mpich", kill), pytest.param("openmpi", kill, marks=pytest.mark.openmpi)],
)
def test_the_last_checkpoint_is_whole_however_it_ends(
    tmp_path: Path, mpi: str, how: Callable[[Job, list[int]], None]
) -> None:
    job = Job(tmp_path, ["train_cnn.py", "--epochs", "10000", "--out", "run"], mpi, ranks=2)
    job.wait_for(lambda: (tmp_path / "run" / LAST).exists() and job.ranks())
    code, output = job.disturb(lambda ranks: how(job, ranks))
    assert code != 0
    assert "Traceback" not in output
    progress = Checkpoint.load(tmp_path / "run" / LAST).progress
    assert len(progress.history) == progress.epoch > 0
    best = Checkpoint.load(tmp_path / "run" / BEST).progress
    assert best.best == len(best.history)
    if code == INTERRUPTED:
        assert f"--resume {tmp_path / 'run'} goes on after epoch" in output


def test_a_full_disk_keeps_the_checkpoint_of_before(tmp_path: Path, undisturbed: Path) -> None:
    checkpoint = Checkpoint.load(undisturbed / LAST)
    checkpoint.save(tmp_path / LAST)
    before = (tmp_path / LAST).read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # writes fail, as on a full disk
        with pytest.raises(RunError, match=r"cannot be written .*; the one before is still there"):
            checkpoint.save(tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / LAST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_a_checkpoint_runs_nothing_that_is_in_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, ("raise SystemExit('it ran')",)

    torch.save({"format": Evil()}, tmp_path / LAST)
    with pytest.raises(InputError, match="or one that holds more than weights"):
        Checkpoint.load(tmp_path / LAST)


@pytest.mark.parametrize("part", ["parameters", "buffers"])
def test_a_checkpoint_whose_tensors_are_not_its_networks_is_damaged(undisturbed: Path, part: str) -> None:
    checkpoint = Checkpoint.load(undisturbed / LAST)
    checkpoint.check(build(checkpoint.spec))
    name = next(iter(getattr(checkpoint, part)))
    getattr(checkpoint, part)[name] = torch.zeros(3)
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        checkpoint.check(build(checkpoint.spec))


def test_checkpoints_keep_their_keys_and_older_ones_load(tmp_path: Path, undisturbed: Path) -> None:
    contents = dict(load_tensors(undisturbed / BEST))
    assert contents.keys() == {
        *("format", "spec", "parameters", "buffers", "optimiser", "progress", "class_names", "class_ids"),
        *("preprocessing", "arguments", "images", "ranks"),
    }
    assert contents["progress"].keys() == {
        *("epoch", "step", "cut", "updates", "images", "loss", "correct", "seconds", "history", "skipped"),
        *("frozen_updates", "ridge_head"),
    }
    assert contents["preprocessing"].keys() == {"form", "mean", "deviation"}
    # which the first checkpoints did not have
    del contents["class_ids"]
    for key in ("frozen_updates", "ridge_head"):
        del contents["progress"][key]
    torch.save(contents, tmp_path / LAST)
    older, checkpoint = Checkpoint.load(tmp_path / LAST), Checkpoint.load(undisturbed / BEST)
    assert older.classes == checkpoint.classes._replace(ids=None)
    assert older.progress == checkpoint.progress


def test_a_checkpoint_knows_what_images_go_through(undisturbed: Path) -> None:
    checkpoint = Checkpoint.load(undisturbed / BEST)
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    batch = checkpoint.preprocessing.tensor(pixels, torch.device("cpu"), torch.float64)
    assert batch.shape == (1, 1, 8, 8)
    assert batch[0, 0, 2, 3].item() == pytest.approx((19 / 255 - 0.459) / 0.226)


def test_photographs_are_resized_and_cropped_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision import transforms

    from common.data.decode import PixelFormat, decode
    from common.nets.preprocessing import Preprocessing

    rng = np.random.default_rng(0)
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    published = transforms.Compose(
        [transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor(), normalise]
    )
    ours = Preprocessing.for_channels(PixelFormat((224, 224), crop=True), 3)
    for height, width in ((667, 1000), (1000, 667), (300, 1334), (224, 224), (100, 101), (671, 447)):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / "image.png")
        with Image.open(tmp_path / "image.png") as image:
            truth = published(image)
        pixels = decode((tmp_path / "image.png").read_bytes(), ours.pixel_format)
        found = ours.tensor(pixels[None], torch.device("cpu"), torch.float32)[0]
        assert torch.allclose(found, truth, atol=1e-5), (height, width)
