"""Static graphs give the values and gradients of eager mode, in any shape that the graph admits."""

import functools
import itertools
import textwrap

import numpy as np
import oracle
import paddle
import programs
import pytest
from helpers import (
    GOLDEN,
    GOLDEN_CASES,
    PADDLE,
    TOLERANCE,
    assert_grad,
    assert_value,
    check_db,
    golden_batch,
    make_batch,
    make_saturated,
    not_written,
    run_db,
    scalar,
    tensor,
    tensors,
)
from paddle.static import InputSpec

from dbloss import (
    BalanceLoss,
    DBLoss,
    DiceFocalLoss,
    DiceLoss,
    MaskL1Loss,
    differentiable_binarization,
    hard_negative_weights,
    validate_batch,
)

# Paddle's own, on the way back from an output of no axes.
pytestmark = [
    pytest.mark.skipif(PADDLE < (3, 0), reason="Paddle 2 gets an error: test_errors.py"),
    pytest.mark.filterwarnings(
        "ignore:Tensor do not have 'place' interface for pir graph mode:UserWarning"
    ),
]

TYPES = pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
FULL = pytest.mark.parametrize("mode", ["fixed", "dynamic"])
MODES = pytest.mark.parametrize("mode", ["fixed", "dynamic", "sot"])
# One loss that is a number, two that are mined, one of two terms: their graphs differ.
FOUR_KINDS = ("DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss")


def in_modes(**modes):
    """Runs a test for each kind of loss, or whatever it is called, in each of the modes given.

    What differs between the modes is what Paddle makes of a graph, and not the formula.
    """
    cases = [(kind, mode) for mode, kinds in modes.items() for kind in kinds]
    return pytest.mark.parametrize(("kind", "mode"), cases)


AUX = {"aux_weight_p4": 0.2, "aux_weight_p3": 0.3, "aux_weight_p2": 0.5}


def specs(arrays, dtype="float32", name="x"):
    """An `InputSpec` without a fixed axis for each array; None stays None."""
    return [
        None if a is None else InputSpec([None] * np.ndim(a), dtype, f"{name}{i}")
        for i, a in enumerate(arrays)
    ]


def compiled(target, mode, *inputs):
    """`target` under `to_static`; `inputs` are the specifications for the mode "dynamic"."""
    if mode == "sot":
        return paddle.jit.to_static(target, full_graph=False)
    spec = list(inputs) if mode == "dynamic" else None
    return paddle.jit.to_static(target, full_graph=True, input_spec=spec)


def compiled_db(layer, mode="fixed", predicts=(), dtype="float32"):
    """`layer` under `to_static`, for predictions of these keys besides `maps`."""
    keys = ("maps", *predicts)
    maps = {key: InputSpec([None] * 4, dtype, key) for key in keys}
    return compiled(layer, mode, maps, [None, *specs([np.empty((0, 0, 0))] * 4)])


@functools.cache
def graph_of(kind):
    """The graph of a loss for batches of any size, which tests share: to make one takes long."""
    return compiled_db(DBLoss(main_loss_type=kind), "dynamic")


def check_batch(layer, batch, dtype="float32", **settings):
    got = run_db(layer, {"maps": batch.maps}, batch.labels, dtype)
    check_db(got, oracle.db({"maps": batch.maps}, batch.labels, **settings), TOLERANCE[dtype])


# DBLoss -----------------------------------------------------------------------------------------


@in_modes(dynamic=oracle.MAIN_LOSS_TYPES, fixed=["BCELoss"], sot=["DiceLoss", "BCELoss"])
def test_one_graph_for_batches_of_every_kind_and_size(kind, mode):
    dynamic = mode == "dynamic"
    layer = graph_of(kind) if dynamic else compiled_db(DBLoss(main_loss_type=kind), mode)
    shapes = [(2, 8, 12)] if mode == "fixed" else [(2, 8, 12), (3, 5, 7), (1, 1, 1)]
    check_batch(layer, make_batch(seed=50), main_loss_type=kind)
    graphs = None if mode == "sot" else len(layer.forward.program_cache)
    data = ["binary", "soft", "ties", "no_text", "all_text", "all_ignored", "masks_255"]
    data += [] if kind == "DiceFocalLoss" else ["shifted_noise", "negative_dice"]
    if kind == "TverskyLoss":
        data.remove("shifted_noise")  # T is near 1 there, and the digits of 1 - T cancel
    for shape in shapes:
        for each in data:
            check_batch(layer, make_batch(each, shape, seed=50), main_loss_type=kind)
    if mode != "sot":
        assert len(layer.forward.program_cache) == graphs


