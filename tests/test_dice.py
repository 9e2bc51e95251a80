import oracle
import paddle
import pytest
from helpers import LABEL_DTYPES, check, make_batch, tensor, tensors, value_and_grad

from dbloss import DiceLoss

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "settings"),
    [
        ("binary", (2, 8, 12), "float32", {}),
        ("binary", (1, 1, 1), "float32", {}),
        ("soft", (3, 5, 2), "float64", {"eps": 0.5}),
        ("soft", (2, 8, 12), "float32", {"smooth": 2.0}),
        ("soft", (2, 8, 12), "float64", {}),
        ("noise", (2, 8, 12), "float64", {}),
        ("noise", (1, 1, 7), "float32", {"eps": 0.5, "smooth": 2.0}),
        ("masks_255", (2, 8, 12), "float64", {"eps": 0.5, "smooth": 2.0}),
        ("masks_255", (3, 5, 2), "float32", {}),
    ],
)
def test_value_and_gradient(kind, shape, dtype, settings):
    p, g, m = make_batch(kind, shape, seed=1).single
    layer, (gt, mask) = DiceLoss(**settings), tensors((g, m))
    check(lambda x: layer(x, gt, mask), p, oracle.dice(p, g, m, **settings), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_weights_multiply_the_mask(dtype, smooth):
    batch = make_batch()
    p, g, m = batch.single
    gt, mask, weights = tensors((g, m, batch.t))
    layer = DiceLoss(smooth=smooth)
    expected = oracle.dice(p, g, m, batch.t, smooth=smooth)
    check(lambda x: layer(x, gt, mask, weights), p, expected, dtype)
    check(lambda x: layer(x, gt, mask, weights=weights), p, expected, dtype)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_and_weights_that_are_no_floats(dtype):
    p, g, m = make_batch("binary" if dtype == "bool" else "masks_255").single
    w = make_batch("binary" if dtype == "bool" else "masks_255", seed=1).k
    gt, mask, weights = tensors((g, m, w), dtype)
    check(lambda x: DiceLoss()(x, gt, mask), p, oracle.dice(p, g, m))
    check(lambda x: DiceLoss()(x, gt, mask, weights), p, oracle.dice(p, g, m, w))


def test_weights_of_one_change_nothing():
    p, g, m = make_batch().single
    gt, mask, ones = tensors((g, m, 0 * m + 1))
    plain = value_and_grad(lambda x: DiceLoss()(x, gt, mask), p)
    weighted = value_and_grad(lambda x: DiceLoss()(x, gt, mask, ones), p)
    assert plain[0] == weighted[0] and (plain[1] == weighted[1]).all()


def test_perfect_and_worst_prediction():
    _, g, m = make_batch().single
    gt, mask = tensors((g, m))
    assert float(DiceLoss()(gt, gt, mask)) == pytest.approx(0, abs=1e-6)
    assert float(DiceLoss()(1 - gt, gt, mask)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_value_above_one_is_a_loss_like_any_other(dtype):
    """PaddleOCR asserts that there is none; predictions below 0 make one."""
    p, g, m = make_batch().single
    gt, mask = tensors((g, m))
    expected = oracle.dice(-0.1 * p, g, m)
    assert expected[0] > 1
    check(lambda x: DiceLoss()(x, gt, mask), -0.1 * p, expected, dtype)


def test_settings_changed_later_take_effect():
    p, g, m = make_batch().single
    layer, (gt, mask) = DiceLoss(), tensors((g, m))
    layer.eps, layer.smooth = 0.5, 3.0
    check(lambda x: layer(x, gt, mask), p, oracle.dice(p, g, m, eps=0.5, smooth=3.0))


def test_no_gradient_is_made_where_none_is_asked():
    pred, gt, mask = tensors(make_batch().single)
    assert DiceLoss()(pred, gt, mask).stop_gradient
    with paddle.no_grad():
        leaf = tensor(pred.numpy(), grad=True)
        assert DiceLoss()(leaf, gt, mask).stop_gradient
