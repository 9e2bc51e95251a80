"""The oracle itself: against PaddleOCR's numbers, finite differences and sums done by hand."""

import numpy as np
import oracle
import pytest
from helpers import (
    GOLDEN,
    GOLDEN_CASES,
    GOLDEN_WEIGHTS,
    assert_grad,
    check_db,
    golden_batch,
    make_batch,
    numeric_gradient,
)


def test_every_golden_case_is_there():
    assert len(GOLDEN_CASES) == 26


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_oracle_gives_the_numbers_of_paddleocr(name):
    case = GOLDEN_CASES[name]
    predicts, labels, grads = golden_batch(case)
    got = oracle.db(predicts, labels, **case.kwargs)
    assert got[1].keys() == grads.keys()
    check_db(got, (case.outputs, grads), GOLDEN)


def test_oracle_gives_the_weighted_dice_of_paddleocr():
    a = GOLDEN_WEIGHTS.arrays
    value, grad = oracle.dice(a["pred"], a["gt"], a["mask"], a["weights"])
    assert value == pytest.approx(GOLDEN_WEIGHTS.output, rel=GOLDEN.value)
    assert_grad(grad, a["grad"], GOLDEN)


@pytest.mark.parametrize("kind", ["binary", "soft", "masks_255", "negative_dice"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda p, g, m: oracle.dice(p, g, m, smooth=0.5),
        lambda p, g, m: oracle.dice(p, g, m, weights=p * 0 + 0.3),
        oracle.masked_l1,
        oracle.focal,
        lambda p, g, m: oracle.focal(p, g, m, alpha=0.25, gamma=0),
        lambda p, g, m: oracle.dice_focal(p, g, m, 0.5, 2.0, 0.3, 3.0),
        *(
            lambda p, g, m, kind=kind, b=b: oracle.balance(p, g, m, kind, b, ratio=1, smooth=0.1)
            for kind in oracle.BALANCED
            for b in (True, False)
        ),
    ],
)
def test_gradients_by_finite_differences(loss, kind):
    p, g, m = make_batch(kind, (1, 4, 6), seed=5).single
    p = 0.2 + 0.6 * p.astype(np.float64)
    numeric = numeric_gradient(lambda q: loss(q, g, m)[0], p)
    grad = loss(p, g, m)[1]
    assert np.abs(grad - numeric).max() <= 1e-6 * np.abs(grad).max()


def test_binarize_gradient_by_finite_differences():
    p, t = np.random.default_rng(0).random((2, 3, 4))
    numeric = numeric_gradient(lambda q: oracle.binarize(q, t, 7.0)[0].sum(), p)
    assert np.abs(oracle.binarize(p, t, 7.0)[1] - numeric).max() < 1e-6


def test_by_hand():
    p, g, m = np.array([0.8, 0.6, 0.4, 0.1]), np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0])
    assert oracle.dice(p, g, m)[0] == pytest.approx(1 - 1.6 / 2.8, rel=1e-5)
    assert oracle.masked_l1(p, g, m)[0] == pytest.approx(1.2 / 3, rel=1e-5)
    assert oracle.counts(g, m, 1) == (1, 1)
    mined = oracle.balance(p, g, m, "BCELoss", ratio=1)[0]
    assert mined == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2, rel=1e-5)
    mined = oracle.balance(p, g, m, "Euclidean", ratio=1)[0]
    assert mined == pytest.approx((0.2**2 + 0.6**2) / 2, rel=1e-5)
    mined = oracle.balance(p, g, m, "OHEMDiceLoss", ratio=1)[0]
    assert mined == pytest.approx(1 - 1.6 / 2.4, rel=1e-5)
    focal = 0.75 * 0.2**2 * -np.log(0.8) - 0.25 * (0.6**2 * np.log(0.4) + 0.4**2 * np.log(0.6))
    assert oracle.focal(p, g, m)[0] == pytest.approx(focal / 3, rel=1e-5)


@pytest.mark.parametrize(
    "gm, ratio, fallback, expected",
    [
        (([1, 0, 0, 0, 0], [1, 1, 1, 1, 1]), 3, 0, (1, 3)),
        (([1, 0, 0, 0, 0], [1, 1, 1, 0, 0]), 3, 0, (1, 2)),
        (([1, 1, 1, 0, 0], [1, 1, 1, 1, 1]), 0.5, 0, (3, 1)),
        (([0.9, 0.9, 0, 0, 0], [1, 1, 1, 1, 1]), 2.5, 0, (1, 2)),
        (([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]), 3, 0, (0, 0)),
        (([0, 0, 0, 0, 0], [1, 1, 1, 0, 0]), 3, 2, (0, 2)),
        (([0, 0, 0, 0, 0], [1, 1, 1, 0, 0]), 3, 9, (0, 3)),
        (([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]), 3, 9, (5, 0)),
        (([2, 2, 2, 0, 0], [1, 1, 1, 1, 1]), 3, 0, (6, 0)),
    ],
)
def test_counts(gm, ratio, fallback, expected):
    assert oracle.counts(*gm, ratio, fallback) == expected


@pytest.mark.parametrize(
    "n, expected",
    [
        (0, [0, 0, 0, 0, 0]),
        (1, [0, 1, 0, 0, 0]),
        (2, [1 / 3, 1, 1 / 3, 0, 1 / 3]),
        (3, [2 / 3, 1, 2 / 3, 0, 2 / 3]),
        (4, [1, 1, 1, 0, 1]),
        (5, [1, 1, 1, 1, 1]),
        (99, [1, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("m", [1, 255])
def test_ties_share_the_places_left(n, expected, m):
    hardness, none = [2, 5, 2, 1, 2], np.zeros(5)
    weights = oracle.hard_negative_weights(hardness, none, none + m, fallback=n)
    np.testing.assert_allclose(weights, expected)


def test_only_negatives_are_chosen():
    """Four places and one hard negative: the negatives of hardness 0 share the other three."""
    hardness, g, m = [0.9, 0.4, 0, 0, 0, 0, 0.8], [1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0]
    weights = oracle.hard_negative_weights(hardness, g, m, ratio=4)
    np.testing.assert_allclose(weights, [0, 1, 0.75, 0.75, 0.75, 0.75, 0])
