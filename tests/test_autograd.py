"""Autograd as with Paddle's own losses: changes in place, second order, a second pass."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import (
    GOLDEN,
    PADDLE,
    TOLERANCE,
    assert_grad,
    make_batch,
    numeric_gradient,
    tensor,
    tensors,
)

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss

CHANGED = "changed in place"
FOUR = ("DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss")


def step(kind="DiceLoss", dtype="float32"):
    batch = make_batch(seed=60)
    leaf = tensor(batch.maps, dtype, grad=True)
    labels = tensors(batch.labels)
    return leaf, labels, DBLoss(main_loss_type=kind)({"maps": leaf * 1}, labels)["loss"]


# Changed in place between forward and backward ---------------------------------------------------


def right_or_refused(loss, leaf, expected):
    """The gradient is that of the tensors as they were, or there is an error that says why not."""
    try:
        loss.backward()
    except (RuntimeError, OSError) as error:
        assert CHANGED in str(error) or "inplace" in str(error)
    else:
        assert_grad(leaf.grad.numpy(), expected, TOLERANCE["float32"])


@pytest.mark.parametrize("kind", FOUR)
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_label_changed_in_place(engine, kind, place):
    batch = make_batch(seed=60)
    leaf, labels, loss = step(kind)
    labels[place][:, :4] = 0.25
    expected = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)[1]["maps"]
    right_or_refused(loss, leaf, expected)


@pytest.mark.parametrize("kind", FOUR)
def test_maps_changed_in_place_by_a_metric(engine, kind):
    batch = make_batch(seed=60)
    leaf = tensor(batch.maps, grad=True)
    maps = leaf * 1
    loss = DBLoss(main_loss_type=kind)({"maps": maps}, tensors(batch.labels))["loss"]
    maps.detach().clip_(0.0, 1e-6)
    expected = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)[1]["maps"]
    right_or_refused(loss, leaf, expected)


def test_the_error_says_what_changed(monkeypatch):
    if PADDLE < (3, 0):
        pytest.skip("the fused engine needs Paddle 3")
    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    _, labels, loss = step()
    labels[4][:, :4] = 0
    with pytest.raises(OSError, match=r"changed in place .*shape \[2, 8, 12\].*\.clone\(\)"):
        loss.backward()


def test_labels_that_were_copied_may_change(engine):
    """Labels of bool are cast, and the copy stays as it is."""
    batch = make_batch(seed=60)
    leaf, labels = tensor(batch.maps, grad=True), tensors(batch.labels, "bool")
    labels[1] = tensor(batch.t)
    loss = DBLoss()({"maps": leaf}, labels)["loss"]
    expected = oracle.db({"maps": batch.maps}, batch.labels)[1]["maps"]
    loss.backward()
    assert_grad(leaf.grad.numpy(), expected, TOLERANCE["float32"])


# Second order -----------------------------------------------------------------------------------


def squared_gradient(loss, p):
    leaf = tensor(p, "float64", grad=True)
    (gradient,) = paddle.grad(loss(leaf), leaf, create_graph=True)
    square = (gradient**2).sum()
    square.backward()
    return float(square), leaf.grad.numpy()


P, G, M = make_batch(shape=(1, 4, 5), seed=61).single
SECOND = {
    "dice": (DiceLoss(), lambda p: oracle.dice(p, G, M)[1]),
    "balanced dice": (BalanceLoss(), lambda p: oracle.balance(p, G, M)[1]),
    "cross-entropy": (
        BalanceLoss(main_loss_type="BCELoss"),
        lambda p: oracle.balance(p, G, M, "BCELoss")[1],
    ),
    "squared error": (
        BalanceLoss(main_loss_type="Euclidean"),
        lambda p: oracle.balance(p, G, M, "Euclidean")[1],
    ),
    "dice and focal": (
        DiceFocalLoss(focal_gamma=2.5),
        lambda p: oracle.dice_focal(p, G, M, gamma=2.5)[1],
    ),
}


@pytest.mark.skipif(PADDLE < (3, 0), reason="second derivatives of Paddle 2 are not promised")
@pytest.mark.parametrize(("layer", "slope"), SECOND.values(), ids=list(SECOND))
def test_second_derivative_on_operators(layer, slope, monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    gt, mask = tensors((G, M))
    value, gradient = squared_gradient(lambda x: layer(x, gt, mask), P)
    assert value == pytest.approx((slope(P) ** 2).sum(), rel=1e-5)
    expected = numeric_gradient(lambda p: (slope(p) ** 2).sum(), P)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.skipif(PADDLE < (3, 0), reason="second derivatives of Paddle 2 are not promised")
def test_second_derivative_of_an_origin(monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    gt, mask = tensors((G, M))
    layer = BalanceLoss(main_loss_type="BCELoss", return_origin=True)
    _, gradient = squared_gradient(lambda x: layer(x, gt, mask)[1].sum(), P)
    expected = numeric_gradient(lambda p: (oracle.bce(p, G)[1] ** 2).sum(), P)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.skipif(PADDLE < (3, 0), reason="second derivatives of Paddle 2 are not promised")
def test_hessian_on_operators(monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    gt, mask = tensors((G[:, :2, :2], M[:, :2, :2]))
    p = tensor(P[:, :2, :2].reshape(-1), "float64", grad=True)
    loss = DiceLoss()(p.reshape([1, 2, 2]), gt, mask)
    hessian = np.asarray(paddle.autograd.hessian(loss, p)[:].numpy())

    def slope(place):
        def function(x):
            return oracle.dice(x.reshape(1, 2, 2), gt.numpy(), mask.numpy())[1].ravel()[place]

        return function

    expected = [numeric_gradient(slope(i), P[:, :2, :2].reshape(-1)) for i in range(4)]
    np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.skipif(PADDLE < (3, 0), reason="the fused engine needs Paddle 3")
def test_second_derivative_on_fused_is_an_error(monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    gt, mask = tensors((G, M))
    leaf = tensor(P, grad=True)
    with pytest.raises(OSError, match=r"second derivative.*create_graph.*DBLOSS_ENGINE=operators"):
        paddle.grad(DiceLoss()(leaf, gt, mask), leaf, create_graph=True)


# A second pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FOUR)
def test_second_backward_on_operators(kind, monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    batch = make_batch(seed=62)
    leaf = tensor(batch.maps, grad=True)
    out = DBLoss(main_loss_type=kind)({"maps": leaf}, tensors(batch.labels))
    grad = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)[1]["maps"]
    for channel, key in enumerate(oracle.PARTS):
        leaf.clear_gradient()
        out[key].backward(retain_graph=True)
        only = np.arange(3).reshape(1, 3, 1, 1) == channel
        assert_grad(leaf.grad.numpy(), grad * only, TOLERANCE["float32"])


@pytest.mark.skipif(PADDLE < (3, 0), reason="the fused engine needs Paddle 3")
@pytest.mark.parametrize("second", oracle.PARTS)
def test_second_backward_on_fused_is_an_error(second, monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    batch = make_batch(seed=62)
    leaf = tensor(batch.maps, grad=True)
    out = DBLoss()({"maps": leaf}, tensors(batch.labels))
    out["loss_shrink_maps"].backward(retain_graph=True)
    with pytest.raises(OSError, match=r"second time.*retain_graph.*DBLOSS_ENGINE=operators"):
        out[second].backward()


# What Paddle looks for ---------------------------------------------------------------------------


@pytest.fixture
def flag():
    """Sets a flag of Paddle, and sets it back."""
    before = {}

    def set_it(name, value):
        before.update(paddle.get_flags(name))
        paddle.set_flags({name: value})

    yield set_it
    paddle.set_flags(before)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, "float32") for kind in oracle.MAIN_LOSS_TYPES),
        *((kind, "float64") for kind in ("BCELoss", "DiceFocalLoss")),
    ],
)
def test_no_nan_or_infinity_arises_at_zero_and_one(engine, kind, dtype, flag):
    g, m = np.zeros((2, 1, 4, 4), np.float32)
    g[0, :2], m[0, :, 1:] = 1, 1
    maps = np.zeros((1, 3, 4, 4), np.float32)
    maps[:, :, ::2] = 1
    leaf = tensor(maps, dtype, grad=True)
    flag("FLAGS_check_nan_inf", True)
    loss = DBLoss(main_loss_type=kind)({"maps": leaf}, tensors([None, g, m, g, m]))["loss"]
    loss.backward()
    assert np.isfinite(float(loss)) and np.isfinite(leaf.grad.numpy()).all()


@pytest.mark.parametrize("kind", FOUR)
def test_without_kernels_for_strides(engine, kind, flag):
    batch = make_batch(seed=63)
    flag("FLAGS_use_stride_kernel", False)
    leaf = tensor(batch.maps, grad=True)
    loss = DBLoss(main_loss_type=kind)({"maps": leaf}, tensors(batch.labels))["loss"]
    loss.backward()
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    assert float(loss) == pytest.approx(losses["loss"], rel=GOLDEN.value)
    assert_grad(leaf.grad.numpy(), grads["maps"], TOLERANCE["float32"])


def test_masked_l1_is_no_different(engine):
    """Of a loss alone, too: its labels may not change."""
    p, g, m = make_batch(seed=60).single
    leaf, (gt, mask) = tensor(p, grad=True), tensors((g, m))
    loss = MaskL1Loss()(leaf, gt, mask)
    mask[:] = 0.5
    right_or_refused(loss, leaf, oracle.masked_l1(p, g, m)[1])


def test_the_target_of_a_cross_entropy_alone_may_not_change(engine):
    """Its slope is made from the target when the gradient is asked for."""
    p, g, m = make_batch(seed=60).single
    leaf, (gt, mask) = tensor(p, grad=True), tensors((g, m))
    loss = BalanceLoss(main_loss_type="BCELoss")(leaf, gt, mask)
    gt[:] = 0.25
    right_or_refused(loss, leaf, oracle.balance(p, g, m, "BCELoss")[1])