@pytest.mark.parametrize("kind", ["OHEMDiceLoss", "DiceFocalLoss"])
def test_in_float64(kind):
    layer = compiled_db(DBLoss(main_loss_type=kind), "dynamic", dtype="float64")
    check_batch(layer, make_batch("soft", seed=51), "float64", main_loss_type=kind)


@pytest.mark.parametrize(
    ("gamma", "dtype"), [(0, "float32"), (2, "float32"), (2.5, "float32"), (2.5, "float64")]
)
def test_saturated_predictions_of_dice_focal(gamma, dtype):
    settings = {"main_loss_type": "DiceFocalLoss", "focal_gamma": gamma}
    layer = compiled_db(DBLoss(**settings), dtype=dtype)
    for soft in (False, True):
        check_batch(layer, make_saturated(soft), dtype, **settings)


@pytest.mark.parametrize("name", ["bce_ratio_1", "mask_l1_main", "aux"])
def test_golden(name):
    case = GOLDEN_CASES[name]
    predicts, labels, grads = golden_batch(case)
    layer = compiled_db(DBLoss(**case.kwargs))
    check_db(run_db(layer, predicts, labels), (case.outputs, grads), GOLDEN)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.5, "beta": 0, "ohem_ratio": 0.5, "eps": 0.25, "smooth": 1.5},
        {"balance_loss": False, "fallback_negatives": 5},
        {"fallback_negatives": 5},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_settings(kind, settings):
    layer = compiled_db(DBLoss(main_loss_type=kind, **settings))
    for data in ("binary", "no_text"):
        check_batch(layer, make_batch(data, seed=52), main_loss_type=kind, **settings)


@in_modes(dynamic=["OHEMDiceLoss"], sot=["OHEMDiceLoss"], fixed=["DiceFocalLoss"])
def test_cbn_and_aux_maps(kind, mode):
    a, b, c = (make_batch(seed=s).maps for s in (53, 54, 55))
    extra = {"distance_maps": a[:, :1], "cbn_maps": b[:, :2], "aux_maps_p4": a, "aux_maps_p2": c}
    batch = make_batch(seed=56)
    predicts, settings = {"maps": batch.maps, **extra}, {"main_loss_type": kind, **AUX}
    layer = compiled_db(DBLoss(**settings), mode, extra)
    got = run_db(layer, predicts, batch.labels)
    check_db(got, oracle.db(predicts, batch.labels, **settings), TOLERANCE["float32"])


@pytest.mark.parametrize("label_dtype", ["bool", "uint8", "bfloat16", "float64"])
def test_labels_of_any_dtype(label_dtype):
    batch, kind = make_batch(seed=57)._replace(t=make_batch(seed=58).g), "BCELoss"
    layer = compiled_db(DBLoss(main_loss_type=kind))
    got = run_db(layer, {"maps": batch.maps}, batch.labels, label_dtype=label_dtype)
    expected = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    check_db(got, expected, TOLERANCE["float32"])


@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_each_part_has_its_own_gradient(kind):
    """The upstream gradient of every output reaches the maps, and no output changes another."""
    batch, factors = make_batch(seed=59), {"loss": 0.5, **dict(zip(oracle.PARTS, (2, -3, 7)))}
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    leaf = tensor(batch.maps, grad=True)
    out = graph_of(kind)({"maps": leaf}, tensors(batch.labels))
    sum(factor * out[key] for key, factor in factors.items()).backward()
    scaled = [0.5 + factors[key] for key in oracle.PARTS]
    expected = grads["maps"] * np.reshape(scaled, (1, 3, 1, 1))
    assert_grad(leaf.grad.numpy(), expected, TOLERANCE["float32"])
    for key, value in losses.items():
        assert_value(scalar(out[key]), value, TOLERANCE["float32"])


def both(layer, other, batch, **dtypes):
    """Losses, and the gradient of the maps, of two layers on one batch."""
    for each in (layer, other):
        losses, grads = run_db(each, {"maps": batch.maps}, batch.labels, **dtypes)
        yield losses, widened(grads["maps"])


