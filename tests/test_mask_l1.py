import numpy as np
import oracle
import paddle
import pytest
from helpers import LABEL_DTYPES, check, make_batch, tensors, value_and_grad

from dbloss import MaskL1Loss
from dbloss.engine import operators

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "eps"),
    [
        ("binary", (2, 8, 12), "float32", 1e-6),
        ("binary", (1, 1, 1), "float64", 0.5),
        ("soft", (3, 5, 2), "float32", 0.5),
        ("soft", (2, 8, 12), "float64", 1e-6),
        ("noise", (2, 8, 12), "float32", 1e-6),
        ("noise", (1, 1, 7), "float64", 1e-6),
        ("masks_255", (2, 8, 12), "float64", 0.5),
    ],
)
def test_value_and_gradient(kind, shape, dtype, eps):
    batch = make_batch(kind, shape, seed=2)
    layer, (target, mask) = MaskL1Loss(eps=eps), tensors((batch.t, batch.k))
    p = batch.maps[:, 1]
    expected = oracle.masked_l1(p, batch.t, batch.k, eps)
    check(lambda x: layer(x, target, mask), p, expected, dtype)


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_that_are_no_floats(dtype):
    p, t, k = make_batch("binary" if dtype == "bool" else "masks_255").single
    target, mask = tensors((t, k), dtype)
    check(lambda x: MaskL1Loss()(x, target, mask), p, oracle.masked_l1(p, t, k))


def test_gradient_is_zero_where_prediction_equals_target():
    batch = make_batch()
    p = np.where(np.arange(12) % 2, batch.t, batch.maps[:, 1])
    target, ones = tensors((batch.t, np.ones_like(batch.t)))
    _, grad = value_and_grad(lambda x: MaskL1Loss()(x, target, ones), p)
    assert not grad[..., 1::2].any() and grad[..., ::2].all()
    check(lambda x: MaskL1Loss()(x, target, ones), p, oracle.masked_l1(p, batch.t, ones.numpy()))


def test_eps_changed_later_takes_effect():
    batch = make_batch()
    layer, (target, mask) = MaskL1Loss(), tensors((batch.t, batch.k))
    layer.eps, p = 5.0, batch.maps[:, 1]
    check(lambda x: layer(x, target, mask), p, oracle.masked_l1(p, batch.t, batch.k, 5.0))


def test_more_pixels_than_float32_can_count():
    """A float32 that counts them one by one stays at 2^24: the mean would be 1/16, not 1/17."""
    p = paddle.zeros([1, 17, 2**20])
    p[:, 16] = 1
    p.stop_gradient = False
    loss = MaskL1Loss()(p, paddle.zeros([1, 17, 2**20]), paddle.ones([1, 17, 2**20]))
    assert float(loss) == pytest.approx(1 / 17, rel=1e-6)


@pytest.mark.parametrize(
    ("width", "read"), [(640, True), (1024, True), (409_600, True), (409_600, False)]
)
def test_wide_rows(width, read, monkeypatch):
    """Also where values are not read on the host, as on a GPU."""
    if not read:
        monkeypatch.setattr(operators._Sweeps, "_on_host", lambda *_: False)
    p = paddle.full([1, 4, width], 0.1)
    loss = MaskL1Loss()(p, paddle.zeros_like(p), paddle.ones_like(p))
    assert float(loss) == pytest.approx(float(np.float32(0.1)), rel=1e-6)
