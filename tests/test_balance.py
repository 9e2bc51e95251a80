import itertools

import numpy as np
import oracle
import paddle
import pytest
from helpers import (
    LABEL_DTYPES,
    TOLERANCE,
    assert_grad,
    assert_value,
    check,
    make_batch,
    scalar,
    tensor,
    tensors,
    value_and_grad,
)

from dbloss import BalanceLoss, DiceFocalLoss, hard_negative_weights

pytestmark = pytest.mark.usefixtures("engine")

ALL = pytest.mark.parametrize("kind", oracle.BALANCED)
PER_PIXEL = pytest.mark.parametrize("kind", oracle.PIXEL_LOSS)
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


def names(ratio=3, fallback=0, **same):
    """Settings of the oracle under the layer's names."""
    return {"negative_ratio": ratio, "fallback_negatives": fallback, **same}


def check_balance(kind, pgm, dtype="float32", **settings):
    p, g, m = pgm
    layer = BalanceLoss(main_loss_type=kind, **names(**settings))
    gt, mask = tensors((g, m))
    check(lambda x: layer(x, gt, mask), p, oracle.balance(p, g, m, kind, **settings), dtype)


@ALL
@pytest.mark.parametrize(
    ("data", "shape", "dtype"),
    [
        ("binary", (2, 8, 12), "float32"),
        ("soft", (3, 5, 2), "float32"),
        ("soft", (2, 8, 12), "float64"),
        ("ties", (2, 8, 12), "float64"),
        ("masks_255", (2, 8, 12), "float32"),
        ("negative_dice", (2, 8, 12), "float32"),
        ("binary", (1, 1, 1), "float64"),
    ],
)
def test_value_and_gradient(kind, data, shape, dtype):
    check_balance(kind, make_batch(data, shape, seed=6).single, dtype)


@ALL
@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"ratio": 0}, "binary"),
        ({"ratio": 0.5}, "ties"),
        ({"ratio": 1e9}, "binary"),
        ({"eps": 0.5, "smooth": 2.0}, "binary"),
        ({"ratio": 1, "fallback": 7}, "binary"),
        ({"fallback": 7, "smooth": 2.0}, "no_text"),
    ],
)
def test_settings(kind, settings, data):
    check_balance(kind, make_batch(data, seed=7).single, **settings)


@pytest.mark.parametrize("balanced", [True, False])
def test_cross_entropy_is_another_name_of_bce_loss(balanced):
    p, g, m = make_batch("ties", seed=7).single
    gt, mask = tensors((g, m))
    results = []
    for kind in ("CrossEntropy", "BCELoss"):
        layer, pred = BalanceLoss(balanced, kind, return_origin=True), tensor(p, grad=True)
        out = layer(pred, gt, mask)
        out = list(out) if balanced else [out]
        sum(part.sum() for part in out).backward()
        results.append([*out, pred.grad])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())


def test_unknown_keywords_are_reported_by_name(caplog):
    layer = BalanceLoss(ohem_ratio=1, colour="red", name="BalanceLoss")
    (record,) = caplog.records
    assert record.pathname == __file__
    assert "BalanceLoss does not know 'colour', 'ohem_ratio' and" in record.getMessage()
    p, g, m = make_batch().single
    gt, mask = tensors((g, m))
    check(lambda x: layer(x, gt, mask), p, oracle.balance(p, g, m))


def test_the_name_of_a_configuration_passes_silently(caplog):
    BalanceLoss(name="BalanceLoss")
    assert not caplog.records


@ALL
@pytest.mark.parametrize(("data", "dtype"), [("soft", "float64"), ("masks_255", "float32")])
def test_without_balance(kind, data, dtype):
    p, g, m = make_batch(data, seed=9).single
    gt, mask = tensors((g, m))
    for return_origin in (False, True):  # ignored, as in PaddleOCR
        layer = BalanceLoss(balance_loss=False, main_loss_type=kind, return_origin=return_origin)
        expected = oracle.balance(p, g, m, kind, balanced=False)
        check(lambda x, f=layer: f(x, gt, mask), p, expected, dtype)


