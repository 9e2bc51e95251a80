"""float16 and bfloat16 predictions, with and without automatic mixed precision (AMP)."""

from contextlib import contextmanager, nullcontext

import numpy as np
import oracle
import paddle
import pytest
from helpers import PADDLE, make_batch, scalar, tensor, tensors
from paddle.base import core
from paddle.base.framework import _dygraph_tracer

from dbloss import (
    BalanceLoss,
    DBLoss,
    DiceFocalLoss,
    DiceLoss,
    MaskL1Loss,
    differentiable_binarization,
    hard_negative_weights,
)

# The unit in the last place, of which a cast may miss half; one that cuts off, as that of older
# versions of Paddle on a CPU, may miss all of it. And the same of the smallest number above 0.
CUTS_OFF = float(paddle.to_tensor(1 + 0.75 * 2.0**-10).astype("float16").astype("float32")) == 1
UNIT = 1.0 if CUTS_OFF else 0.5
ROUNDING = {"float16": (UNIT * 2.0**-10, UNIT * 2.0**-24), "bfloat16": (UNIT * 2.0**-7, 0.0)}

HALF = pytest.mark.parametrize("dtype", ROUNDING)
DTYPES = pytest.mark.parametrize(
    ("dtype", "cast_to"),
    [("float32", "float16"), ("float16", "bfloat16"), ("bfloat16", "bfloat16")],
)
TYPES = pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
STATIC = pytest.mark.skipif(PADDLE < (3, 0), reason="Paddle 2 has no loss in a static graph")
IGNORE_PLACE = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
IGNORE_CPU = pytest.mark.filterwarnings("ignore:amp_guard can only be enabled:UserWarning")

# What AMP calls the operators, and the methods of a tensor that call them.
METHODS = {
    "__add__": "elementwise_add",
    "__radd__": "elementwise_add",
    "__sub__": "elementwise_sub",
    "__mul__": "elementwise_mul",
    "__rmul__": "elementwise_mul",
    "__truediv__": "elementwise_div",
    "sum": "reduce_sum",
    "clip": "clip",
    "log": "log",
}
LISTED = {*METHODS.values(), "multiply", "scale", "sum", "add", "log1p", "abs", "square", "cast"}
WHITE, BLACK = {"custom_white_list": LISTED}, {"custom_black_list": LISTED}


@pytest.fixture
def amp(monkeypatch):
    """`paddle.amp.auto_cast` that casts on a CPU too, where Paddle's own does nothing.

    It sets the level that Paddle leaves at O0 there, and makes the operators of the white list
    return the half type, which is what they do on a GPU.
    """
    tracer = _dygraph_tracer()

    def casting(method, name):
        original = getattr(paddle.Tensor, method)

        def call(self, *args, **kwargs):
            out = original(self, *args, **kwargs)
            number = args and isinstance(args[0], int | float) and method != "sum"
            casts = ("scale" if number else name) in tracer._get_amp_op_list()[0]
            if tracer._amp_level != core.AmpLevel.O0 and casts and out.dtype == paddle.float32:
                return out.astype(tracer._amp_dtype)
            return out

        return call

    for method, name in METHODS.items():
        monkeypatch.setattr(paddle.Tensor, method, casting(method, name))

    @contextmanager
    def auto_cast(dtype, level, lists):
        with paddle.amp.auto_cast(level=level, dtype=dtype, **lists):
            tracer._amp_level, tracer._amp_dtype = getattr(core.AmpLevel, level), dtype
            yield

    return auto_cast


def run(maps, labels, context=None, **settings):
    """The losses and the gradient of "loss", as float32."""
    leaf = maps.detach()
    leaf.stop_gradient = False
    with context or nullcontext():
        losses = DBLoss(**settings)({"maps": leaf}, labels)
        losses["loss"].backward()
    assert leaf.grad.dtype == leaf.dtype
    return {key: scalar(v) for key, v in losses.items()}, leaf.grad.astype("float32").numpy()


