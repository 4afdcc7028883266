"""Models as ONNX files: what onnxruntime makes of images is what the run makes of them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from common.export.models import exported
from common.models import load
from spark_jobs import serial
from tests.support.images import write_images
from tests.support.jobs import command, metrics_of, run_main
from tests.support.onnx import embedder
from tests.support.places import DATA, ROOT


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("export") / "images")


def run_onnx(file: bytes, pixels: Any) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    scores, labels = session.run(["scores", "label"], {"images": pixels})
    return scores, labels


@pytest.mark.parametrize(
    ("data", "features"),
    [
        ("digits", "pixels"),
        ("digits", "patches:12"),
        ("digits", "patches:5,mirror,cells=3+landmarks:200"),
        ("digits", "fourier:150"),
        ("digits", "random:90"),
        ("digits", "random:1500,signs+fourier:300,width=2"),  # of more columns than one product in float32
        ("digits", "patches:12+landmarks:700+random:80,differences"),
        ("folder", "pixels"),
        ("folder", "patches:6,mirror++pixels"),
        ("folder", "patches:130+landmarks:30"),  # filters whose own products are of 8 bits
    ],
)
def test_scores_are_the_same_to_the_last_bit(data: str, features: str, photographs: Path, tmp_path: Path) -> None:
    flags = ["--data", f"folder:{photographs}", "--size", "14x17"] if data == "folder" else []
    run_main(serial.main, tmp_path / "run", *flags, "--features", features)
    model = load(tmp_path / "run")
    file = exported(tmp_path / "run")
    rng = np.random.default_rng(2)
    shape = (40, *model.shape)
    pixels = rng.integers(0, 256, shape, np.uint8)
    pixels[:3] = np.array([0, 128, 255], np.uint8)[:, None, None, None]
    pixels[3:20] = (pixels[3:20] // 64) * 64
    scores, labels = run_onnx(file, pixels)
    assert scores.dtype == np.float64
    assert np.array_equal(scores, model.score_pixels(pixels))
    assert np.array_equal(labels, scores.argmax(axis=1))
    alone = np.concatenate([run_onnx(file, pixels[i : i + 1])[0] for i in range(4)])
    assert np.array_equal(alone, scores[:4])
    opened = onnx.load_from_string(file)
    onnx.checker.check_model(opened, full_check=True)
    noted = {entry.key: json.loads(entry.value) for entry in opened.metadata_props}
    assert noted["class_names"] == list(model.class_names)
    assert noted["pixel_format"]["grey"] == (data == "digits")


def export(*words: str | Path, cwd: Path) -> Any:
    return command(sys.executable, "-m", "common.export", *words, cwd=cwd)


def test_features_of_a_network(photographs: Path, tmp_path: Path) -> None:
    for options in ({}, {"signed": True}, {"size": ("n", 24, 36, 3), "channels_last": True}):
        network = embedder(tmp_path / "network.onnx", **options)  # type: ignore[arg-type]
        out = tmp_path / f"run{len(options)}"
        root = "" if "signed" in options else ",root"
        run_main(
            serial.main, out, "--data", f"folder:{photographs}", "--features", f"network:{network}{root}+random:50"
        )
        done = export(out, "model.onnx", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "the same class for 12 of 12 test images" in done.stdout


def two_outputs(path: Path, opset: int, domain: str = "") -> Path:
    """Write a network whose second output is the embedding, by operators that opset 13 has changed."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(1).normal(size=(5, 1, 8, 8)).astype(np.float32)
    attributes = {"axes": [2, 3]} if opset < 13 else {}
    inputs = ["maps"] if opset < 13 else ["maps", "axes"]
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"]),
        helper.make_node("Squeeze", inputs, ["rows"], **attributes),
        helper.make_node("Softmax", ["rows"], ["embedding"], axis=1),
    ]
    if domain:
        nodes.append(helper.make_node("Gelu", ["embedding"], ["unused"], domain=domain))
    constants = [numpy_helper.from_array(weights, "weights")]
    constants += [] if opset < 13 else [numpy_helper.from_array(np.array([2, 3]), "axes")]
    shapes = {"maps": ["n", 5, 1, 1], "embedding": ["n", 5]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])
    graph = helper.make_graph(nodes, "two", [image], outputs, constants)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("opset", [11, 17, 19])