def test_without_a_mask_every_pixel_counts():
    p, g, m = make_batch().single
    layer, (gt,) = BalanceLoss(main_loss_type="BCELoss"), tensors((g,))
    expected = oracle.balance(p, g, np.ones_like(m), "BCELoss")
    check(lambda x: layer(x, gt), p, expected)
    check(lambda x: layer(x, gt, None), p, expected)


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss", "OHEMDiceLoss"])
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_that_are_no_floats(kind, dtype):
    p, g, m = make_batch("binary" if dtype == "bool" else "masks_255").single
    layer = BalanceLoss(main_loss_type=kind, return_origin=True)
    gt, mask = tensors((g, m), dtype)
    check(lambda x: layer(x, gt, mask)[0], p, oracle.balance(p, g, m, kind))
    check(lambda x: layer(x, gt)[0], p, oracle.balance(p, g, np.ones_like(m), kind))
    _, origin = layer(tensor(p), gt, mask)
    np.testing.assert_allclose(origin.numpy(), oracle.origin(p, g, m, kind)[0], rtol=2e-6)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float32") for kind in oracle.BALANCED), ("BCELoss", "float64")],
)
def test_return_origin(kind, dtype):
    p, g, m = make_batch(seed=10).single
    layer = BalanceLoss(main_loss_type=kind, return_origin=True)
    pred, (gt, mask), tol = tensor(p, dtype, grad=True), tensors((g, m)), TOLERANCE[dtype]
    balanced, origin = layer(pred, gt, mask)
    loss, slope = oracle.balance(p, g, m, kind)
    want, origin_slope = oracle.origin(p, g, m, kind)
    assert_value(scalar(balanced), loss, tol)
    if kind in oracle.PIXEL_LOSS:
        assert origin.shape == pred.shape
        assert_grad(origin.numpy(), want, tol)
    else:
        assert_value(scalar(origin), want, tol)
    (2 * balanced + 0.5 * origin.sum()).backward()
    assert_grad(pred.grad.numpy(), 2 * slope + 0.5 * origin_slope, tol)


@BOTH
def test_gradient_of_the_cross_entropy_is_bounded_at_zero_and_one(dtype):
    """At 0 and 1 the slope is (p - g) / 1e-12, as in Paddle's kernel, and the logarithm -100."""
    p = np.array([[[0, 1, 0, 1, 0.25, 0.75, 0.5]]], np.float32)
    g = np.array([[[0, 1, 1, 0, 0.0, 1.0, 0.0]]], np.float32)
    layer, (gt, ones) = BalanceLoss(main_loss_type="BCELoss"), tensors((g, np.ones_like(g)))
    value, grad = value_and_grad(lambda x: layer(x, gt, ones), p, dtype)
    losses = np.array([0, 0, 100, 100, -np.log(0.75), -np.log(0.75), np.log(2)])
    slopes = np.array([0, 0, -1e12, 1e12, 1 / 0.75, -1 / 0.75, 2])
    assert value == pytest.approx(losses.sum() / 7, rel=1e-6)  # 3 positives take all 4 negatives
    np.testing.assert_allclose(grad[0, 0], slopes / 7, rtol=1e-5)


@BOTH
@PER_PIXEL
def test_predictions_outside_zero_and_one(dtype, kind):
    for outside, g in itertools.product((-0.5, 1.5), (0.0, 1.0)):
        p = np.full((1, 1, 2), [outside, 0.25], np.float32)
        check_balance(kind, (p, np.full_like(p, [g, 1]), np.ones_like(p)), dtype)