def assert_rounded(got, exact, dtype):
    """`got` is finite and is `exact`, rounded to the dtype."""
    relative, absolute = ROUNDING.get(dtype, (0.0, 0.0))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, exact, rtol=relative + 1e-5, atol=absolute + 1e-12)


@HALF
@pytest.mark.parametrize(
    ("lists", "kind"),
    [
        *(pytest.param(WHITE, kind, id=f"white-{kind}") for kind in oracle.MAIN_LOSS_TYPES),
        pytest.param({}, "BCELoss", id="plain-BCELoss"),
        pytest.param(BLACK, "BCELoss", id="black-BCELoss"),
    ],
)
@IGNORE_CPU
def test_loss_and_gradient_are_those_of_the_rounded_values(engine, amp, lists, kind, dtype):
    batch = make_batch(seed=5)
    half, labels = tensor(batch.maps, dtype), tensors(batch.labels)
    rounded = half.astype("float32")
    assert (rounded.numpy() != batch.maps).mean() > 0.9
    settings = {"main_loss_type": kind}
    expected, slope = oracle.db({"maps": rounded.numpy()}, batch.labels, **settings)
    losses, grad = run(rounded, labels, **settings)
    for context in (None, amp(dtype, "O1", lists), amp(dtype, "O2", lists)):
        half_losses, half_grad = run(half, labels, context, **settings)
        assert half_losses == pytest.approx(expected, rel=1e-4)
        assert half_losses == pytest.approx(losses, rel=1e-4)
        assert_rounded(half_grad, grad, dtype)
        assert_rounded(half_grad, slope["maps"], dtype)


@IGNORE_CPU
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_the_white_list_casts_what_is_not_protected(amp, level):
    """The stand-in for AMP does something: the test above would see it."""
    one = paddle.ones([2])
    with amp("float16", level, WHITE):
        assert {(one + one).dtype, (3.0 * one).dtype, one.sum().dtype} == {paddle.float16}
        with paddle.amp.auto_cast(enable=False):
            assert {(one + one).dtype, (3.0 * one).dtype, one.sum().dtype} == {paddle.float32}
    with amp("float16", level, BLACK):
        assert (one * one).dtype == paddle.float32


def with_origin(kind):
    return lambda p, g, m: (oracle.balance(p, g, m, kind), oracle.origin(p, g, m, kind))


@DTYPES
@IGNORE_CPU
@pytest.mark.parametrize(
    ("layer", "expect"),
    [
        (DiceLoss(), oracle.dice),
        (MaskL1Loss(), oracle.masked_l1),
        (DiceFocalLoss(), oracle.dice_focal),
        *(
            (BalanceLoss(main_loss_type=kind, return_origin=True), with_origin(kind))
            for kind in ("BCELoss", "DiceLoss")
        ),
    ],
    ids=["dice", "masked_l1", "dice_focal", "pixel_loss", "scalar_loss"],
)
def test_single_losses_do_not_depend_on_the_lists(engine, amp, layer, expect, dtype, cast_to):
    batch = make_batch(seed=6)
    leaf, (gt, mask) = tensor(batch.maps[:, 0], dtype, grad=True), tensors([batch.g, batch.m])
    p = leaf.astype("float32").numpy()
    expected = expect(p, batch.g, batch.m)
    with amp(cast_to, "O1", WHITE):
        got = layer(leaf, gt, mask)
        got, expected = (got, expected) if isinstance(got, tuple) else ([got], [expected])
        for loss, (value, slope) in zip(got, expected, strict=True):
            assert loss.dtype == paddle.float32
            np.testing.assert_allclose(loss.numpy(), value, rtol=1e-5)
            loss.backward(paddle.ones_like(loss))
            assert_rounded(leaf.grad.astype("float32").numpy(), slope, dtype)
            leaf.clear_gradient()


class UnderAmp(paddle.nn.Layer):
    """A call in a static graph, which AMP casts on a CPU too."""

    def __init__(self, call, dtype):
        super().__init__()
        self.call, self.dtype = call, dtype

    def forward(self, inputs):
        with paddle.amp.auto_cast(level="O1", dtype=self.dtype, **WHITE):
            out = self.call(*inputs)
        return out