def widened(array):
    """`array` as float32; NumPy has no bfloat16, whose bits are the first half of a float32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_half_precision(kind, dtype):
    """To the last bit but for sums in another order: the gradient is rounded once."""
    layer = compiled_db(DBLoss(main_loss_type=kind), "dynamic", dtype=dtype)
    got, expected = both(layer, DBLoss(main_loss_type=kind), make_batch(seed=60), dtype=dtype)
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    step = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    np.testing.assert_allclose(got[1], expected[1], rtol=step, atol=2.0**-24)
    assert (got[1] == expected[1]).mean() > 0.99


@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_a_saturated_float16_prediction_keeps_a_finite_gradient(kind):
    batch = make_batch(seed=61)
    batch = batch._replace(maps=np.float32(batch.maps > 0.5))
    layer = compiled_db(DBLoss(main_loss_type=kind), "dynamic", dtype="float16")
    got, expected = both(layer, DBLoss(main_loss_type=kind), batch, dtype="float16")
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_array_equal(got[1], expected[1])
    if kind == "BCELoss":
        assert np.abs(got[1]).max() == np.finfo(np.float16).max


@pytest.mark.parametrize("kind", FOUR_KINDS)
def test_a_prediction_that_is_not_finite_makes_its_part_nan(kind):
    layer = graph_of(kind)
    for wrong in (np.nan, np.inf, -np.inf):
        batch = make_batch(seed=62)
        batch.maps[0, :, 1, 1] = wrong
        batch.g[0, 1, 1] = batch.k[0, 1, 1] = batch.m[0, 1, 1] = 1
        losses, _ = run_db(layer, {"maps": batch.maps}, batch.labels)
        assert losses.keys() == {"loss", *oracle.PARTS}
        assert np.isnan(list(losses.values())).all(), wrong


# In a model -------------------------------------------------------------------------------------


class Detector(paddle.nn.Layer):
    """A head of one convolution in front of the loss."""

    def __init__(self, loss):
        super().__init__()
        self.conv, self.loss = paddle.nn.Conv2D(2, 2, 3, padding=1), loss

    def forward(self, image, t, k, g, m):
        both = paddle.nn.functional.sigmoid(self.conv(image))
        probability, threshold = both[:, :1], both[:, 1:]
        binary = differentiable_binarization(probability, threshold)
        maps = paddle.concat([probability, threshold, binary], axis=1)
        return self.loss({"maps": maps}, [None, t, k, g, m])


def inputs(batch):
    """What `Detector` takes: an image of two channels and the labels."""
    return tensors([batch.maps[:, :2], *batch.labels[1:]])


def detectors(mode, loss):
    """Two detectors of the same weights, the first of them compiled."""
    paddle.seed(0)
    plain, other = Detector(loss()), Detector(loss())
    other.set_state_dict(plain.state_dict())
    labels = [np.empty((0, 0, 0))] * 4
    return compiled(other, mode, *specs([np.empty((0, 0, 0, 0)), *labels])), plain


def assert_same(got, expected):
    """Relative to the largest, for a weight's gradient is a sum over the pixels."""
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@in_modes(dynamic=["OHEMDiceLoss", "DiceFocalLoss"], fixed=["BCELoss"], sot=["BCELoss"])
def test_weights_of_a_model_learn_the_same(kind, mode):
    """Three steps with batches of three sizes, one of them without text, through one graph."""
    pair = detectors(mode, lambda: DBLoss(main_loss_type=kind))
    steps = [paddle.optimizer.SGD(0.05, parameters=each.parameters()) for each in pair]
    for data, shape in (("binary", (2, 8, 12)), ("no_text", (1, 6, 9)), ("soft", (3, 10, 4))):
        batch = inputs(make_batch(data, shape, seed=63))
        losses, grads = [], []
        for model, step in zip(pair, steps):
            out = model(*batch)
            out["loss"].backward()
            losses.append({key: scalar(loss) for key, loss in out.items()})
            grads.append([p.grad.numpy() for p in model.parameters()])
            step.step()
            step.clear_grad()
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for got, expected in zip(*grads):
            assert np.abs(expected).max() > 0
            assert_same(got, expected)


class Constant(paddle.nn.Layer):
    """A user's own loss: the sum of the prediction times 0.01."""

    def forward(self, pred, gt, mask):
        return 0.01 * pred.sum()


