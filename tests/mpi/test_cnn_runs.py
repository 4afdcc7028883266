"""Runs of train_cnn.py on all ranks compared with runs on one of them alone, resumed or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from mpi4py import MPI

from common.errors import InputError, RunError
from common.nets.checkpoints import BEST, LAST, Checkpoint
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.training.order import deal
from mpi_jobs.training.training_run import TrainingRun

FLAGS = ["--limit", "150", "--global-batch", "24", "--threads", "1", "--quiet", "--device", "cpu"]


def run(world: World, folder: Path, flags: Sequence[str], epochs: int, total: int = 3) -> TrainingRun:
    where = [] if "--resume" in flags else ["--out", str(folder)]
    made = TrainingRun(world, [*FLAGS, *flags, "--epochs", str(total), *where])
    for _, epoch in zip(range(epochs), made.epochs(), strict=False):
        made.train(epoch)
        made.validate()
        made.end_epoch()
    return made


def last(world: World, folder: Path) -> Checkpoint:
    """Return the last checkpoint of rank 0's folder, on all ranks."""
    path = world.at_root(lambda: folder / LAST)
    world.meet()
    return Checkpoint.load(path)


@pytest.mark.parametrize(
    "flags",
    [["--no-batch-norm"], ["--no-batch-norm", "--augment", "crop,flip", "--optimiser", "sgd"]],
    ids=["plain", "augmented"],
)
def test_a_run_learns_what_one_rank_alone_learns(world: World, tmp_path: Path, flags: list[str]) -> None:
    folder = world.at_root(lambda: tmp_path)
    run(world, folder / "together", flags, 3)
    together = last(world, folder / "together")
    if world.is_root:
        run(World(MPI.COMM_SELF), folder / "alone", flags, 3)
        alone = Checkpoint.load(folder / "alone" / LAST)
        for name, truth in alone.parameters.items():
            assert (together.parameters[name] - truth).norm() <= 1e-5 * max(1e-2, truth.norm())
        assert together.progress.history[-1]["validation_accuracy"] == pytest.approx(
            alone.progress.history[-1]["validation_accuracy"], abs=0.04
        )
    world.meet()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that rank 0 has trained alone for an epoch of three."""
    world = World(MPI.COMM_WORLD)
    folder = world.at_root(lambda: tmp_path_factory.mktemp("trained") / "run")
    if world.is_root:
        run(World(MPI.COMM_SELF), folder, [], 1)._loader.close()
    world.meet()
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ["--augment", "crop"],
        ["--no-batch-norm", "--optimiser", "sgd"],
        ["--weights", "TRAINED", "--freeze", "1", "--backbone-lr", "0.1"],
        ["--weights", "TRAINED", "--freeze", "2", "--head", "ridge", "--optimiser", "sgd"],
    ],
    ids=["augmented", "sgd", "frozen before", "frozen still"],
)
def test_a_run_that_goes_on_ends_where_an_undisturbed_one_does(
    world: World, tmp_path: Path, trained: Path, flags: list[str]
) -> None:
    folder = world.at_root(lambda: tmp_path)
    flags = [str(trained / LAST) if flag == "TRAINED" else flag for flag in flags]
    run(world, folder / "whole", flags, 3)
    half = run(world, folder / "half", flags, 1)
    # in the middle of the second epoch, after two of its steps
    shares = deal(world, half._order, *half._images(validation=False), 1)
    half._trainer.epoch(shares[:2], half._augmentation, lambda: None, lambda _: None)
    half._save()
    half._loader.close()
    again = TrainingRun(world, ["--resume", str(folder / "half"), "--quiet", "--device", "cpu"])
    assert again._trainer.progress.step == 2
    for epoch in again.epochs():
        again.train(epoch)
        again.validate()
        again.end_epoch()
    whole, resumed = last(world, folder / "whole"), last(world, folder / "half")
    for kind in ("parameters", "buffers"):
        for name, truth in getattr(whole, kind).items():
            assert torch.equal(getattr(resumed, kind)[name], truth)
    for state, vectors in whole.optimiser.items():
        assert all(torch.equal(resumed.optimiser[state][name], vector) for name, vector in vectors.items())
    assert resumed.progress.updates == whole.progress.updates
    assert resumed.progress.frozen_updates == whole.progress.frozen_updates
    assert resumed.progress.ridge_head == whole.progress.ridge_head
    assert bool(whole.progress.ridge_head) == ("--head" in flags)
    assert [e["accuracy"] for e in resumed.progress.history] == [e["accuracy"] for e in whole.progress.history]
    assert (folder / "half" / BEST).exists()
    world.meet()


def test_another_number_of_ranks_goes_on_in_the_middle_of_an_epoch(world: World, tmp_path: Path) -> None:
    folder = world.at_root(lambda: tmp_path)
    flags = ["--no-batch-norm"]
    run(world, folder / "whole", flags, 2, 2)
    if world.is_root:  # half an epoch alone
        alone = World(MPI.COMM_SELF)
        half = run(alone, folder / "half", flags, 1, 2)
        shares = deal(alone, half._order, *half._images(validation=False), 1)
        half._trainer.epoch(shares[:3], None, lambda: None, lambda _: None)
        half._save()
        half._loader.close()
    world.meet()
    again = TrainingRun(world, ["--resume", str(folder / "half"), "--quiet", "--device", "cpu"])
    assert again._trainer.progress.step == 3
    for epoch in again.epochs():
        again.train(epoch)
        again.validate()
        again.end_epoch()
    whole, resumed = last(world, folder / "whole"), last(world, folder / "half")
    for name, truth in whole.parameters.items():
        assert (resumed.parameters[name] - truth).norm() <= 1e-5 * max(1e-2, truth.norm())
    assert resumed.progress.history[-1]["accuracy"] == pytest.approx(
        whole.progress.history[-1]["accuracy"], abs=0.03
    )
    world.meet()


def test_a_frozen_backbone_stays_as_it_is(world: World, trained: Path, tmp_path: Path) -> None:
    folder = world.at_root(lambda: tmp_path)
    weights = Checkpoint.load(trained / LAST)
    flags = ["--weights", str(trained / LAST), "--freeze", "1"]
    made = run(world, folder / "run", flags, 1, 2)
    frozen = last(world, folder / "run")
    for name, value in weights.parameters.items():
        assert torch.equal(frozen.parameters[name], value) == (not name.startswith("classifier.4"))
    assert frozen.progress.frozen_updates == frozen.progress.updates > 0
    for epoch in made.epochs():
        made.train(epoch)
        made.validate()
        made.end_epoch()
    made._loader.close()
    after = last(world, folder / "run")
    for name, value in weights.buffers.items():  # batch norm has not looked at any image
        assert all(torch.equal(row, value[0]) for row in after.buffers[name])
    assert not any(torch.equal(after.parameters[name], value) for name, value in frozen.parameters.items())
    assert after.progress.updates == 2 * after.progress.frozen_updates
    world.meet()


def test_another_number_of_ranks_goes_on_after_the_backbone_was_frozen(
    world: World, trained: Path, tmp_path: Path
) -> None:
    folder = world.at_root(lambda: tmp_path)
    flags = ["--weights", str(trained / LAST), "--freeze", "1", "--backbone-lr", "0.1", "--lr", "1e-4"]
    run(world, folder / "whole", flags, 2, 2)
    if world.is_root:
        run(World(MPI.COMM_SELF), folder / "half", flags, 1, 2)._loader.close()
    world.meet()
    again = TrainingRun(world, ["--resume", str(folder / "half"), "--quiet", "--device", "cpu"])
    for epoch in again.epochs():
        again.train(epoch)
        again.validate()
        again.end_epoch()
    again._loader.close()
    whole, resumed = last(world, folder / "whole"), last(world, folder / "half")
    assert resumed.progress.frozen_updates == whole.progress.frozen_updates
    for name, truth in whole.parameters.items():
        assert (resumed.parameters[name] - truth).norm() <= 1e-5 * max(1e-2, truth.norm())
    world.meet()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "7"], "its training images were others"),
        (["--limit", "140"], "its training images were others"),
        (["--image-size", "12"], "its network is NetworkSpec"),
        (["--network", "resnet18"], "its network is NetworkSpec"),
        (["--optimiser", "sgd"], "--optimiser sgd: the resumed run used another"),
        (["--data", "folder:IMAGES"], "it knows 10 classes"),
    ],
)
def test_another_network_or_other_classes_are_told(
    world: World, trained: Path, folder_of_images: Path, flags: list[str], message: str
) -> None:
    if world.is_root:
        words = [word.replace("IMAGES", str(folder_of_images)) for word in flags]
        with pytest.raises(AgreedError, match=message) as caught:
            TrainingRun(World(MPI.COMM_SELF), ["--resume", str(trained), "--quiet", *words])
        assert caught.value.exit_code == InputError.exit_code
    world.meet()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--network", "resnet81"],
            "--network resnet81: no such network; use one of small, medium, eff",
        ),
        (["--network", "alexnet"], "cannot take images of 8x8"),
        (["--image-size", "3"], "too small for this network"),
        (["--image-size", "3", "--network", "medium"], "too small for this network"),
        (["--weights", "nowhere.pt"], "nowhere.pt: no such file"),
        (["--weights", __file__], "no file of torch's"),
        (["--resume", "nowhere"], "a run has one from its first epoch on"),
        (["--resume", ".", "--out", "new"], "no --out, no --weights"),
        (["--resume", ".", "--head", "ridge"], "no --pretrained, no --head"),
        (["--freeze", "2"], "--freeze and --head ridge build on what a network has learnt"),
        (["--head", "ridge"], "this one begins at random; add --pretrained or --weights FILE"),
        (
            ["--network", "squeezenet1_1", "--image-size", "32", "--backbone-lr", "0.1"],
            "--network squeezenet1_1: there is no linear layer at its end",
        ),
        (["--device", "cuda"], "--device cuda: not every rank sees a GPU"),
    ],
)
def test_wrong_input_is_told_on_every_rank(world: World, tmp_path: Path, flags: list[str], message: str) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(AgreedError, match=re.escape(message)) as caught:
        TrainingRun(world, [*flags, "--quiet", *([] if "--resume" in flags else ["--out", str(tmp_path / "run")])])
    assert caught.value.exit_code == InputError.exit_code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment", "blur"], "'blur' is none of flip, crop"),
        (["--label-smoothing", "1"], "is not a number from 0 to below 1"),
        (["--lr", "0"], "'0' is not a number above 0"),
        (["--backbone-lr", "0"], "--backbone-lr: '0' is not a number above 0"),
        (["--freeze", "-1"], "--freeze: '-1' is not a whole number from 0 up"),
        (["--head", "random_forest"], "--head: invalid choice: 'random_forest'"),
        (["--image-size", "9999"], "'9999' is more than 4096"),
    ],
)
def test_wrong_flags_are_one_line(
    world: World, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        TrainingRun(world, flags)
    assert (message in capsys.readouterr().err) == world.is_root


def test_a_network_that_diverges_is_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(AgreedError, match="the network has diverged; lower --lr") as caught:
        run(world, tmp_path, ["--lr", "1e9", "--optimiser", "sgd", "--warm-up", "0"], 3)
    assert caught.value.exit_code == RunError.exit_code == 1
