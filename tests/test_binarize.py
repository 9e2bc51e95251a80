import numpy as np
import oracle
import paddle
import pytest
from helpers import TOLERANCE, make_batch, not_written, tensor

from dbloss import differentiable_binarization


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", [{}, {"k": 5.0}, {"k": 1}])
def test_value_and_gradient(dtype, settings):
    maps = make_batch(seed=4).maps
    p, t = (tensor(maps[:, i : i + 1], dtype, grad=True) for i in (0, 1))
    out = differentiable_binarization(p, t, **settings)
    assert out.dtype == p.dtype and out.shape == p.shape
    out.sum().backward()
    value, slope = oracle.binarize(p.numpy(), t.numpy(), **settings)
    # The slope is made from the rounded value, so its error is a share of the largest slope, k/4.
    tol, k = TOLERANCE[dtype].grad, settings.get("k", 50)
    np.testing.assert_allclose(out.numpy(), value, rtol=k * tol, atol=tol)
    np.testing.assert_allclose(p.grad.numpy(), slope, rtol=k * tol, atol=k * tol)
    np.testing.assert_allclose(t.grad.numpy(), -slope, rtol=k * tol, atol=k * tol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_from_the_threshold_the_gradient_stays_finite(dtype):
    p = tensor([-1e4, 0.0, 0.5, 1.0, 1e4], dtype, grad=True)
    out = differentiable_binarization(p, tensor([1e4, 1.0, 0.5, 0.0, -1e4], dtype), k=1000.0)
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), [0, 0, 0.5, 1, 1], atol=1e-12)
    np.testing.assert_allclose(p.grad.numpy(), [0, 0, 250, 0, 0], atol=1e-12)


def test_inputs_are_not_written_to():
    p, t = paddle.rand([2, 3]), paddle.rand([2, 3])
    with not_written(p, t):
        differentiable_binarization(p, t)


def test_a_k_whose_exponential_overflows():
    """In float32 `1 / (1 + exp(-k * (p - t)))` has no finite gradient beyond 88.7: k = 100 does."""
    p, t = tensor([0.0, 0.5], grad=True), tensor([1.0, 0.5])
    differentiable_binarization(p, t, k=100.0).sum().backward()
    np.testing.assert_allclose(p.grad.numpy(), [0, 25], atol=1e-30)