@pytest.mark.parametrize("mode", ["dynamic", "sot"])
@pytest.mark.parametrize("index, name", [(0, "bce_loss"), (1, "l1_loss"), (2, "dice_loss")])
def test_a_replaced_part_is_the_one_that_runs(index, name, mode):
    layer, batch = DBLoss(), make_batch(seed=64)
    setattr(layer, name, Constant())
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels)
    key, weight = oracle.PARTS[index], (5, 10, 1)[index]
    losses["loss"] -= losses[key]
    losses[key] = weight * 0.01 * batch.maps[:, index].astype(np.float64).sum()
    losses["loss"] += losses[key]
    grads["maps"][:, index] = weight * 0.01
    got = run_db(compiled_db(layer, mode), {"maps": batch.maps}, batch.labels)
    check_db(got, (losses, grads), TOLERANCE["float32"])


class Distilled(DBLoss):
    """DBLoss over two models, and a part on its own, as distillation losses use it."""

    def forward(self, student, teacher, t, k, g, m):
        labels = [None, t, k, g, m]
        out = super().forward({"maps": student}, labels)["loss"]
        out = out + super().forward({"maps": teacher}, labels)["loss_shrink_maps"]
        return out + self.dice_loss(student[:, 0], (teacher[:, 0] > 0.3).astype("float32"), m)


@pytest.mark.parametrize("mode", ["dynamic", "sot"])
def test_a_subclass_over_two_models(mode):
    batch, teacher = make_batch(seed=65), make_batch(seed=66).maps
    arrays = (batch.maps, teacher, *batch.labels[1:])
    layer = compiled(Distilled(main_loss_type="BCELoss"), mode, *specs(arrays))
    leaf, fixed = tensor(batch.maps, grad=True), tensor(teacher)
    loss = layer(leaf, fixed, *tensors(batch.labels[1:]))
    loss.backward()
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type="BCELoss")
    other, _ = oracle.db({"maps": teacher}, batch.labels, main_loss_type="BCELoss")
    dice, slope = oracle.dice(batch.maps[:, 0], teacher[:, 0] > 0.3, batch.m)
    grads["maps"][:, 0] += slope
    expected = losses["loss"] + other["loss_shrink_maps"] + dice
    assert_value(scalar(loss), expected, TOLERANCE["float32"])
    assert_grad(leaf.grad.numpy(), grads["maps"], TOLERANCE["float32"])


# The single losses ------------------------------------------------------------------------------

P, G, M = make_batch(seed=67).single
W, ONES = make_batch("soft", seed=68).m, np.ones_like(G)
SINGLE = {
    "dice": (DiceLoss, {}, (P, G, M), oracle.dice(P, G, M)),
    "dice_weights": (DiceLoss, {}, (P, G, M, W), oracle.dice(P, G, M, W)),
    "masked_l1": (MaskL1Loss, {}, (P, W, M), oracle.masked_l1(P, W, M)),
    "dice_focal": (DiceFocalLoss, {}, (P, G, M), oracle.dice_focal(P, G, M)),
    "dice_focal_without_mask": (DiceFocalLoss, {}, (P, G), oracle.dice_focal(P, G, ONES)),
    "balance_without_mask": (BalanceLoss, {}, (P, G), oracle.balance(P, G, ONES)),
    **{
        f"{kind}-{balanced}": (
            BalanceLoss,
            {"balance_loss": balanced, "main_loss_type": kind},
            (P, G, M),
            oracle.balance(P, G, M, kind, balanced),
        )
        for kind in oracle.BALANCED
        for balanced in (True, False)
    },
}


# Balanced ones are in the graphs of DBLoss.
@in_modes(
    dynamic=["OHEMDiceLoss-True", *(name for name in SINGLE if "True" not in name)],
    fixed=["dice_focal"],
    sot=["dice_weights", "BCELoss-True"],
)
def test_single_loss(kind, mode):
    layer, settings, (pred, *labels), (value, grad) = SINGLE[kind]
    call = compiled(layer(**settings), mode, *specs([pred, *labels]))
    leaf = tensor(pred, grad=True)
    loss = call(leaf, *tensors(labels))
    (3 * loss).backward()
    assert_value(scalar(loss), value, TOLERANCE["float32"])
    assert_grad(leaf.grad.numpy(), 3 * grad, TOLERANCE["float32"])


