import numpy as np
import oracle
import paddle
import pytest
from helpers import (
    LABEL_DTYPES,
    TOLERANCE,
    check,
    check_db,
    make_batch,
    make_saturated,
    run_db,
    tensors,
)

from dbloss import DBLoss, DiceFocalLoss

pytestmark = pytest.mark.usefixtures("engine")

SETTINGS = [
    ({}, {}),
    ({"dice_weight": 0, "focal_weight": 2.0}, {"dice_weight": 0, "focal_weight": 2.0}),
    ({"dice_weight": 0.5, "focal_weight": 0}, {"dice_weight": 0.5, "focal_weight": 0}),
    ({"focal_alpha": 0.25, "focal_gamma": 2.5}, {"alpha": 0.25, "gamma": 2.5}),
    ({"focal_alpha": 1.0, "focal_gamma": 0.5}, {"alpha": 1.0, "gamma": 0.5}),
    ({"focal_alpha": 0.0, "focal_gamma": 0.0}, {"alpha": 0, "gamma": 0}),
    ({"eps": 0.125, "smooth": 1.5}, {"eps": 0.125, "smooth": 1.5}),
]


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"), [("binary", (3, 5, 2), "float32"), ("soft", (2, 8, 12), "float64")]
)
@pytest.mark.parametrize("settings, names_of_the_oracle", SETTINGS)
def test_value_and_gradient(kind, shape, dtype, settings, names_of_the_oracle):
    p, g, m = make_batch(kind, shape, seed=3).single
    layer, (gt, mask) = DiceFocalLoss(**settings), tensors((g, m))
    check(lambda x: layer(x, gt, mask), p, oracle.dice_focal(p, g, m, **names_of_the_oracle), dtype)


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("binary", (1, 1, 1), "float32"),
        ("soft", (1, 1, 7), "float32"),
        ("masks_255", (2, 8, 12), "float32"),
    ],
)
def test_odd_shapes_and_masks(kind, shape, dtype):
    p, g, m = make_batch(kind, shape, seed=3).single
    layer, (gt, mask) = DiceFocalLoss(), tensors((g, m))
    check(lambda x: layer(x, gt, mask), p, oracle.dice_focal(p, g, m), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipped_pixels_have_no_focal_gradient(dtype):
    p = np.array([[[0, 1, 0, 1, 0.3, 0.7]]], np.float32)
    g = np.array([[[0, 1, 1, 0, 0.0, 1.0]]], np.float32)
    m = np.ones_like(p)
    layer, (gt, mask) = DiceFocalLoss(dice_weight=0, eps=0.0625), tensors((g, m))
    expected = oracle.dice_focal(p, g, m, dice_weight=0, eps=0.0625)
    assert not expected[1][0, 0, :4].any() and expected[1][0, 0, 4:].all()
    check(lambda x: layer(x, gt, mask), p, expected, dtype)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 2.5])
def test_saturated_predictions(gamma, dtype, soft):
    """In float32 1 - eps is rounded by a percent of eps, and so it is in PaddleOCR's loss."""
    p, g, m = make_saturated(soft).single
    layer, (gt, mask) = DiceFocalLoss(focal_gamma=gamma), tensors((g, m))
    expected = oracle.dice_focal(p.astype(dtype), g, m, gamma=gamma)
    check(lambda x: layer(x, gt, mask), p, expected, dtype)


def test_a_prediction_of_one_counts_as_in_paddleocr(engine):
    """`1 - clip(1)` is 2^-24 * 17 in float32, and log of it what a false find of 1 costs."""
    one = paddle.ones([1, 1, 1])
    loss = DiceFocalLoss(dice_weight=0.0, focal_alpha=0.0, focal_gamma=0.0)(one, 0 * one)
    assert float(loss) == pytest.approx(-np.log(17 / 2**24), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_saturated_predictions_of_dbloss(soft):
    batch, settings = make_saturated(soft), {"main_loss_type": "DiceFocalLoss"}
    got = run_db(DBLoss(**settings), {"maps": batch.maps}, batch.labels)
    expected = oracle.db({"maps": batch.maps}, batch.labels, **settings)
    check_db(got, expected, TOLERANCE["float32"])


def test_without_a_mask_every_pixel_counts():
    p, g, m = make_batch().single
    layer, (gt,) = DiceFocalLoss(), tensors((g,))
    check(lambda x: layer(x, gt), p, oracle.dice_focal(p, g, np.ones_like(m)))


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_that_are_no_floats(dtype):
    p, g, m = make_batch("binary" if dtype == "bool" else "masks_255").single
    layer, (gt, mask) = DiceFocalLoss(), tensors((g, m), dtype)
    check(lambda x: layer(x, gt, mask), p, oracle.dice_focal(p, g, m))
    check(lambda x: layer(x, gt), p, oracle.dice_focal(p, g, np.ones_like(m)))


@pytest.mark.parametrize("eps", [1e-6, 1e-9])
@pytest.mark.parametrize("g", [0.0, 1.0])
def test_at_the_ends_of_the_clip(eps, g):
    """At 0, at 1 and at the float32 nearest to 1e-6, whatever eps is; a pixel of 0.5 beside it."""
    for at in (0.0, 1.0, np.float32(1e-6)):
        p = np.array([[[at, 0.5]]], np.float32)
        gt, mask = np.array([[[g, 1 - g]]], np.float32), np.ones_like(p)
        layer, labels = DiceFocalLoss(eps=eps, dice_weight=0.0), tensors((gt, mask))
        expected = oracle.dice_focal(p, gt, mask, dice_weight=0.0, eps=eps)
        check(lambda x, f=layer, y=labels: f(x, *y), p, expected)


def test_an_eps_that_float32_does_not_hold():
    with pytest.raises(ValueError, match=r"eps: expected .* at least 1\.17549e-38, got 1e-39"):
        DiceFocalLoss(eps=1e-39)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_clip_hides_no_prediction_that_is_not_finite(bad):
    """Beside a Dice loss that weighs 0, which would show it too."""
    p, g, m = make_batch(seed=4).single
    p[0, 0, 0] = bad
    assert np.isnan(float(DiceFocalLoss(dice_weight=0.0)(*tensors((p, g, m)))))
