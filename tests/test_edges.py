"""The table of edge cases, row by row: value and gradient of every loss."""

import itertools
from functools import partial

import numpy as np
import oracle
import pytest
from helpers import (
    TOLERANCE,
    Batch,
    assert_grad,
    check,
    check_db,
    make_batch,
    not_written,
    run_db,
    scalar,
    tensor,
    tensors,
    value_and_grad,
)

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss

pytestmark = pytest.mark.usefixtures("engine")

TYPES = pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
# One loss that is a number, two that are mined, one of two terms.
FOUR_KINDS = ("DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss")
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])

# An eps with which the bounds of the focal loss, eps and 1 - eps, are exact in float32.
EXACT = 2.0**-10

# Each single loss as a function of (prediction, target, mask), and what the balance makes of it.
SINGLE = {
    "dice": DiceLoss(),
    "masked_l1": MaskL1Loss(),
    "dice_focal": DiceFocalLoss(),
    **{kind: BalanceLoss(main_loss_type=kind) for kind in oracle.BALANCED},
    **{f"{kind}_mean": BalanceLoss(False, kind) for kind in oracle.BALANCED},
}
ORACLE = {
    "dice": oracle.dice,
    "masked_l1": oracle.masked_l1,
    "dice_focal": oracle.dice_focal,
    **{kind: partial(oracle.balance, kind=kind) for kind in oracle.BALANCED},
    **{
        f"{kind}_mean": partial(oracle.balance, kind=kind, balanced=False)
        for kind in oracle.BALANCED
    },
}


def run(name, pgm, dtype="float32"):
    p, g, m = pgm
    gt, mask = tensors((g, m))
    return value_and_grad(lambda x: SINGLE[name](x, gt, mask), p, dtype)


def check_batch(batch, dtype="float32", **settings):
    predicts = {"maps": batch.maps}
    got = run_db(DBLoss(**settings), predicts, batch.labels, dtype)
    check_db(got, oracle.db(predicts, batch.labels, **settings), TOLERANCE[dtype])
    return got


# Every pixel ignored, no text -------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize("balance_loss", [True, False])
def test_every_pixel_ignored(kind, balance_loss):
    settings = {"main_loss_type": kind, "balance_loss": balance_loss}
    losses, grads = check_batch(make_batch("all_ignored"), **settings)
    balanced = balance_loss and kind in ("DiceLoss", "TverskyLoss", "DiceBCELoss")
    dice = ("Dice" in kind or kind == "TverskyLoss") and not balanced
    assert losses == {
        "loss": 6.0 if dice else 1.0,
        "loss_shrink_maps": 5.0 if dice else 0.0,
        "loss_threshold_maps": 0.0,
        "loss_binary_maps": 1.0,
    }
    assert not grads["maps"].any()  # there, and zero: connected to the graph


@BOTH
@pytest.mark.parametrize("name", ["dice", "masked_l1", "dice_focal", "DiceLoss", "BCELoss"])
def test_every_pixel_ignored_single_loss(dtype, name):
    value, grad = run(name, make_batch("all_ignored").single, dtype)
    assert value == (1.0 if name in ("dice", "dice_focal") else 0.0) and not grad.any()


@pytest.mark.parametrize("kind", oracle.BALANCED)
def test_no_text(kind):
    batch = make_batch("no_text")
    losses, grads = check_batch(batch, main_loss_type=kind)
    assert losses["loss_shrink_maps"] == (5.0 if kind == "OHEMDiceLoss" else 0.0)
    assert losses["loss_binary_maps"] == 1.0
    assert not grads["maps"][:, ::2].any()


def test_no_text_dice_focal():
    """The focal part has no balance: it teaches on a page without text."""
    _, grads = check_batch(make_batch("no_text"), main_loss_type="DiceFocalLoss")
    assert (grads["maps"][:, ::2] >= 0).all() and grads["maps"][:, ::2].any()