# Python 3.13: Paddle traces the map of a pixel's loss, in which no operator works in place then.
@pytest.mark.filterwarnings("ignore:In static graph mode:UserWarning")
@in_modes(dynamic=["DiceLoss", *oracle.PIXEL_LOSS], sot=["BCELoss"])
def test_return_origin(kind, mode):
    """The loss and what it is before the balance, with an upstream gradient for each."""
    call = compiled(BalanceLoss(True, kind, return_origin=True), mode, *specs([P, G, M]))
    leaf = tensor(P, grad=True)
    loss, origin = call(leaf, *tensors([G, M]))
    (loss + (origin * tensor(W)).sum()).backward()
    value, grad = oracle.balance(P, G, M, kind)
    before, slope = oracle.origin(P, G, M, kind)
    assert_value(scalar(loss), value, TOLERANCE["float32"])
    np.testing.assert_allclose(origin.numpy(), before, rtol=2e-6)
    expected = grad + slope * (W if before.ndim else W.sum())
    assert_grad(leaf.grad.numpy(), expected, TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_origin_in_half_precision(dtype):
    layer = BalanceLoss(main_loss_type="BCELoss", return_origin=True)
    call = compiled(
        BalanceLoss(main_loss_type="BCELoss", return_origin=True),
        "dynamic",
        *specs([P], dtype),
        *specs([G, M], name="label"),
    )
    results = []
    for each in (call, layer):
        leaf = tensor(P, dtype, grad=True)
        loss, origin = each(leaf, *tensors([G, M]))
        origin.mean().backward()
        results.append((scalar(loss), origin.numpy(), leaf.grad.astype("float32").numpy()))
    assert origin.dtype == paddle.float32
    for got, expected in zip(*results):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


# Functions --------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_differentiable_binarization(dtype, mode):
    call = compiled(differentiable_binarization, mode, *specs([P, W], dtype))
    p, t = tensor(P, dtype, grad=True), tensor(W, dtype, grad=True)
    out = call(p, t)
    out.sum().backward()
    value, grad = oracle.binarize(P, W)
    np.testing.assert_allclose(out.numpy(), value, rtol=1e-4)
    np.testing.assert_allclose(p.grad.numpy(), grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(t.grad.numpy(), -grad, rtol=1e-4, atol=1e-5)


# Not in parts: Paddle traces the function down to numba, and fails there or not.
@FULL
def test_hard_negative_weights(mode):
    call = compiled(hard_negative_weights, mode, *specs([P, G, M]))
    for data in ("binary", "soft", "ties", "no_text", "all_text", "all_ignored"):
        arrays = make_batch(data, seed=69).single
        got = call(*tensors(arrays))
        assert got.dtype == paddle.float32
        np.testing.assert_allclose(got.numpy(), oracle.hard_negative_weights(*arrays), rtol=1e-6)


def weighted(pred, gt, mask):
    """The mean probability of the hard negatives: the weights are constants."""
    return (hard_negative_weights(pred, gt, mask) * pred).sum()


@FULL
def test_hard_negative_weights_have_no_gradient(mode):
    leaf = tensor(P, grad=True)
    compiled(weighted, mode, *specs([P, G, M]))(leaf, *tensors([G, M])).backward()
    expected = oracle.hard_negative_weights(P, G, M)
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-6)


def validated(maps, t, k, g, m):
    return validate_batch({"maps": maps}, [None, t, k, g, m])


@FULL
def test_validate_batch_says_that_there_is_nothing_to_read(mode):
    batch = make_batch()
    call = compiled(validated, mode, *specs([batch.maps, *batch.labels[1:]]))
    with pytest.raises(RuntimeError, match=r"validate_batch: expected eager mode, got a static"):
        call(*tensors([batch.maps, *batch.labels[1:]]))


# Engines and errors -----------------------------------------------------------------------------


def step(layer):
    batch = make_batch()
    return run_db(layer, {"maps": batch.maps}, batch.labels)


@FULL
def test_the_operators_engine_runs_by_itself(mode, monkeypatch):
    from dbloss.engine import fused

    class FusedCalledError(Exception):
        pass

    def sweep(*args):
        raise FusedCalledError

    monkeypatch.setattr(fused, "evaluate", sweep)
    monkeypatch.delenv("DBLOSS_ENGINE", raising=False)
    with pytest.raises(FusedCalledError):
        step(DBLoss())
    step(compiled_db(DBLoss(), mode))


@FULL
def test_the_fused_engine_asked_for_by_name(mode, monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    with pytest.raises(RuntimeError, match=r"eager mode alone and this is a static graph.*Delete"):
        step(compiled_db(DBLoss(), mode))
    call = compiled(hard_negative_weights, mode, *specs([P, G, M]))
    with pytest.raises(RuntimeError, match=r"eager mode alone and this is a static graph.*Delete"):
        call(*tensors([P, G, M]))


def test_a_wrong_shape_is_named():
    batch = make_batch()
    labels = [None, *(each[:, :, 1:] for each in batch.labels[1:])]
    message = r"labels\[1\] \(threshold_map\): expected the shape \[2, 8, 12\].* got \[2, 8, 11\]"
    with pytest.raises(ValueError, match=message):
        run_db(compiled_db(DBLoss()), {"maps": batch.maps}, labels)


WRONG = [(1, 4, 6), (2, 4, 1), (2, 1, 6), (2, 6, 4), (2, 4, 5)]


def test_nothing_is_broadcast_behind_open_axes():
    layer = graph_of("BCELoss")
    maps, label = paddle.full([2, 3, 4, 6], 0.5), paddle.full([2, 4, 6], 0.5)
    layer({"maps": maps}, [None, *[label] * 4])
    for index, shape in itertools.product(range(1, 5), WRONG):
        labels = [None, *[label] * 4]
        labels[index] = paddle.full(shape, 0.5)
        with pytest.raises(ValueError, match="InvalidArgument"):
            layer({"maps": maps}, labels)


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (0, 3, 4, 6)])
def test_channels_and_emptiness_behind_open_axes(shape):
    layer = graph_of("DiceLoss")
    with pytest.raises(ValueError, match="InvalidArgument"):
        layer({"maps": paddle.zeros(shape)}, [None, *([paddle.zeros(shape[::2] + shape[3:])] * 4)])