@pytest.mark.parametrize("n_neg, share", [(1, [1, 0]), (2, [1, 0.25]), (5, [1, 1])])
@pytest.mark.parametrize("kind", oracle.MINED)
def test_ties_share_the_places_left(kind, n_neg, share):
    """One hard negative, four equal ones, two easy ones: each tied pixel gets the same part."""
    p = np.array([[[0.9, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.6]]], np.float32)
    g = np.array([[[0, 0, 0, 0, 0, 0, 0, 1]]], np.float32)
    weight = np.array([[[share[0], *[share[1]] * 4, 0, 0, 1]]])
    if kind == "OHEMDiceLoss":
        expected = oracle.dice(p, g, weight)
    else:
        loss, slope = oracle.PIXEL_LOSS[kind](p, g)
        expected = (weight * loss).sum() / (1 + n_neg), weight * slope / (1 + n_neg)
    layer, (gt, mask) = (
        BalanceLoss(main_loss_type=kind, negative_ratio=n_neg),
        tensors((g, g * 0 + 1)),
    )
    check(lambda x: layer(x, gt, mask), p, expected)


def test_places_left_go_to_negatives_of_probability_zero_and_to_no_other_pixel():
    p = np.array([[[0.9, 0.4, 0, 0, 0, 0, 0.8]]], np.float32)
    g = np.array([[[1, 0, 0, 0, 0, 0, 0]]], np.float32)
    m = np.array([[[1, 1, 1, 1, 1, 1, 0]]], np.float32)
    layer, (gt, mask) = (
        BalanceLoss(main_loss_type="OHEMDiceLoss", negative_ratio=4),
        tensors((g, m)),
    )
    weight = np.array([[[1, 1, 0.75, 0.75, 0.75, 0.75, 0]]])
    check(lambda x: layer(x, gt, mask), p, oracle.dice(p, g, weight))


@ALL
def test_more_places_than_pixels(kind):
    """With masks of 255 the counts exceed the pixels: each negative counts once, fully."""
    p, g, m = make_batch("masks_255", (1, 3, 5), seed=14).single
    for fallback in (10, 10**4, 10**8):
        check_balance(kind, (p, 0 * g, m), fallback=fallback, smooth=1.0)
        check_balance(kind, (p, 0 * g, 0 * m + 255), fallback=fallback, smooth=1.0)
    check_balance(kind, (p, g, m), ratio=1e6)


@pytest.mark.parametrize("kind", oracle.MINED)
def test_mining_takes_the_hardest_negatives_and_no_other(kind):
    p, g, m = make_batch(shape=(2, 16, 16), seed=11).single
    layer = BalanceLoss(main_loss_type=kind, negative_ratio=1)
    gt, mask = tensors((g, m))
    _, grad = value_and_grad(lambda x: layer(x, gt, mask), p)
    negative = (1 - g) * m == 1
    n_pos, n_neg = oracle.counts(g, m, 1)
    assert n_pos == n_neg > 0
    chosen = negative & (grad != 0)
    assert chosen.sum() == n_neg
    assert p[chosen].min() > p[negative & ~chosen].max()


@pytest.mark.parametrize("kind", ["DiceLoss", "MaskL1Loss"])
def test_mining_a_scalar_loss_has_no_effect(kind):
    p, g, m = make_batch(seed=12).single
    gt, mask = tensors((g, m))
    plain = oracle.origin(p, g, m, kind)
    for ratio in (0.5, 1, 50):
        layer = BalanceLoss(main_loss_type=kind, negative_ratio=ratio)
        value, grad = value_and_grad(lambda x, f=layer: f(x, gt, mask), p)
        assert value == pytest.approx(plain[0], rel=1e-5)
        np.testing.assert_allclose(grad, plain[1], rtol=1e-4, atol=1e-8)


@BOTH
@pytest.mark.parametrize("soft_mask", [False, True])
def test_a_negative_scalar_loss_keeps_its_own_order(dtype, soft_mask):
    """With d < 0 the largest values of d * (1-g) * m are those of the smallest (1-g) * m."""
    batch = make_batch("negative_dice")
    p, g, m = batch.single
    m = batch.t if soft_mask else m  # with which the threshold is a fraction below 0
    n_neg = oracle.counts(g, m, 30)[1]
    assert oracle.dice(p, g, m)[0] < 0 and n_neg > ((1 - g) * m <= 0).sum()
    check_balance("DiceLoss", (p, g, m), dtype, ratio=30)