@pytest.mark.parametrize(
    "kind, settings, channels",
    [
        ("DiceLoss", {"smooth": 1.0}, [2]),
        ("DiceLoss", {"smooth": 1.0, "fallback_negatives": 20}, [0, 2]),
        ("MaskL1Loss", {"fallback_negatives": 20}, [0]),
        ("BCELoss", {"fallback_negatives": 20}, [0]),
        ("BCELoss", {"fallback_negatives": 20, "smooth": 1.0}, [0, 2]),
        ("Euclidean", {"fallback_negatives": 20}, [0]),
        ("OHEMDiceLoss", {"fallback_negatives": 20, "smooth": 1.0}, [0, 2]),
        ("DiceFocalLoss", {"smooth": 1.0}, [0, 2]),
    ],
)
def test_no_text_with_smooth_or_fallback_negatives_pushes_predictions_down(
    kind, settings, channels
):
    _, grads = check_batch(make_batch("no_text"), main_loss_type=kind, **settings)
    for channel in (0, 2):
        grad = grads["maps"][:, channel]
        assert (grad >= 0).all() and grad.any() == (channel in channels)


def test_fallback_negatives_takes_that_many_and_never_more_than_there_are():
    p, g, m = make_batch("no_text").single
    gt, mask = tensors((g, m))
    for fallback in (1, 20, 10**6):
        layer = BalanceLoss(main_loss_type="BCELoss", fallback_negatives=fallback)
        _, grad = value_and_grad(lambda x, f=layer: f(x, gt, mask), p)
        assert (grad != 0).sum() == min(fallback, m.sum())


# All text, unusual labels -----------------------------------------------------------------------


@TYPES
def test_all_text(kind):
    batch = make_batch("all_text")
    check_batch(batch, main_loss_type=kind)
    if kind in oracle.PIXEL_LOSS:  # the positives alone: their mean
        value, _ = run(kind, batch.single)
        positive = oracle.PIXEL_LOSS[kind](batch.maps[:, 0], batch.g)[0][batch.m == 1]
        assert value == pytest.approx(positive.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "kind_of_labels", "dtype"),
    [
        *itertools.product(oracle.MAIN_LOSS_TYPES, ("noise", "negative_dice"), ("float32",)),
        *itertools.product(FOUR_KINDS, ("shifted_noise", "masks_255"), ("float64",)),
        ("Euclidean", "masks_255", "float32"),
    ],
)
def test_labels_outside_zero_and_one(kind, kind_of_labels, dtype):
    check_batch(make_batch(kind_of_labels, seed=3), dtype, main_loss_type=kind, eps=EXACT)


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss"])
def test_the_same_noise_as_all_five_labels(kind):
    batch = make_batch("noise", (2, 16, 16), seed=7)  # a seed whose sums do not cancel
    noise, maps = tensor(batch.t), tensor(batch.maps, grad=True)
    out = DBLoss(main_loss_type=kind, eps=EXACT)({"maps": maps}, [noise] * 5)
    out["loss"].backward()
    got = {key: scalar(v) for key, v in out.items()}, {"maps": maps.grad.numpy()}
    expected = oracle.db({"maps": batch.maps}, [batch.t] * 5, main_loss_type=kind, eps=EXACT)
    check_db(got, expected, TOLERANCE["float32"])


# NaN and Inf ------------------------------------------------------------------------------------


BAD = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize(
    ("channel", "settings"),
    [
        *((0, {"main_loss_type": kind}) for kind in oracle.MAIN_LOSS_TYPES),
        *((0, {"main_loss_type": kind, "balance_loss": False}) for kind in oracle.BALANCED),
        (1, {}),
        (2, {}),
        (2, {"main_loss_type": "DiceFocalLoss"}),
    ],
    ids=lambda value: (
        " ".join(map(str, value.values())) if isinstance(value, dict) else "PTB"[value]
    ),
)
def test_nan_or_inf_in_a_prediction(channel, settings):
    """The loss is NaN, wherever the pixel and whether a gradient is wanted or not."""
    g, m = np.zeros((2, 1, 6, 6), np.float32)
    g[0, :2], m[0, 1:] = 1, 1
    labels, layer = tensors([None, g, m, g, m]), DBLoss(**settings)
    rows = {"text": 1, "background": 4, "ignored": 0}
    for bad, row, grad in itertools.product(BAD, rows.values(), (True, False)):
        maps = np.full((1, 3, 6, 6), 0.5, np.float32)
        maps[0, channel, row, 2] = bad
        leaf = tensor(maps, grad=grad)
        out = layer({"maps": leaf}, labels)
        assert np.isnan(scalar(out["loss"])), (bad, row, grad)
        for index, part in enumerate(oracle.PARTS):
            assert np.isnan(scalar(out[part])) == (index == channel), (part, bad, row, grad)
        if grad:
            out["loss"].backward()
            assert leaf.grad.shape == leaf.shape


