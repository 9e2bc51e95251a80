"""The gain of one score over another, and its interval: closed forms, and choices among noise."""

import re

import numpy as np
import pytest

pytest.importorskip("shapely")
from dbloss.score import Gain, Match, compare
from dbloss.score.bootstrap import gain_of_best


def counts(hits, found=10, truth=10):
    """(hits, found, truth) of each image."""
    hits = np.asarray(hits)
    return np.stack([hits, np.full_like(hits, found), np.full_like(hits, truth)], axis=-1)


def test_the_gain_and_its_interval_as_the_normal_distribution_has_them():
    """With 10 boxes and 10 texts an image the hmean is the mean of hits / 10."""
    rng = np.random.default_rng(0)
    before, after = rng.binomial(10, 0.5, 400), rng.binomial(10, 0.55, 400)
    difference = (after - before) / 10
    half = 1.96 * difference.std() / 20
    gain = compare(counts(before), counts(after), samples=20000)
    assert gain.hmean == pytest.approx(difference.mean(), rel=1e-12)
    assert gain.low == pytest.approx(difference.mean() - half, abs=0.05 * half)
    assert gain.high == pytest.approx(difference.mean() + half, abs=0.05 * half)


def test_it_is_paired():
    """What makes an image hard for both is no noise: each finds 1 more of 20 where it finds any."""
    hits = np.random.default_rng(0).integers(0, 20, 50)
    gain = compare(counts(hits, 20, 20), counts(hits + 1, 20, 20))
    assert gain == pytest.approx((0.05, 0.05, 0.05))
    assert not gain.within_noise


def test_there_and_back():
    rng = np.random.default_rng(1)
    one, other = (
        np.stack((rng.integers(0, 5, 30), rng.integers(5, 9, 30), np.full(30, 6)), axis=1)
        for _ in range(2)
    )
    there, back = compare(one, other), compare(other, one)
    assert there == pytest.approx((-back.hmean, -back.high, -back.low))
    assert there == compare(one, other, seed=0) != compare(one, other, seed=1)
    assert compare(one, one) == Gain(0, 0, 0)


def test_what_a_metric_returned_is_taken_as_it_is():
    before = [Match(1, 2, 2, [(0, 0)]), Match(0, 1, 1, [])]
    after = [Match(2, 2, 2, [(0, 0), (1, 1)]), Match(0, 1, 1, [])]
    gain = compare(before, after)
    assert gain.hmean == pytest.approx(2 / 3 - 1 / 3)
    assert gain.within_noise
    assert str(gain) == "+33.3 points of hmean (+0.0 to +50.0)"


def test_of_one_image_nothing_is_known():
    assert compare([(0, 1, 1)], [(1, 1, 1)]) == Gain(1, -1, 1)


def test_the_best_of_many_that_are_equally_good_gains_nothing():
    """A hundred settings that hit by chance alone, on 80 images: one of them looks better."""
    rng = np.random.default_rng(2)
    settings = counts(rng.binomial(10, 0.5, (80, 100)))
    *_, best = ranks = settings[..., 0].sum(axis=0).argsort()
    usual = settings[:, ranks[50]]
    assert compare(usual, settings[:, best]).low > 0  # taken for a gain, had it not been chosen
    gain = gain_of_best(settings, usual, best)
    assert gain.hmean == compare(usual, settings[:, best]).hmean
    assert gain.within_noise


def test_the_best_of_many_that_is_better_gains():
    rng = np.random.default_rng(3)
    hits = rng.binomial(10, 0.5, (80, 100))
    hits[:, 7] = rng.binomial(10, 0.7, 80)
    usual = counts(rng.binomial(10, 0.5, 80))
    gain = gain_of_best(counts(hits), usual, 7)
    assert gain.low > 0.1 and gain.high < 0.3
    # One that is far ahead is chosen every time: nothing of its gain is owed to the choice.
    plain = compare(usual, counts(hits[:, 7]))
    np.testing.assert_allclose(gain, plain, atol=0.002)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"before": []}, ValueError, "^before: expected .* at least one image.*list"),
        ({"after": [(1, 2)]}, ValueError, "^after: expected"),
        ({"after": 3}, ValueError, "^after: expected"),
        ({"after": [(1, 2, 3)] * 2}, ValueError, "same images.*1 images with 3 texts and 2 images"),
        ({"after": [(1, 2, 4)]}, ValueError, "same images.*3 texts and 1 images with 4 texts"),
        ({"samples": 0}, ValueError, "^samples: expected .* at least 1"),
        ({"seed": "x"}, TypeError, "^seed: expected"),
    ],
)
def test_a_wrong_argument_is_named(changed, error, words):
    with pytest.raises(error, match=re.compile(words)):
        compare(**{"before": [(1, 2, 3)], "after": [(1, 2, 3)]} | changed)
