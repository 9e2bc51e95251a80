"""What a pixel weighs: the labels' sixth map, and `weights` of the single losses."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import TOLERANCE, check, check_db, make_batch, run_db, tensor, tensors

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss

pytestmark = pytest.mark.usefixtures("engine")
SHAPE = (2, 8, 12)
MAPS = ("maps", "aux_maps_p4", "aux_maps_p2")


def make_weights(seed=7):
    """Weights as text balance makes them, and others on pixels that are no text."""
    return np.random.default_rng(seed).uniform(0.25, 6, SHAPE).astype(np.float32)


def five_predictions():
    predicts = {name: make_batch(seed=seed).maps for seed, name in enumerate(MAPS)}
    predicts["distance_maps"] = predicts["cbn_maps"] = make_batch(seed=9).maps
    return predicts


@pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
@pytest.mark.parametrize("labels", ["binary", "soft"])
def test_all_maps_of_a_batch(kind, labels):
    predicts = five_predictions()
    weighted = [*make_batch(labels).labels, make_weights()]
    settings = {"main_loss_type": kind, "aux_weight_p4": 0.2, "aux_weight_p2": 0.5, "ohem_ratio": 2}
    expected = oracle.db(predicts, weighted, **settings)
    losses, grads = run_db(DBLoss(**settings), predicts, weighted)
    assert grads.pop("distance_maps") is None
    check_db((losses, grads), expected, TOLERANCE["float32"])


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("kind", oracle.BALANCED)
def test_single_balance(kind, balanced):
    p, g, m = make_batch().single
    gt, mask, weights = tensors((g, m, make_weights()))
    layer = BalanceLoss(balanced, kind, negative_ratio=2, bce_weight=0.7)
    expected = oracle.balance(p, g, m, kind, balanced, 2, bce_weight=0.7, weights=make_weights())
    check(lambda x: layer(x, gt, mask, weights), p, expected)


def test_single_focal_loss():
    p, g, _ = make_batch().single
    gt, weights = tensors((g, make_weights()))
    expected = oracle.dice_focal(p, g, make_weights())
    check(lambda x: DiceFocalLoss()(x, gt, weights=weights), p, expected)


def test_counts_are_those_of_the_mask():
    """The one negative in place of four is what tells that a weight of 4 counts as one pixel."""
    p = np.float32([[[0.5, 0.5, 0.4, 0.3, 0.2, 0.1]]])
    g = np.float32([[[1, 0, 0, 0, 0, 0]]])
    gt, weights = tensors((g, 1 + 3 * g))
    loss = BalanceLoss(main_loss_type="BCELoss", negative_ratio=1)(
        tensor(p), gt, paddle.ones_like(gt), weights
    )
    assert float(loss) == pytest.approx((4 + 1) * np.log(2) / 2, rel=1e-6)


def test_a_layer_put_in_place_gets_them_too():
    given = []

    class Own(paddle.nn.Layer):
        def forward(self, pred, gt, mask, **more):
            given.append(more)
            return pred.mean()

    batch = make_batch()
    criterion = DBLoss()
    criterion.bce_loss = criterion.l1_loss = criterion.dice_loss = Own()
    weights = make_weights()
    labels = tensors([*batch.labels, weights])
    criterion({"maps": tensor(batch.maps)}, labels)
    shrink, threshold, binary = given
    assert threshold == {}
    for more in (shrink, binary):
        np.testing.assert_array_equal(more["weights"].numpy(), weights)
    given.clear()
    criterion({"maps": tensor(batch.maps)}, labels[:5])
    assert given == [{}, {}, {}]


def test_maps_without_gradient_beside_maps_that_have_one():
    predicts, labels = five_predictions(), make_batch().labels
    settings = {"aux_weight_p4": 0.2, "aux_weight_p2": 0.5, "main_loss_type": "BCELoss"}
    _, expected = oracle.db(predicts, labels, **settings)
    leaves = {name: tensor(p, grad=name != "aux_maps_p4") for name, p in predicts.items()}
    DBLoss(**settings)(leaves, tensors(labels))["loss"].backward()
    assert leaves["aux_maps_p4"].grad is None
    for name in ("maps", "cbn_maps", "aux_maps_p2"):
        np.testing.assert_allclose(leaves[name].grad.numpy(), expected[name], 1e-4, 1e-7)


def test_maps_of_different_dtypes():
    predicts, labels = five_predictions(), make_batch().labels
    settings = {"aux_weight_p4": 0.2, "aux_weight_p2": 0.5, "main_loss_type": "OHEMDiceLoss"}
    expected = oracle.db(predicts, labels, **settings)
    dtypes = dict(zip(predicts, ["float32", "float64", "float32", "float32", "float32"]))
    leaves = {name: tensor(p, dtypes[name], grad=True) for name, p in predicts.items()}
    losses = DBLoss(**settings)(leaves, tensors(labels))
    assert float(losses["loss"]) == pytest.approx(expected[0]["loss"], rel=1e-5)
    losses["loss"].backward()
    for name in ("maps", "aux_maps_p4", "aux_maps_p2"):
        assert leaves[name].grad.dtype == leaves[name].dtype
        np.testing.assert_allclose(leaves[name].grad.numpy(), expected[1][name], 1e-4, 1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [w, w], r"labels: expected 5 entries .* text_weights as the sixth, got 7"),
        (lambda w: [w[:, 1:]], r"labels\[5\] \(text_weights\): expected the shape \[2, 8, 12\]"),
    ],
)
def test_wrong_weights(change, message):
    batch = make_batch()
    labels = tensors(batch.labels) + change(tensor(make_weights()))
    with pytest.raises(ValueError, match=message):
        DBLoss()({"maps": tensor(batch.maps)}, labels)
