"""hard_negative_weights: the counts, the hardest, the ties, on both engines."""

import itertools

import numpy as np
import oracle
import paddle
import pytest
from helpers import LABEL_DTYPES, make_batch, not_written, tensors

from dbloss import BalanceLoss, hard_negative_weights

pytestmark = pytest.mark.usefixtures("engine")


def weights_of(hardness, g, m, **settings):
    weights = hard_negative_weights(*tensors([hardness, g, m]), **settings)
    assert weights.dtype == paddle.float32
    assert weights.stop_gradient
    return weights.numpy()


@pytest.mark.parametrize("data", ["binary", "soft", "ties", "no_text", "all_text", "all_ignored"])
@pytest.mark.parametrize(("ratio", "fallback"), [(3, 0), (0, 0), (0.5, 7), (1000, 5)])
def test_against_brute_force(data, ratio, fallback):
    p, g, m = make_batch(data, (3, 9, 13), seed=1).single
    got = weights_of(p, g, m, negative_ratio=ratio, fallback_negatives=fallback)
    np.testing.assert_allclose(
        got, oracle.hard_negative_weights(p, g, m, ratio, fallback), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_labels_that_are_no_floats(dtype):
    data, ratio = ("binary", 1) if dtype == "bool" else ("masks_255", 1 / 255)
    p, g, m = make_batch(data, seed=5).single
    weights = hard_negative_weights(*tensors([p]), *tensors([g, m], dtype), negative_ratio=ratio)
    expected = oracle.hard_negative_weights(p, g, m, ratio)
    assert 0 < expected.sum() < ((1 - g) * m != 0).sum()
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_counts_and_the_hardest():
    p, g, m = make_batch(shape=(2, 16, 16), seed=2).single
    got = weights_of(p, g, m, negative_ratio=1.5)
    negative = (g == 0) & (m == 1)
    assert got.sum() == int((g * m).sum() * 1.5) > 0
    assert set(np.unique(got)) == {0, 1}
    assert not got[~negative].any()
    assert p[got == 1].min() > p[negative & (got == 0)].max()


def test_ties_share_the_places_left():
    hardness = np.float32([[[0.9, 0.2, 0.7, 0.2, 0.2, 0.2, 0.1]]])
    g = np.float32([[[1, 0, 0, 0, 0, 0, 0]]])
    expected = [[[0, 0.5, 1, 0.5, 0.5, 0.5, 0]]]
    np.testing.assert_array_equal(weights_of(hardness, g, np.ones_like(g)), expected)


@pytest.mark.parametrize(
    ("kind", "p"),
    [("OHEMDiceLoss", [0.9, 3e-17, 1e-17, 2e-17, 0]), ("Euclidean", [0.9, 3e-9, 1e-9, 2e-9, 0])],
)
def test_small_values_that_differ_are_no_ties(kind, p):
    """A trained detector has them. Paddle's `==` holds where numbers differ by less than 1e-15."""
    p, g = np.float32([[p]]), np.float32([[[1, 0, 0, 0, 0]]])
    valid, expected = np.ones_like(g), [[[0, 1, 0, 1, 0]]]
    hardness = p**2 if kind == "Euclidean" else p
    np.testing.assert_array_equal(weights_of(hardness, g, valid, negative_ratio=2), expected)
    x = paddle.to_tensor(p, dtype="float64", stop_gradient=False)
    BalanceLoss(main_loss_type=kind, negative_ratio=2)(x, *tensors([g, valid])).backward()
    _, gradient = oracle.balance(p, g, valid, kind, ratio=2)
    np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-6)


def test_ties_at_zero_are_shared_among_negatives_alone():
    g = np.float32([[[1, 0, 0, 0]]])
    m = np.float32([[[1, 1, 1, 0]]])
    got = weights_of(np.zeros_like(g), g, m, negative_ratio=1)
    np.testing.assert_array_equal(got, [[[0, 0.5, 0.5, 0]]])


@pytest.mark.parametrize("data", ["binary", "soft", "ties", "no_text"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hardness_that_is_not_finite(data, dtype):
    for bad, share in itertools.product((np.nan, -np.nan, np.inf, -np.inf), (0.02, 0.5, 1)):
        p, g, m = make_batch(data, seed=4).single
        p[np.random.default_rng(4).random(p.shape) < share] = bad
        given = tensors([p, g, m], dtype)
        got = hard_negative_weights(*given, negative_ratio=1, fallback_negatives=9).numpy()
        assert ((got >= 0) & (got <= 1)).all(), (bad, share)
        assert got.sum() <= oracle.counts(g, m, 1, 9)[1] * (1 + 1e-6), (bad, share)
        assert not got[(1 - g) * m == 0].any(), (bad, share)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_infinity_is_the_hardest(share):
    p, g, m = make_batch(seed=5).single
    first = ((1 - g) * m == 1) & (np.random.default_rng(5).random(p.shape) < share)
    p[first] = np.inf
    got = weights_of(p, g, m, negative_ratio=1)
    places = oracle.counts(g, m, 1)[1]
    assert 0 < first.sum() != places
    np.testing.assert_allclose(got[first], min(1, places / first.sum()), rtol=1e-6)
    assert got.sum() == pytest.approx(places, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("data", ["binary", "ties"])
def test_hardness_of_what_is_no_negative_does_not_matter(data, bad):
    p, g, m = make_batch(data, seed=6).single
    expected = oracle.hard_negative_weights(p, g, m, 1)
    p[(1 - g) * m == 0] = bad
    np.testing.assert_allclose(weights_of(p, g, m, negative_ratio=1), expected, rtol=1e-6)


def test_no_places():
    p, g, m = make_batch("no_text", (1, 4, 4)).single
    assert not weights_of(p, g, m).any()


@pytest.mark.parametrize("kind", oracle.MINED)
def test_it_is_the_selection_of_the_loss(kind):
    p, g, m = make_batch(shape=(2, 12, 12), seed=3).single
    pred = paddle.to_tensor(p, stop_gradient=False)
    gt, mask = tensors([g, m])
    BalanceLoss(main_loss_type=kind, negative_ratio=2)(pred, gt, mask).backward()
    with_gradient = (pred.grad.numpy() != 0) & (g == 0)
    np.testing.assert_array_equal(with_gradient, weights_of(p, g, m, negative_ratio=2) > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_are_not_written_to(dtype):
    given = tensors(make_batch("ties", (1, 6, 6)).single, dtype)
    with not_written(*given):
        hard_negative_weights(*given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative_ratio": -1}, "negative_ratio: expected a finite number at least 0, got -1"),
        ({"fallback_negatives": 0.5}, "fallback_negatives: expected a whole number"),
        ({"fallback_negatives": -1}, "fallback_negatives: expected a whole number at least 0"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        weights_of(*make_batch(shape=(1, 2, 2)).single, **settings)


@pytest.mark.parametrize("name", ["gt", "mask"])
def test_labels_that_require_a_gradient(name):
    given = dict(zip(("hardness", "gt", "mask"), tensors(make_batch().single)))
    given[name].stop_gradient = False
    with pytest.raises(ValueError, match=rf"{name}: .*requires a gradient.*\.detach\(\)"):
        hard_negative_weights(**given)


def test_hardness_may_require_a_gradient():
    hardness, gt, mask = tensors(make_batch().single)
    hardness.stop_gradient = False
    assert hard_negative_weights(hardness, gt, mask).stop_gradient


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"hardness: expected the shape \[N, H, W\], got \[4\]"):
        hard_negative_weights(*[paddle.zeros([4])] * 3)