def test_a_part_that_weighs_0_is_no_part_of_the_loss():
    """Not even where it is NaN."""
    batch, losses = make_batch(), []
    for value in (0.5, np.nan):
        maps = batch.maps.copy()
        maps[:, 0] = value
        out = DBLoss(alpha=0)({"maps": tensor(maps)}, tensors(batch.labels))
        losses.append({name: scalar(loss) for name, loss in out.items()})
    assert losses[0] == losses[1] and losses[0]["loss_shrink_maps"] == 0


@TYPES
def test_nan_or_inf_everywhere(kind):
    for data, bad in itertools.product(
        ("binary", "no_text", "all_text", "all_ignored", "soft"), BAD
    ):
        batch = make_batch(data)
        for grad in (False, True):
            leaf = tensor(np.full_like(batch.maps, bad), grad=grad)
            out = DBLoss(main_loss_type=kind)({"maps": leaf}, tensors(batch.labels))
            assert all(np.isnan(scalar(v)) for v in out.values()), (data, bad, grad)
        out["loss"].backward()


# Masked-out pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss", "OHEMDiceLoss"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [3, 4])
def test_nan_or_inf_in_a_label(engine, kind, bad, place):
    """The counts are NaN then, and so is the loss; nothing stops."""
    batch = make_batch(seed=41)
    labels = [None, *(label.copy() for label in batch.labels[1:])]
    labels[place][0, 0, 0] = bad
    leaf = tensor(batch.maps, grad=True)
    loss = DBLoss(main_loss_type=kind)({"maps": leaf}, tensors(labels))["loss"]
    loss.backward()
    assert np.isnan(float(loss))


@TYPES
@pytest.mark.parametrize("balance_loss", [True, False])
def test_masked_out_pixels_change_nothing(kind, balance_loss):
    batch, other = make_batch(seed=40), make_batch("noise", seed=41)
    out, off = batch.m == 0, batch.k == 0
    assert out.any() and off.any()
    maps = batch.maps.copy()
    for channel, where in ((0, out), (1, off), (2, out)):
        maps[:, channel][where] = other.maps[:, channel][where]
    changed = Batch(
        maps, np.where(off, other.t, batch.t), batch.k, np.where(out, other.g, batch.g), batch.m
    )
    layer = DBLoss(main_loss_type=kind, balance_loss=balance_loss)
    before = run_db(layer, {"maps": batch.maps}, batch.labels)
    after = run_db(layer, {"maps": maps}, changed.labels)
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1]["maps"], after[1]["maps"])
    for channel, where in ((0, out), (1, off), (2, out)):
        assert not after[1]["maps"][:, channel][where].any()


