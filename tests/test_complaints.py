"""What users of DB losses complain of most, and what this package does instead."""

import warnings

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import make_batch, scalar, tensor, tensors

from dbloss import DBLoss, differentiable_binarization, validate_batch

pytestmark = pytest.mark.usefixtures("engine")

MINED = ("BCELoss", "CrossEntropy", "Euclidean", "OHEMDiceLoss")


def losses_of(batch, maps=None, **settings):
    """The losses as numbers, and the gradient of "loss"."""
    leaf = tensor(batch.maps if maps is None else maps, grad=True)
    losses = DBLoss(**settings)({"maps": leaf}, tensors(batch.labels))
    losses["loss"].backward()
    return {name: scalar(loss) for name, loss in losses.items()}, leaf.grad.numpy()


def validate(batch, maps=None):
    predicts = {"maps": tensor(batch.maps if maps is None else maps)}
    return validate_batch(predicts, tensors(batch.labels))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["DiceLoss", *MINED, "MaskL1Loss", "DiceFocalLoss"])
def test_mixed_precision_training_ends_in_nan(kind, dtype):
    """From logits so large that probabilities round to 0 and 1, right and wrong ones."""
    batch = make_batch(shape=(1, 32, 32), seed=9)
    labels = tensors(batch.labels)
    logits = tensor(np.random.default_rng(9).normal(0, 10, (1, 2, 32, 32)), grad=True)
    course = []
    for _ in range(20):
        p, t = F.sigmoid(logits).unbind(axis=1)
        maps = paddle.stack([p, t, differentiable_binarization(p, t)], axis=1).astype(dtype)
        loss = DBLoss(main_loss_type=kind)({"maps": maps}, labels)["loss"]
        course.append(scalar(loss))
        loss.backward()
        assert np.isfinite(logits.grad.numpy()).all()
        logits = (logits - 10.0 * logits.grad).detach()
        logits.stop_gradient = False
    assert np.isfinite(course).all() and course[-1] < course[0]


def test_loss_sits_at_exactly_1_because_every_region_was_ignored():
    batch = make_batch("all_ignored")
    losses, grad = losses_of(batch)
    assert losses["loss"] == losses["loss_binary_maps"] == 1.0
    assert losses["loss_shrink_maps"] == losses["loss_threshold_maps"] == 0.0
    assert not grad.any()
    with pytest.warns(UserWarning, match="every pixel of the batch is ignored.* is exactly 1, and"):
        summary = validate(batch)
    assert summary.ignored == (96, 96) and summary.without_text == (0, 1)


@pytest.mark.parametrize("data", ["noise", "masks_255", "negative_dice", "soft"])
def test_no_assertion_on_the_value_of_the_loss(data):
    """PaddleOCR asserts that Dice is at most 1; whatever comes out is a number here."""
    losses, grad = losses_of(make_batch(data, seed=1))
    assert np.isfinite(list(losses.values())).all() and np.isfinite(grad).all()


def test_dice_above_1_is_a_loss_like_any_other():
    batch = make_batch()
    negative = batch._replace(maps=-0.1 * batch.maps)
    losses, _ = losses_of(negative)
    assert losses["loss_binary_maps"] > 1
    with pytest.raises(ValueError, match=r"\(probability\): expected values in \[0, 1\], got -0"):
        validate(negative)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["DiceLoss", *MINED])
def test_assertion_on_the_loss_really_means_a_nan_somewhere(kind, value):
    batch = make_batch()
    maps = batch.maps.copy()
    maps[1, 0, 3, 4] = value
    losses, _ = losses_of(batch, maps, main_loss_type=kind)
    assert np.isnan(losses["loss"]) and np.isnan(losses["loss_shrink_maps"])
    assert np.isfinite([losses["loss_threshold_maps"], losses["loss_binary_maps"]]).all()
    message = rf'predicts\["maps"\]\[:, 0\] .* got {value} in image 1 at pixel \(y, x\) = \(3, 4\)'
    with pytest.raises(ValueError, match=message):
        validate(batch, maps)


def test_mining_with_dice_does_nothing():
    """And with the losses that mine, it does."""
    batch = make_batch(shape=(2, 32, 32), seed=2)
    ratios = (0, 1, 3, 5)

    def shrink(kind):
        return [
            losses_of(batch, main_loss_type=kind, ohem_ratio=ratio)[0]["loss_shrink_maps"]
            for ratio in ratios
        ]

    for kind in ("DiceLoss", "MaskL1Loss"):
        assert shrink(kind) == pytest.approx([shrink(kind)[0]] * len(ratios), rel=1e-6)
    for kind in MINED:
        assert np.ptp(shrink(kind)) > 0.2 * max(shrink(kind))


@pytest.mark.parametrize(
    ("settings", "pushed"),
    [
        ({}, ()),
        ({"smooth": 1.0}, (2,)),
        ({"main_loss_type": "BCELoss", "fallback_negatives": 50}, (0,)),
        ({"main_loss_type": "BCELoss", "fallback_negatives": 50, "smooth": 1.0}, (0, 2)),
    ],
)
def test_pages_without_text_teach_nothing(settings, pushed):
    """Unless they are asked to, as the warning advises."""
    batch = make_batch("no_text")
    _, grad = losses_of(batch, **settings)
    for channel in (0, 2):
        assert (grad[:, channel] >= 0).all() and grad[:, channel].any() == (channel in pushed)
    with pytest.warns(UserWarning, match="no text.*smooth=1.0.*fallback_negatives=1000"):
        validate(batch)


def test_a_batch_in_order_raises_no_complaint():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate(make_batch())