def graph_under_amp(call, dtype):
    return paddle.jit.to_static(UnderAmp(call, dtype), full_graph=True)


@STATIC
@IGNORE_PLACE
@DTYPES
@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_static_graph_does_not_depend_on_the_lists(kind, dtype, cast_to):
    batch, layer = make_batch(seed=8), DBLoss(main_loss_type=kind)
    call = graph_under_amp(lambda maps, *labels: layer({"maps": maps}, [None, *labels]), cast_to)
    leaf = tensor(batch.maps, dtype, grad=True)
    losses = call([leaf, *tensors(batch.labels[1:])])
    losses["loss"].backward()
    rounded = leaf.astype("float32").numpy()
    expected, slope = oracle.db({"maps": rounded}, batch.labels, main_loss_type=kind)
    assert {key: scalar(v) for key, v in losses.items()} == pytest.approx(expected, rel=2e-6)
    assert leaf.grad.dtype == leaf.dtype
    assert_rounded(leaf.grad.astype("float32").numpy(), slope["maps"], dtype)


@STATIC
@IGNORE_PLACE
@HALF
def test_functions_in_a_static_graph_do_not_depend_on_the_lists(dtype):
    p, g, m = make_batch(seed=9).single
    half = tensor(p, dtype)
    rounded = half.astype("float32").numpy()
    layer = BalanceLoss(main_loss_type="Euclidean", return_origin=True)
    loss, origin = graph_under_amp(layer, dtype)([half, *tensors([g, m])])
    assert scalar(loss) == pytest.approx(oracle.balance(rounded, g, m, "Euclidean")[0], rel=2e-6)
    assert origin.dtype == paddle.float32
    np.testing.assert_allclose(origin.numpy(), oracle.squared(rounded, g)[0], rtol=1e-5)
    weighted = graph_under_amp(DiceLoss(), dtype)([half, *tensors([g, m, m])])
    assert scalar(weighted) == pytest.approx(oracle.dice(rounded, g, m)[0], rel=2e-6)
    weights = graph_under_amp(hard_negative_weights, dtype)([half, *tensors([g, m])])
    assert weights.dtype == paddle.float32
    np.testing.assert_allclose(weights.numpy(), oracle.hard_negative_weights(rounded, g, m))


@STATIC
@HALF
def test_a_static_graph_casts_what_is_not_protected(dtype):
    total = graph_under_amp(lambda x: x.sum(), dtype)([paddle.ones([2, 3])])
    assert total.dtype == getattr(paddle, dtype)


@HALF
@IGNORE_CPU
def test_maps_cast_from_float32(engine, dtype):
    """A model keeps float32 in front of its half-precision head: the gradient goes through."""
    batch = make_batch(seed=7)
    leaf, seen = tensor(batch.maps, grad=True), []
    with paddle.amp.auto_cast(level="O1", dtype=dtype):
        maps = leaf.astype(dtype)
        maps.register_hook(lambda grad: seen.append(grad.dtype))
        DBLoss()({"maps": maps}, tensors(batch.labels))["loss"].backward()
    assert seen == [maps.dtype] and leaf.grad.dtype == paddle.float32
    rounded = maps.astype("float32").numpy()
    assert_rounded(leaf.grad.numpy(), oracle.db({"maps": rounded}, batch.labels)[1]["maps"], dtype)


LOG2 = float(np.log(2))
# The loss of the probability map on a page that is all text, at 0.5 everywhere; at 1 it is 0.
AT_HALF = dict.fromkeys(("DiceLoss", "OHEMDiceLoss"), 1 / 3) | {
    "TverskyLoss": 1 - 0.5 / (0.7 * 0.5 + 0.3),
    "MaskL1Loss": 0.5,
    "BCELoss": LOG2,
    "Euclidean": 0.25,
    "DiceBCELoss": 1 / 3 + 0.2 * LOG2,
    "DiceFocalLoss": 1 / 3 + 0.25 * 0.25 * LOG2,
}