@pytest.mark.parametrize(
    ("function", "count"), [(differentiable_binarization, 2), (hard_negative_weights, 3)]
)
def test_functions_behind_open_axes(function, count):
    call = compiled(function, "dynamic", *specs([np.empty((0, 0, 0))] * count))
    given = [paddle.full([2, 4, 6], 0.5)] * (count - 1)
    call(*given, given[0])
    for shape in WRONG:
        with pytest.raises(ValueError, match="InvalidArgument"):
            call(*given, paddle.full(shape, 0.5))


# Saved graphs and programs ----------------------------------------------------------------------


def in_a_process(code, *args):
    """Run code in a process of its own."""
    result = programs.run("-W", "ignore", "-c", textwrap.dedent(code), *args)
    assert result.returncode == 0, result.stderr


LOAD = """
    import sys, numpy as np, paddle

    folder = sys.argv[1]
    arrays = np.load(f"{folder}/batch.npz")
    out = {}
    for kind in sys.argv[2:]:
        layer = paddle.jit.load(f"{folder}/{kind}")
        layer.train()
        image, *labels = (paddle.to_tensor(arrays[f"arr_{i}"]) for i in range(5))
        image.stop_gradient = False
        losses = layer(image, *labels)
        losses[0].backward()
        out[f"{kind}.losses"] = [float(loss) for loss in losses]
        out[f"{kind}.image"] = image.grad.numpy()
        for parameter in layer.parameters():
            name = "bias" if parameter.ndim == 1 else "weight"
            out[f"{kind}.{name}"] = parameter.grad.numpy()
    assert "dbloss" not in sys.modules
    np.savez(f"{folder}/out.npz", **out)
"""


@pytest.mark.filterwarnings("ignore:Found 'dict' in given outputs:UserWarning")
def test_a_saved_model_with_its_loss(tmp_path):
    """Loaded in a process without dbloss, on a batch of another size than the example."""
    batch = inputs(make_batch("soft", (3, 6, 10), seed=70))
    np.savez(tmp_path / "batch.npz", *(each.numpy() for each in batch))
    expected = {}
    for kind in oracle.MAIN_LOSS_TYPES:
        graph, plain = detectors("dynamic", lambda: DBLoss(main_loss_type=kind))  # noqa: B023
        paddle.jit.save(graph, str(tmp_path / kind))
        image = batch[0].detach()
        image.stop_gradient = False
        losses = plain(image, *batch[1:])
        losses["loss"].backward()
        expected[f"{kind}.losses"] = [scalar(losses[key]) for key in sorted(losses)]
        expected[f"{kind}.image"] = image.grad.numpy()
        expected[f"{kind}.weight"] = plain.conv.weight.grad.numpy()
        expected[f"{kind}.bias"] = plain.conv.bias.grad.numpy()
    in_a_process(LOAD, tmp_path, *oracle.MAIN_LOSS_TYPES)
    with np.load(tmp_path / "out.npz") as out:
        assert set(out) == set(expected)
        for key, value in expected.items():
            assert_same(out[key], value)


