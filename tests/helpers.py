"""What the test files share: tolerances, data, golden cases, and running a loss."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import paddle
import pytest

DATA = Path(__file__).parent / "data"
PADDLE = tuple(int(number) for number in paddle.__version__.split(".")[:2])


class Tolerance(NamedTuple):
    value: float  # relative, absolute where zero is expected
    grad: float  # relative to the gradient at a pixel, or to the median where that is larger


# What the layers do in Python, whoever does the sweeps: the fused engine would compile for each.
EITHER_ENGINE = pytest.mark.parametrize("engine", ["operators"], indirect=True)

LABEL_DTYPES = ("bool", "uint8", "int64")  # those of labels that are no floats, and of every width


# A loss is float32 whatever the prediction is; a gradient has the prediction's dtype.
TOLERANCE = {"float32": Tolerance(2e-6, 1e-5), "float64": Tolerance(5e-7, 2e-7)}
GOLDEN = Tolerance(1e-5, 1e-4)


class Batch(NamedTuple):
    """One batch as NumPy float32 arrays, `labels` as DBLoss takes them."""

    maps: np.ndarray
    t: np.ndarray
    k: np.ndarray
    g: np.ndarray
    m: np.ndarray

    @property
    def labels(self):
        return [None, self.t, self.k, self.g, self.m]

    @property
    def single(self):
        """Prediction, target and mask of a single loss."""
        return self.maps[:, 0], self.g, self.m


def make_batch(kind="binary", shape=(2, 8, 12), seed=0):
    """Seeded random data. Predictions keep off 0 and 1, and off every tie, except in `ties`."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    maps = rng.uniform(0.02, 0.98, (n, 3, h, w))
    t = rng.uniform(0.3, 0.7, shape)
    k, g, m = (rng.random(shape) < share for share in (0.3, 0.15, 0.9))
    if kind == "soft":
        k, g, m = rng.random((3, *shape))
    elif kind == "noise":  # the same tensor as every label
        maps, t = rng.normal(size=maps.shape), rng.normal(size=shape)
        k = g = m = t
    elif kind == "shifted_noise":  # noise whose negatives outweigh, so that mining happens
        maps, t = rng.normal(size=maps.shape), rng.normal(0.3, 0.3, shape)
        k = g = m = t
    elif kind == "masks_255":
        k, m = 255 * k, 255 * m
    elif kind == "no_text":
        g = np.zeros(shape)
    elif kind == "all_text":
        g = np.ones(shape)
    elif kind == "all_ignored":
        k = m = np.zeros(shape)
    elif kind == "ties":
        maps = rng.choice([0.25, 0.5, 0.75], maps.shape)
    elif kind == "negative_dice":  # targets of 3 push 2*I above U
        g, maps = 3 * g, np.where((3 * g)[:, None] > 0, 0.9, 0.05) * rng.uniform(0.9, 1, maps.shape)
    else:
        assert kind == "binary", kind
    return Batch(*(np.asarray(a, np.float32) for a in (maps, t, k, g, m)))


def make_saturated(soft, shape=(2, 8, 12)):
    """Predictions within 1e-6 of 0 and 1, right and wrong; targets of 0 and 1, or in between."""
    rng = np.random.default_rng(0)
    at = np.float32([0, 1e-7, 5e-7, 2e-6, 0.5, 1 - 2e-6, 1 - 5e-7, 1])
    batch = make_batch("soft" if soft else "binary", shape)
    maps = rng.choice(at, batch.maps.shape)
    return batch._replace(maps=maps, g=batch.g if soft else np.float32(rng.random(shape) < 0.5))


def tensor(array, dtype="float32", grad=False):
    """`array` as a tensor; None and tensors pass as they are."""
    if array is None or isinstance(array, paddle.Tensor):
        return array
    out = paddle.to_tensor(np.asarray(array)).astype(dtype)
    out.stop_gradient = not grad
    return out


def tensors(arrays, dtype="float32"):
    return [tensor(a, dtype) for a in arrays]