@TYPES
@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, "float16"), (1.0, "float16"), (0.5, "bfloat16")]
)
def test_sums_over_many_pixels_do_not_overflow(engine, kind, value, dtype):
    """512 x 512 pixels of 0.5 add up to 131072; float16 ends at 65504."""
    ones = [paddle.ones([1, 512, 512]) for _ in range(4)]
    maps = paddle.full([1, 3, 512, 512], value).astype(dtype)
    losses, grad = run(maps, [None, *ones], main_loss_type=kind, alpha=1, beta=1)
    expected = AT_HALF[kind] if value == 0.5 else 0
    assert losses["loss_shrink_maps"] == pytest.approx(expected, rel=1e-4, abs=2e-6)
    assert losses["loss_threshold_maps"] == pytest.approx(1 - value, rel=1e-4)
    assert losses["loss_binary_maps"] == pytest.approx(
        AT_HALF[kind if kind == "DiceFocalLoss" else "DiceLoss"] if value == 0.5 else 0,
        rel=1e-4,
        abs=2e-6,
    )
    assert np.isfinite(grad).all() and grad.any()


def test_a_scaled_loss_scales_the_gradient_before_it_is_rounded(engine):
    """A pixel of a large page has a gradient below what float16 can tell from 0."""
    one = paddle.ones([1, 512, 512])
    layer = MaskL1Loss()
    for scale, expected in ((1.0, -(2.0**-18)), (2.0**-10, 0.0), (2.0**10, -(2.0**-8))):
        pred = tensor(np.zeros((1, 512, 512)), "float16", grad=True)
        (layer(pred, one, one) * scale).backward()
        assert set(pred.grad.numpy().ravel().tolist()) == {expected}


@HALF
@TYPES
def test_gradient_is_finite_where_the_prediction_is_0_or_1(engine, kind, dtype):
    """A sigmoid in half precision rounds to 0 and 1 long before one in float32."""
    g = np.zeros((1, 4, 4))
    g[0, 1:3, 1:3] = 1
    wrong = np.repeat(1 - g[:, None], 3, axis=1)
    one = np.ones_like(g)
    losses, grad = run(
        tensor(wrong, dtype), tensors([None, 0.3 * one, one, g, one]), main_loss_type=kind
    )
    assert np.isfinite(list(losses.values())).all() and np.isfinite(grad).all()
    if kind in oracle.PIXEL_LOSS:
        np.testing.assert_array_equal(np.sign(grad[:, 0]), 1 - 2 * g)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float16") for kind in oracle.MAIN_LOSS_TYPES), ("BCELoss", "bfloat16")],
)
def test_training_from_saturated_predictions_stays_finite(engine, kind, dtype):
    """From logits so large that probabilities round to 0 and 1, right and wrong ones.

    What is infinite is an overflow, which a smaller scale mends, as a GradScaler finds it.
    """
    labels = tensors(make_batch(shape=(1, 32, 32), seed=9).labels)
    logits = tensor(np.random.default_rng(9).normal(0, 10, (1, 2, 32, 32)), grad=True)
    course, scale = [], 1.0
    while len(course) < 20:
        p, t = paddle.nn.functional.sigmoid(logits).unbind(axis=1)
        maps = paddle.stack([p, t, differentiable_binarization(p, t)], axis=1).astype(dtype)
        loss = DBLoss(main_loss_type=kind)({"maps": maps}, labels)["loss"]
        (scale * loss).backward()
        if dtype == "float16" and np.isinf(logits.grad.numpy()).any():
            scale /= 2
            assert scale > 1e-6
            logits.clear_gradient()
            continue
        course.append(scalar(loss))
        assert np.isfinite(logits.grad.numpy()).all()
        logits = (logits - 10.0 / scale * logits.grad).detach()
        logits.stop_gradient = False
    assert np.isfinite(course).all() and course[-1] < course[0]