PROGRAM = """
    import sys, numpy as np, paddle
    from dbloss import DBLoss

    folder = sys.argv[1]
    arrays = [np.load(f"{folder}/batch.npz")[f"arr_{i}"] for i in range(5)]
    paddle.enable_static()
    out = {}
    for kind in sys.argv[2:]:
        program = paddle.static.Program()
        with paddle.static.program_guard(program):
            maps = paddle.static.data("maps", [None, 3, None, None], "float32")
            maps.stop_gradient = False
            names = ("t", "k", "g", "m")
            labels = [paddle.static.data(name, [None, None, None], "float32") for name in names]
            losses = DBLoss(main_loss_type=kind)({"maps": maps}, [None, *labels])
            (grad,) = paddle.static.gradients([losses["loss"]], [maps])
        executor = paddle.static.Executor(paddle.CPUPlace())
        feed = dict(zip(("maps", *names), arrays))
        *values, out[f"{kind}.maps"] = executor.run(
            program, feed=feed, fetch_list=[*losses.values(), grad]
        )
        out[f"{kind}.losses"] = [float(value) for value in values]
    np.savez(f"{folder}/out.npz", **out)
"""


def test_a_program_of_paddle_static(tmp_path):
    batch = make_batch("soft", (3, 6, 10), seed=71)
    np.savez(tmp_path / "batch.npz", batch.maps, *batch.labels[1:])
    in_a_process(PROGRAM, tmp_path, *oracle.MAIN_LOSS_TYPES)
    with np.load(tmp_path / "out.npz") as out:
        for kind in oracle.MAIN_LOSS_TYPES:
            losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
            assert out[f"{kind}.losses"] == pytest.approx(
                [losses[key] for key in ("loss", *oracle.PARTS)], rel=2e-6
            )
            for channel in range(3):
                got, expected = out[f"{kind}.maps"], grads["maps"]
                assert_grad(got[:, channel], expected[:, channel], TOLERANCE["float32"])


# Inputs left alone ------------------------------------------------------------------------------


def check_left_alone(call, graded, *given):
    """Two calls, the first of which makes the graph, do not write to what is given."""
    given[0].stop_gradient = not graded
    with not_written(*given):
        for _ in range(2):
            out = call(*given)
            parts = out if isinstance(out, tuple | list) else [out]
            if graded:
                sum(part.sum() for part in parts).backward()


# As a constant and with a gradient two graphs are made, of which either may write.
@in_modes(dynamic=oracle.MAIN_LOSS_TYPES, fixed=["OHEMDiceLoss"], sot=["OHEMDiceLoss"])
def test_inputs_are_not_written_to(kind, mode):
    batch = make_batch(seed=90)
    dynamic = mode == "dynamic"
    layer = graph_of(kind) if dynamic else compiled_db(DBLoss(main_loss_type=kind), mode)
    for graded in (False, True):
        given = tensors([batch.maps, *batch.labels[1:]])
        check_left_alone(
            lambda maps, *labels: layer({"maps": maps}, [None, *labels])["loss"], graded, *given
        )


@in_modes(dynamic=["dice_weights", "dice_focal_without_mask"], sot=["dice_weights"])
def test_inputs_of_a_single_loss_are_not_written_to(kind, mode):
    layer, settings, arrays, _ = SINGLE[kind]
    call = compiled(layer(**settings), mode, *specs(arrays))
    for graded in (False, True):
        check_left_alone(call, graded, *tensors(arrays))


@in_modes(dynamic=["DiceLoss", *oracle.PIXEL_LOSS], sot=["BCELoss"])
def test_inputs_of_a_loss_with_its_origin_are_not_written_to(kind, mode):
    call = compiled(BalanceLoss(True, kind, return_origin=True), mode, *specs([P, G, M]))
    for graded in (False, True):
        check_left_alone(call, graded, *tensors([P, G, M]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_of_hard_negative_weights_are_not_written_to(dtype):
    call = compiled(hard_negative_weights, "dynamic", *specs([P, G, M], dtype))
    check_left_alone(call, False, *tensors([P, G, M], dtype))
