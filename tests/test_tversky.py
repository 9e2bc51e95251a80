"""TverskyLoss: the formula, its cases, the way through BalanceLoss and DBLoss, on both engines."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import TOLERANCE, make_batch, tensors

from dbloss import BalanceLoss, DBLoss, DiceLoss, TverskyLoss

pytestmark = pytest.mark.usefixtures("engine")

SETTINGS = [
    {},
    {"alpha": 0.5, "beta": 0.5},
    {"alpha": 0.9, "beta": 0.4, "gamma": 0.75},
    {"alpha": 0, "beta": 1, "gamma": 2, "smooth": 1.0},
]


def value_and_gradient(layer, p, *labels):
    pred = paddle.to_tensor(p, stop_gradient=False)
    loss = layer(pred, *tensors(labels))
    loss.backward()
    return float(loss), pred.grad.numpy()


@pytest.mark.parametrize("data", ["binary", "soft", "no_text", "all_text", "all_ignored"])
def test_against_the_oracle(data):
    p, g, m = make_batch(data, seed=3).single
    for settings in SETTINGS:
        value, gradient = value_and_gradient(TverskyLoss(**settings), p, g, m)
        expected, slope = oracle.tversky(p, g, m, **settings)
        tolerance = TOLERANCE["float32"]
        np.testing.assert_allclose(value, expected, rtol=tolerance.value, atol=1e-7)
        scale = np.maximum(np.abs(slope), np.median(np.abs(slope)))
        assert (np.abs(gradient - slope) <= tolerance.grad * scale + 1e-12).all(), settings


def test_its_case_is_dice():
    p, g, m = make_batch(seed=4).single
    case = TverskyLoss(alpha=0.5, beta=0.5, smooth=0.3)
    assert value_and_gradient(case, p, g, m)[0] == float(DiceLoss(smooth=0.3)(*tensors([p, g, m])))


def test_alpha_weighs_false_finds_and_beta_misses():
    g = np.float32([[[1, 1, 0, 0]]])
    every = np.ones_like(g)
    invented, missed = np.float32([[[1, 1, 1, 0]]]), np.float32([[[1, 0, 0, 0]]])
    layer = TverskyLoss(alpha=0.7, beta=0.3, eps=1e-12)
    for p, expected in ((invented, 1 - 2 / (2 + 0.7)), (missed, 1 - 1 / (1 + 0.3))):
        assert float(layer(*tensors([p, g, every]))) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_map_with_a_power_has_no_infinite_gradient():
    g = np.float32([[[1, 0, 0, 1]]])
    _, gradient = value_and_gradient(TverskyLoss(gamma=0.5), g, g, np.ones_like(g))
    assert np.isfinite(gradient).all()


def test_weights_of_pixels_weigh_in_every_sum():
    p, g, m = make_batch(seed=5).single
    w = np.random.default_rng(5).uniform(0.3, 4, p.shape).astype(np.float32)
    value, _ = value_and_gradient(TverskyLoss(), p, g, m, w)
    assert value == pytest.approx(oracle.tversky(p, g, m * w)[0], rel=2e-6)


def test_balanced_as_dice_is_and_the_binary_map_keeps_dice():
    batch = make_batch(seed=6)
    settings = {"tversky_alpha": 0.8, "tversky_beta": 0.1, "tversky_gamma": 1.5}
    layer = BalanceLoss(main_loss_type="TverskyLoss", return_origin=True, **settings)
    balanced, origin = layer(*tensors(batch.single))
    expected = oracle.tversky(*batch.single, 0.8, 0.1, 1.5)[0]
    assert float(origin) == pytest.approx(expected, rel=2e-6)
    losses = DBLoss(main_loss_type="TverskyLoss", **settings)(
        {"maps": tensors([batch.maps])[0]}, tensors(batch.labels)
    )
    expected, _ = oracle.db(
        {"maps": batch.maps}, batch.labels, main_loss_type="TverskyLoss", **settings
    )
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(expected[name], rel=2e-6), name
    assert float(losses["loss_shrink_maps"]) == pytest.approx(5 * float(balanced), rel=1e-6)