@contextmanager
def not_written(*given):
    """What is done to `given`, tensors of the caller, leaves them as they are."""
    before = [(x.numpy().copy(), x.inplace_version, x.stop_gradient) for x in given]
    yield
    for x, (value, version, stop_gradient) in zip(given, before):
        np.testing.assert_array_equal(x.numpy(), value)
        assert x.inplace_version == version and x.stop_gradient == stop_gradient


def scalar(loss):
    """The number in a loss, which must be a 0-D float32 tensor."""
    assert isinstance(loss, paddle.Tensor)
    assert loss.shape == [] and loss.dtype == paddle.float32, (loss.shape, loss.dtype)
    return float(loss)


def value_and_grad(loss, pred, dtype="float32"):
    """`loss(pred)` and its gradient for a leaf of `dtype`."""
    leaf = tensor(pred, dtype, grad=True)
    out = loss(leaf)
    out.backward()
    assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
    assert leaf.grad.shape == leaf.shape
    return scalar(out), leaf.grad.numpy()


def assert_value(got, expected, tol):
    assert abs(got - expected) <= tol.value * (abs(expected) or 1.0), (got, expected)


def assert_grad(got, expected, tol):
    """Stricter than a share of the largest gradient, which one saturated pixel can make huge."""
    size = np.abs(expected)
    if not size.any():
        assert not got.any()
        return
    excess = np.abs(got - expected) / np.maximum(size, np.median(size[size > 0]))
    assert excess.max() <= tol.grad, excess.max()


def check(loss, pred, expected, dtype="float32"):
    """`loss` gives the oracle's (value, gradient) at `pred`."""
    value, grad = value_and_grad(loss, pred, dtype)
    assert_value(value, expected[0], TOLERANCE[dtype])
    assert_grad(grad, expected[1], TOLERANCE[dtype])


def numeric_gradient(f, p, h=1e-5):
    """The gradient of `f` by finite differences."""
    p, grad = np.array(p, np.float64), np.zeros(np.shape(p))
    for i in np.ndindex(p.shape):
        up, down = p.copy(), p.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


def run_db(layer, predicts, labels, dtype="float32", label_dtype="float32"):
    """Losses as numbers, and the gradient of "loss" to each prediction or None."""
    leaves = {key: tensor(p, dtype, grad=True) for key, p in predicts.items()}
    out = layer(leaves, tensors(labels, label_dtype))
    out["loss"].backward()
    grads = {key: None if p.grad is None else p.grad.numpy() for key, p in leaves.items()}
    return {key: scalar(v) for key, v in out.items()}, grads


def check_db(got, expected, tol):
    """Losses and gradients, each channel of a map by its own largest gradient."""
    (losses, grads), (want_losses, want_grads) = got, expected
    assert losses.keys() == want_losses.keys()
    for key, want in want_losses.items():
        assert_value(losses[key], want, tol)
    for key, grad in grads.items():
        if key not in want_grads:
            assert grad is None or not grad.any(), key
            continue
        for channel in range(grad.shape[1]):
            assert_grad(grad[:, channel], want_grads[key][:, channel], tol)


def _golden():
    described = json.loads((DATA / "paddleocr_dbloss.json").read_text())
    with np.load(DATA / "paddleocr_dbloss.npz") as arrays:
        stored = dict(arrays)
    cases = {}
    for name, case in described.items():
        own = {k.removeprefix(f"{name}."): a for k, a in stored.items() if k.startswith(f"{name}.")}
        cases[name] = SimpleNamespace(arrays=own, **case)
    return cases


LABELS = ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
GOLDEN_CASES = _golden()
GOLDEN_WEIGHTS = GOLDEN_CASES.pop("dice_weights")


def golden_batch(case):
    """Predictions, labels and the expected gradients of a golden DBLoss case."""
    arrays = case.arrays
    predicts = {k: a for k, a in arrays.items() if "maps" in k and not k.endswith("grad")}
    grads = {"maps": arrays["grad"]}
    grads |= {key: arrays[f"{key}.grad"] for key in predicts if f"{key}.grad" in arrays}
    return predicts, [None, *(arrays[key] for key in LABELS)], grads
