"""Whether the difference of two scores is more than noise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbloss.base import checks
from dbloss.score.matching import quotient

_Floats = NDArray[np.float64]

_SAMPLES, _SEED = 2000, 0
_INTERVAL = 2.5, 97.5  # percentiles


class Gain(NamedTuple):
    """The difference of two hmeans on the same images, and its range on other images like them."""

    hmean: float  # on these images
    low: float  # the ends of the interval of 95 %
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        points = (f"{100 * each:+.1f}" for each in self)
        return "{} points of hmean ({} to {})".format(*points)


def compare(
    before: Sequence[ArrayLike],
    after: Sequence[ArrayLike],
    *,
    samples: int = _SAMPLES,
    seed: int = _SEED,
) -> Gain:
    """Return how much the hmean of a set of images gains, and whether that is more than noise.

    With the sums over the images, `hmean = 2 * hits / (found + truth)`, and the gain is the
    difference of the two. Its interval comes from a paired bootstrap: as many images are drawn from
    the set, with replacement, the gain is computed on them, the same images for both, and this is
    repeated. The interval is the middle 95 % of these gains. A gain whose interval holds 0 is
    within noise: on another set of images its sign could change.

    The interval is right for images that were used neither for training nor for any choice. For
    limits (thresholds) chosen on the same images it is too optimistic; `search_limits` corrects
    that. A single image says nothing about others, and its interval is -1 to 1.

    Args:
        before: one (hits, found, truth) for each image, as the `Match` that `Hmean.update` returns
            starts with them, or an array `[images, 3]`.
        after: the same for the same images, in the same order.
        samples: how many sets of images are drawn.
        seed: the seed of the draws; the same seed gives the same interval.

    Returns:
        `Gain(hmean, low, high)`: the difference, in [-1, 1], and the ends of its interval.

    Raises:
        TypeError: a number is of the wrong type.
        ValueError: there are no images, or the two differ in their number of images or texts.

    Example:
        >>> from dbloss.score import compare
        >>> before = [(3, 5, 6), (4, 4, 8), (0, 1, 2), (2, 3, 3)]  # hits, found, truth
        >>> after = [(4, 5, 6), (4, 5, 8), (1, 1, 2), (2, 3, 3)]
        >>> gain = compare(before, after)
        >>> round(gain.hmean, 3), gain.within_noise
        (0.104, True)

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.
    """
    samples = checks.whole("samples", samples, least=1)
    seed = checks.whole("seed", seed, least=0)
    first, second = _checked_counts("before", before), _checked_counts("after", after)
    if not np.array_equal(first[:, 2], second[:, 2]):
        got = " and ".join(
            f"{len(each)} images with {each[:, 2].sum():g} texts" for each in (first, second)
        )
        advice = "Pass what `update` returned for each image of one set."
        raise checks.wrong("before, after", "the same images in the same order", got, advice)
    both = np.stack((first, second), axis=1)
    (gain,) = np.diff(hmean_of(both.sum(axis=0)))
    return Gain(float(gain), *_interval(np.diff(_resampled(both, samples, seed)), len(both)))


def gain_of_best(counts: NDArray[Any], usual: NDArray[Any], best: int) -> Gain:
    """Return what the best of several settings gains over the usual one, on other images.

    The best of many settings looks better on the images it was chosen on than it is on others. How
    much better is estimated too: on each drawn set the best setting is chosen anew, and its gain
    there minus its gain on the whole set is the optimism of that choice. The interval is lowered by
    the mean optimism (Efron and Tibshirani, chapter 17).

    Args:
        counts: (hits, found, truth) of each image and setting, `[images, settings, 3]`.
        usual: the same of the usual setting, `[images, 3]`.
        best: the index of the setting that was chosen.

    Returns:
        The gain on these images, and its interval on others.
    """
    counts = np.concatenate((counts, usual[:, None]), axis=1)
    whole, drawn = hmean_of(counts.sum(axis=0)), _resampled(counts, _SAMPLES, _SEED)
    gain, gains = (each[..., :-1] - each[..., -1:] for each in (whole, drawn))
    chosen = gains.argmax(axis=1)
    optimism = (gains.max(axis=1) - gain[chosen]).mean()
    return Gain(float(gain[best]), *_interval(gains[:, best] - optimism, len(counts)))


def hmean_of(counts: NDArray[Any]) -> _Floats:
    """Return the hmean of (hits, found, truth) along the last axis."""
    return quotient(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def _resampled(counts: NDArray[Any], samples: int, seed: int) -> _Floats:
    """Return the hmeans `[samples, ...]` of images drawn from `[images, ..., 3]`."""
    images = len(counts)
    times = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), samples)
    return hmean_of(np.tensordot(times.astype(np.float64), counts.astype(np.float64), 1))


def _interval(gains: _Floats, images: int) -> tuple[float, float]:
    if images == 1:  # which says nothing about others
        return -1.0, 1.0
    low, high = np.percentile(gains, _INTERVAL)
    return float(low), float(high)


def _checked_counts(name: str, given: Any) -> _Floats:
    try:
        counts = np.array([tuple(image)[:3] for image in given], np.float64)
    except (TypeError, ValueError):
        counts = np.zeros(0)
    if counts.ndim != 2 or counts.shape[1] != 3 or not len(counts):
        expected = "(hits, found, truth) for each of at least one image"
        advice = "Pass a list of what `Hmean.update` or `match` returned."
        raise checks.wrong(name, expected, checks.describe(given), advice)
    return counts
