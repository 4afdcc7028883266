"""Deep features: embeddings by an ONNX file, cut to 8 bits."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from common.arrays import Labels, Pixels
from common.blas import blas_threads, limit_blas
from common.data.decode import PixelFormat
from common.data.images import Sample
from common.errors import InputError
from common.features.chain import Chain
from common.features.feature_map import FeatureMap
from common.features.network import NetworkFeatures
from common.features.network_file import NetworkFile, NetworkRequest
from common.features.registry import feature_map_of
from common.features.spec import FeatureSpec
from common.features.stored import StoredFeatures
from common.nets.backbones import backbone
from common.nets.preprocessing import Preprocessing
from common.nets.pretrained import EFFICIENTNET
from common.onnx_files import with_metadata
from common.run.features import network_file, with_network
from common.tools import export_network
from tests.support.onnx import WIDTH, embedder

RNG = np.random.default_rng(2)
SHAPE = (24, 36, 3)


class Images:
    """Images of noise to learn from."""

    def __init__(self, n: int = 40, shape: tuple[int, int, int] = SHAPE) -> None:
        self.shape = shape
        self.n_sampled = n
        self.pixels: Pixels = RNG.integers(0, 256, (n, *shape), np.uint8)
        self.labels: Labels = np.arange(n) % 3

    def sample(self, n: int, _seed: int) -> Sample:
        return Sample(self.pixels[:n], self.labels[:n])


def learn(text: str, images: Images) -> FeatureMap:
    spec = with_network(FeatureSpec.parse(text))
    assert spec is not None
    assert spec.n_features(images.shape) == spec.learn(images, 0).n_features(images.shape)
    return spec.learn(images, 0)


def by_hand(path: Path, pixels: Pixels) -> np.ndarray:
    """Embed images by ONNX's own evaluator, float64 (n, d)."""
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    (found,) = ReferenceEvaluator(str(path)).run(None, {"images0": x.transpose(0, 3, 1, 2).astype(np.float32)})
    return np.asarray(found, np.float64).reshape(len(pixels), -1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("root", ["", ",root"])
def test_features_are_embeddings_cut_to_8_bits(tmp_path: Path, signed: bool, root: str) -> None:
    path, images = embedder(tmp_path / "n.onnx", signed=signed), Images()
    found = learn(f"network:{path}{root}", images)(images.pixels).astype(float)
    values = by_hand(path, images.pixels)
    if root:
        values = np.sqrt(np.maximum(values, 0))
    low = np.quantile(values, 0.001) if signed and not root else 0
    high = np.quantile(values, 0.999)
    assert found.shape == (40, WIDTH)
    assert np.abs(found - np.clip((values - low) / (high - low) * 255, 0, 255)).max() <= 0.51


def test_fixed_batches_and_other_layouts_are_the_same_bytes(tmp_path: Path) -> None:
    images = Images(33)
    paths = [
        embedder(tmp_path / "any.onnx"),
        embedder(tmp_path / "alone.onnx", (1, 3, 24, 36)),
        embedder(tmp_path / "sevens.onnx", (7, 3, 24, 36)),
        embedder(tmp_path / "last.onnx", ("n", 24, 36, 3), channels_last=True),
    ]
    first, *others = (learn(f"network:{path}", images)(images.pixels) for path in paths)
    assert all(np.array_equal(first, other) for other in others)


def test_weights_beside_the_file_are_refused_wherever_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes would not travel with the file, nor be part of its digest."""
    monkeypatch.chdir(tmp_path)
    embedder(Path("n.onnx"), external=True)
    with pytest.raises(InputError, match="onnxruntime cannot load it"):
        with_network(FeatureSpec.parse("network:n.onnx"))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: embedder(path),
        lambda path: embedder(path, (1, 3, 24, 36)),
        lambda path: embedder(path, (7, 3, 24, 36)),
        lambda path: embedder(path, ("n", 24, 36, 3), channels_last=True),
        lambda path: embedder(path, dense=True),
    ],
    ids=["any", "alone", "sevens", "channels last", "dense"],
)
def test_features_are_the_same_bytes_alone_in_any_batch_and_by_any_threads(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    images = Images(33)
    found = learn(f"network:{make(tmp_path / 'n.onnx')}", images)
    whole = found(images.pixels)
    for rows in (1, 7, 32):
        parts = [found(images.pixels[start : start + rows]) for start in range(0, 33, rows)]
        assert np.array_equal(np.concatenate(parts), whole)
    before = blas_threads()
    try:
        for threads in (1, 3):
            limit_blas(threads)
            assert np.array_equal(found(images.pixels), whole)
    finally:
        limit_blas(before)
    assert found(images.pixels[:0]).shape == (0, WIDTH)


def test_a_map_travels_and_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    images = Images()
    found = learn(f"network:{embedder(tmp_path / 'n.onnx')}+random:30,signs", images)
    assert isinstance(found, Chain)
    (tmp_path / "n.onnx").unlink()
    copy = pickle.loads(pickle.dumps(found))  # noqa: S301
    for again in (copy, feature_map_of(found.describe(), found.arrays())):
        assert again.digest == found.digest
        assert np.array_equal(again(images.pixels), found(images.pixels))
    assert not found.exact
    assert StoredFeatures(found, SHAPE).exact  # everybody reads the same bytes


def test_grey_images_are_grey_colours(tmp_path: Path) -> None:
    images = Images(9, (24, 36, 1))
    grey = learn(f"network:{embedder(tmp_path / 'n.onnx')}", images)
    assert np.array_equal(grey(images.pixels), grey(np.repeat(images.pixels, 3, axis=3)))


def test_mean_and_deviation_are_those_given_or_noted_or_of_imagenet(tmp_path: Path) -> None:
    path = embedder(tmp_path / "n.onnx")
    usual = NetworkFile.of("n", path.read_bytes())
    noted = NetworkFile.of("n", with_metadata(path.read_bytes(), {"mean": "0.5/0.5/0.5", "deviation": "1/1/2"}))
    given = NetworkFile.of("n", path.read_bytes(), mean=(0.5, 0.5, 0.5), deviation=(1.0, 1.0, 2.0))
    assert usual.mean == (0.485, 0.456, 0.406)
    assert (noted.mean, noted.deviation) == (given.mean, given.deviation) == ((0.5,) * 3, (1.0, 1.0, 2.0))
    pixels = Images(5).pixels
    assert np.array_equal(noted.embed(pixels), given.embed(pixels))
    assert not np.array_equal(noted.embed(pixels), usual.embed(pixels))


def test_a_network_that_takes_any_size_is_given_one(tmp_path: Path) -> None:
    path = embedder(tmp_path / "n.onnx", ("n", 3, "h", "w"))
    assert NetworkFile.of("n", path.read_bytes()).shape == (224, 224, 3)
    spec = with_network(FeatureSpec.parse(f"network:{path},size=24x36"))
    assert spec is not None
    assert spec.pixel_format == PixelFormat((24, 36))


@pytest.mark.parametrize(("options", "message"), [("mean=1/2", "give one mean"), ("deviation=1/0/1", "above 0")])
def test_means_and_deviations_that_do_not_fit_are_refused(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_network(FeatureSpec.parse(f"network:{embedder(tmp_path / 'n.onnx')},{options}"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no network") and path, "onnxruntime cannot load it"),
        (lambda path: embedder(path, inputs=2), "it has 2 inputs (images0, images1); export it with one"),
        (lambda path: embedder(path, element=TensorProto.UINT8), "its input is tensor(uint8)"),
        (lambda path: embedder(path, ("n", 5, 24, 36)), "without an axis of 1 or 3 channels"),
        (lambda path: embedder(path, rows=False), "none of its outputs has one row of numbers per image"),
        (lambda path: embedder(path, external=True), "onnxruntime cannot load it"),
        (lambda path: path, "cannot be read (No such file or directory)"),
    ],
    ids=["no network", "two inputs", "bytes", "five channels", "no rows", "external", "no file"],
)
def test_files_that_embed_no_images_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path / "n.onnx")
    with pytest.raises(InputError) as error:
        with_network(FeatureSpec.parse(f"network:{path}"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_images_of_another_size_are_refused_with_the_flag_that_mends_it(tmp_path: Path) -> None:
    spec = with_network(FeatureSpec.parse(f"network:{embedder(tmp_path / 'n.onnx')}"))
    assert spec is not None
    with pytest.raises(InputError, match="takes images of 24x36x3, not 32x32x3; use --size 24x36"):
        spec.n_features((32, 32, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network:", "names no network"),
        ("network:a.onnx,roots", "has no option 'roots'"),
        ("network:a.onnx,root,root", "root of network is given twice"),
        ("network:a.onnx,mean=0.5/x", "no list of numbers"),
        ("network:a.onnx,deviation=1/inf/1", "no list of numbers"),
        ("network:a.onnx,size=224", "has no option 'size=224'"),
        ("patches:4+network:a.onnx", "is none of"),
    ],
)
def test_bad_specs_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureSpec.parse(text)


def test_what_is_no_network_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="network:resnot: no network and no folder of that name; use network:eff"):
        with_network(FeatureSpec.parse("network:resnot"))
    with pytest.raises(InputError, match="size, mean and deviation are for ONNX files"):
        with_network(FeatureSpec.parse("network:efficientnet-lite0,size=224x224"))


def test_another_runtime_that_differs_is_told(tmp_path: Path) -> None:
    spec = with_network(FeatureSpec.parse(f"network:{embedder(tmp_path / 'n.onnx')}"))
    assert spec is not None
    network = spec.first.network  # type: ignore[union-attr]
    wrong = replace(network, reference=lambda pixels: network.embed(pixels) + 1)
    with pytest.raises(InputError, match="onnxruntime and torch differ by"):
        spec.with_network(wrong).learn(Images(), 0)


@pytest.mark.slow
def test_efficientnet_is_the_same_in_onnxruntime_and_in_torch() -> None:
    images = Images(6, (224, 224, 3))
    found = learn(f"network:{EFFICIENTNET}", images)
    assert isinstance(found, NetworkFeatures)
    assert found.width == 1280
    torch.manual_seed(1)
    exported = backbone(EFFICIENTNET)
    np.testing.assert_allclose(found.network.embed(images.pixels), exported.embed(images.pixels), atol=1e-4)
    assert learn(f"network:{EFFICIENTNET}", images).digest == found.digest  # an export is the same bytes again


def test_a_classifier_of_torchvision_is_exported_with_its_weights(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    network = models.shufflenet_v2_x0_5(num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    words = ["shufflenet_v2_x0_5", str(tmp_path / "network.onnx"), "--weights", str(tmp_path / "weights.pt")]
    assert export_network.main(words) == 0
    found = network_file(NetworkRequest.parse(str(tmp_path / "network.onnx")))
    assert found.shape == (224, 224, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    network.fc = torch.nn.Identity()
    preprocessing = Preprocessing.for_channels(PixelFormat((224, 224)), 3)
    tensor = preprocessing.tensor(pixels, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        truth = network(tensor).numpy()
    np.testing.assert_allclose(found.embed(pixels), truth, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match=r"weights.pt: its weights belong to another .*; name those of resnet18"):
        export_network.main(["resnet18", *words[1:]])


def test_a_request_is_parsed() -> None:
    assert NetworkRequest.parse("a.onnx,root,size=3x4,mean=0.5/1/2") == NetworkRequest(
        "a.onnx", True, (3, 4), (0.5, 1.0, 2.0)
    )