def test_a_scalar_loss_is_negative_of_predictions_above_one_too():
    """With labels of 0 and 1, where no order needs to be looked for as long as d is not below 0."""
    p, g, m = make_batch(seed=16).single
    p = np.float32(np.where(g * m == 1, 5, 0.01 * p))
    assert oracle.dice(p, g, m)[0] < 0
    check_balance("DiceLoss", (p, g, m), ratio=1)


@BOTH
@pytest.mark.parametrize("kind", oracle.MINED)
def test_a_threshold_below_zero(dtype, kind):
    """Targets above 1 have a negative weight, and with it a hardness below 0."""
    rng = np.random.default_rng(15)
    p, g = rng.uniform(0.1, 0.9, (1, 8, 10)), rng.uniform(1.1, 1.6, (1, 8, 10))
    m = np.ones_like(g)
    g[0, 0, :4], m[0, 0, :4] = 0, 255
    pgm = tuple(a.astype(np.float32) for a in (p, g, m))
    assert oracle.counts(*pgm[1:], 0.5)[1] > ((1 - g) * m > 0).sum()
    check_balance(kind, pgm, dtype, ratio=0.5)


def test_settings_changed_later_take_effect():
    p, g, m = make_batch(seed=13).single
    layer, (gt, mask) = BalanceLoss(main_loss_type="BCELoss"), tensors((g, m))
    layer.negative_ratio = 1
    check(lambda x: layer(x, gt, mask), p, oracle.balance(p, g, m, "BCELoss", ratio=1))
    layer.eps = 5.0
    check(lambda x: layer(x, gt, mask), p, oracle.balance(p, g, m, "BCELoss", ratio=1, eps=5.0))
    layer.balance_loss = False
    check(lambda x: layer(x, gt, mask), p, oracle.balance(p, g, m, "BCELoss", False, eps=5.0))
    layer.balance_loss = layer.return_origin = True
    assert len(layer(paddle.to_tensor(p), gt, mask)) == 2


def test_predictions_above_one_are_equally_hard():
    """Their logarithm is -100 for each, so they share the one place, whichever is larger."""
    p = np.array([[[0.6, 1.5, 1.2, 0.3, 0.9]]], np.float32)
    g = np.array([[[1, 0, 0, 0, 0]]], np.float32)
    loss, slope = oracle.bce(p, g)
    weight = np.array([[[1, 0.5, 0.5, 0, 0]]])
    layer = BalanceLoss(main_loss_type="BCELoss", negative_ratio=1)
    gt, mask = tensors((g, np.ones_like(g)))
    expected = (weight * loss).sum() / 2, weight * slope / 2
    check(lambda x: layer(x, gt, mask), p, expected)


def test_less_than_one_text_pixel_is_no_text():
    """Of half a pixel of text `int(sum(g*m))` is 0, and the fallback takes its place."""
    p = np.float32([[[0.9, 0.8, 0.7, 0.6]]])
    g = np.float32([[[0.5, 0, 0, 0]]])
    weights = hard_negative_weights(*tensors([p, g, np.ones_like(g)]), 3, fallback_negatives=2)
    np.testing.assert_array_equal(weights, [[[0, 1, 1, 0]]])


@pytest.mark.parametrize("layer", [BalanceLoss(False, "BCELoss"), DiceFocalLoss(0, 1, 0.0, 0.0)])
def test_a_small_prediction_keeps_its_digits(layer):
    """In float32 `1 - 1e-4` has four digits of 1e-4 left, and the loss has all of them."""
    p = np.float32([[[1.2345e-4, 2.3456e-4, 3.4567e-4, 4.5678e-4]]])
    loss = layer(*tensors([p, 0 * p, 1 + 0 * p]))
    assert float(loss) == pytest.approx(-np.log1p(-p.astype(np.float64)).mean(), rel=2e-6)