def test_networks_of_other_opsets_and_with_other_outputs(opset: int, tmp_path: Path) -> None:
    """The first output, (n, 5, 1, 1), is rows as well, and so the one that the run uses."""
    network = two_outputs(tmp_path / "network.onnx", opset)
    run_main(serial.main, tmp_path / "run", "--features", f"network:{network}+random:50")
    done = export("run", "model.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the same class for 359 of 359 test images" in done.stdout


def test_networks_of_foreign_operators_are_refused(tmp_path: Path) -> None:
    network = two_outputs(tmp_path / "network.onnx", 17, domain="com.microsoft")
    run_main(serial.main, tmp_path / "run", "--features", f"network:{network}+random:50")
    done = export("run", "model.onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "export: run: its network has com.microsoft, which cannot be exported\n"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["small", "resnet18"])
def test_networks(network: str, photographs: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        ROOT / "mpi_jobs" / "train_cnn.py",
        "--data",
        f"folder:{photographs}",
        "--network",
        network,
    ]
    trained = command(*words, "--image-size", "32", "--epochs", "1", "--quiet", "--out", "run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    pixels = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    truth = load(tmp_path / "run").scores(pixels)
    done = export("run", "model.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "takes images of 32×32×3; the same class for 12 of 12 test images" in done.stdout
    scores, _ = run_onnx((tmp_path / "model.onnx").read_bytes(), pixels)
    assert np.abs(scores - truth).max() < 1e-4 * np.abs(truth).max()
    done = export("run", "model.pt2", "--format", "torch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "takes images of 32×32×3; the same class for 12 of 12 test images" in done.stdout
    plain = "import sys, numpy, torch; model = torch.export.load(sys.argv[1]).module()"
    use = "print(model(torch.from_numpy(numpy.load(sys.argv[2]))).detach().numpy().tobytes().hex())"
    np.save(tmp_path / "pixels.npy", pixels)
    words = [sys.executable, "-c", f"{plain}; {use}", "model.pt2", "pixels.npy"]
    loaded = command(*words, cwd=tmp_path)  # nothing of this project is imported
    assert loaded.returncode == 0, loaded.stderr
    again = np.frombuffer(bytes.fromhex(loaded.stdout), np.float32).reshape(truth.shape)
    assert np.abs(again - truth).max() < 1e-4 * np.abs(truth).max()


def test_images_that_get_another_class_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare a run with the file of another one."""
    from common.export import __main__ as job

    run_main(serial.main, tmp_path / "run", "--limit", "40")
    run_main(serial.main, tmp_path / "other")
    arguments = type("", (), {"run": tmp_path / "run", "data": None, "data_root": DATA})
    model = load(tmp_path / "run")
    images = job.images_to_compare(arguments, model)
    _, score = job.to_onnx(tmp_path / "other")
    n, differing = job.differences(score, model, images)
    block = images.load(names=True)
    other = load(tmp_path / "other").predict(block.pixels)
    expected = [
        str(name)
        for name, a, b in zip(block.names or (), model.predict(block.pixels), other, strict=True)
        if a != b
    ]
    assert n == len(images)
    assert 0 < len(differing) < n
    assert differing == expected


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of digits, and others that are like it but for what makes them useless."""
    folder = tmp_path_factory.mktemp("runs")
    run_main(serial.main, folder / "run")
    (folder / "empty").mkdir()
    for name, changed in (("table", {"data": "parquet:tables/mine"}), ("null", {"seed": None}), ("moved", {})):
        shutil.copytree(folder / "run", folder / name)
        (folder / name / "metrics.json").write_text(json.dumps(metrics_of(folder / "run") | changed))
    (folder / "moved" / "metrics.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "m.onnx"], "export: nowhere: no such run folder\n"),
        (["run", "m.pt"], "export: m.pt: does not end with .onnx\n"),
        (["run", "m.onnx", "--format", "torch"], "export: m.onnx: does not end with .pt2\n"),
        (
            ["run", "m.pt2", "--format", "torch"],
            "export: run: a ridge classifier, which is no program ",
        ),
        (["run", "no/such/m.onnx"], "export: no/such/m.onnx: cannot be written"),
        (["empty", "m.onnx"], "export: empty: no model in it; "),
        (
            ["run", "m.onnx", "--data", "mnist"],
            "export: --data mnist: images of 28×28×1, and ",
        ),
        (["table", "m.onnx"], "export: table: its data are a table; "),
        (["null", "m.onnx"], "export: null: metrics.json does not tell the data; use --data\n"),
        (["run", "m.onnx", "--data", "folder:gone"], "export: "),
        (["moved", "m.onnx"], "export: moved: metrics.json does not tell the data; use --data\n"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words: list[str], message: str, runs: Path) -> None:
    done = export(*words, cwd=runs)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (runs / "m.onnx").exists()