# Slices, shapes, and inputs left alone ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss"])
@pytest.mark.parametrize("view", ["channels", "rows_and_columns", "transposed"])
def test_non_contiguous_slices(kind, view):
    batch = make_batch(seed=42)
    n, h, w = batch.g.shape

    def strided(a):
        """The same numbers as `a`, as a view into a larger or a transposed tensor."""
        if view == "channels":
            return tensor(np.stack([0 * a, a, 0 * a], axis=1))[:, 1]
        if view == "transposed":
            return tensor(a.swapaxes(-1, -2)).transpose(
                [*range(a.ndim - 2), a.ndim - 1, a.ndim - 2]
            )
        wide = np.zeros((*a.shape[:-2], 2 * a.shape[-2], 3 * a.shape[-1]), a.dtype)
        wide[..., ::2, ::3] = a
        return tensor(wide)[..., ::2, ::3]

    labels = [None, *(strided(a) for a in batch.labels[1:])]
    leaf = strided(batch.maps)
    assert leaf.shape == [n, 3, h, w] and not leaf.is_contiguous()
    assert not any(label.is_contiguous() for label in labels[1:])
    leaf.stop_gradient = False
    out = DBLoss(main_loss_type=kind)({"maps": leaf}, labels)
    out["loss"].backward()
    got = {key: scalar(v) for key, v in out.items()}, {"maps": leaf.grad.numpy()}
    expected = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    check_db(got, expected, TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["dice", "masked_l1", "dice_focal", "BCELoss", "OHEMDiceLoss"])
def test_non_contiguous_predictions_of_a_single_loss(name):
    batch = make_batch(seed=43)
    leaf, (gt, mask) = tensor(batch.maps, grad=True), tensors((batch.g, batch.m))
    slices = leaf[:, 2, :, :]
    assert not slices.is_contiguous()
    SINGLE[name](slices, gt, mask).backward()
    _, grad = ORACLE[name](batch.maps[:, 2], batch.g, batch.m)
    assert_grad(leaf.grad.numpy()[:, 2], grad, TOLERANCE["float32"])
    assert not leaf.grad.numpy()[:, :2].any()


@TYPES
def test_one_pixel(kind):
    one = np.ones((1, 1, 1), np.float32)
    maps = np.array([[[[0.3]], [[0.6]], [[0.8]]]], np.float32)
    for g, m in ((0, 0), (0, 1), (1, 0), (1, 1)):
        check_batch(Batch(maps, 0.5 * one, m * one, g * one, m * one), main_loss_type=kind)


# Less than a row of a register, more than a block of the fused engine.
@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"])
@pytest.mark.parametrize("shape", [(1, 9, 1), (5, 3, 2), (2, 33, 65), (1, 384, 640)])
def test_odd_shapes(kind, shape):
    check_batch(make_batch(shape=shape, seed=44), main_loss_type=kind)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in SINGLE), ("dice_focal", "float64"), ("BCELoss", "float64")],
)
def test_inputs_of_a_single_loss_are_not_written_to(name, dtype):
    for graded in (True, False):
        given = tensors(make_batch().single, dtype)
        given[0].stop_gradient = not graded
        with not_written(*given):
            loss = SINGLE[name](*given)
            if graded:
                loss.backward()


@BOTH
def test_weights_of_the_dice_loss_are_not_written_to(dtype):
    batch = make_batch()
    given = tensors([*batch.single, batch.t], dtype)
    given[0].stop_gradient = False
    with not_written(*given):
        DiceLoss()(*given).backward()


@pytest.mark.parametrize("kind", oracle.BALANCED)
def test_inputs_of_a_loss_with_its_origin_are_not_written_to(kind):
    given = tensors(make_batch().single)
    given[0].stop_gradient = False
    with not_written(*given):
        loss, origin = BalanceLoss(main_loss_type=kind, return_origin=True)(*given)
        (loss + origin.sum()).backward()


@BOTH
@pytest.mark.parametrize(
    "name", ["dice", "masked_l1", "dice_focal", *oracle.MINED, "DiceLoss", "BCELoss_mean"]
)
def test_saturated_predictions(name, dtype):
    """Right and wrong, with six places for eight wrong negatives."""
    p = np.array([[[0, 1, *[1] * 8, 0.5, 0.25, 0, 0]]], np.float32)
    g = np.array([[[1, 1, *[0] * 12]]], np.float32)
    m = np.ones_like(p)
    assert set(oracle.hard_negative_weights(p, g, m)[0, 0, 2:10]) == {0.75}
    gt, mask = tensors((g, m))
    check(lambda x: SINGLE[name](x, gt, mask), p, ORACLE[name](p.astype(dtype), g, m), dtype)
