"""Which negatives count, and what is counted of them, for both engines.

What differs between engines are the methods of `Sweeps`; numbers are Python's, or 0-D tensors.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import paddle
from paddle import Tensor

from dbloss.engine.formulas import Loss, Tversky


class Counts(NamedTuple):
    """What the weights w of the pixels add up to: `sum(w)` and `sum(w*g)`."""

    total: Any
    positive: Any


class Numbers(NamedTuple):
    """What is counted for a term: `sum(g*m)`, `n_pos`, `n_neg`, and the count of its loss."""

    positive: Any
    n_pos: Any
    n_neg: Any
    count: Any


class Balance(NamedTuple):
    """How a loss is balanced between positives and hard negatives (OHEM).

    `per_pixel` ranks the negatives by the hardness of each and leaves the others out of the loss.
    Without it the one loss of all pixels is scaled by a factor, as PaddleOCR does, and that alone
    reads `eps`.
    """

    ratio: float
    fallback: float
    per_pixel: bool
    eps: float = 0.0

    def counts(self, sums: Counts) -> tuple[Any, Any]:
        """Return `n_pos = int(sum(g*m))` and `n_neg = int(min(sum((1-g)*m), n_pos * ratio))`.

        Both are truncated and never below 0. Where `n_pos` is 0, `fallback` takes the place of
        `n_pos * ratio`.
        """
        n_pos = _floor(_clip(sums.positive, 0.0))
        wanted = n_pos * self.ratio
        if self.fallback:
            wanted = wanted + self.fallback * (1 - _clip(n_pos, 0.0, 1.0))
        return n_pos, _floor(_clip(_lesser(sums.total - sums.positive, wanted), 0.0))

    def factor(self, numbers: Numbers, chosen: Any) -> Any:
        """Return `(sum(g*m) + sum of the chosen (1-g)*m) / (n_pos + n_neg + eps)`.

        A loss d of the batch makes `(1-g)*m*d` the hardness of a pixel. So the `n_neg` largest
        `(1-g)*m` are chosen, and of a negative loss the smallest.
        """
        return (numbers.positive + chosen) / (numbers.n_pos + numbers.n_neg + self.eps)


# Of NaN each of these makes NaN. NumPy's functions take a single number ten times as long.


def _clip(x: Any, least: float, most: float = math.inf) -> Any:
    """Return a number not below `least` nor above `most`."""
    return min(max(x, least), most) if isinstance(x, float) else x.clip(least, most)


def _lesser(x: Any, y: Any) -> Any:
    return min(x, y) if isinstance(x, float) else paddle.minimum(x, y)


def _floor(x: Any) -> Any:
    return float(np.floor(x)) if isinstance(x, float) else x.floor()


def tie_weight(n_neg: Any, n_above: Any, n_equal: Any) -> Any:
    """Return the weight of each value equal to the threshold, at most 1.

    The `n_neg - n_above` negatives that are still to be chosen are spread evenly over the `n_equal`
    values that tie.
    """
    return _clip((n_neg - n_above) / _clip(n_equal, 1.0), 0.0, 1.0)


def nth_index(n: float, size: int) -> int:
    """Return the index among `size` values in rising order of the n-th largest, n being any number.

    That is the largest for n below 1, or NaN as labels make it, and the least for n too large.
    """
    return size - int(min(max(1.0, n), size))


BY_PREDICTION = Tversky(1.0, 0.0)  # a loss that ranks negatives by what is predicted


class Pixels(NamedTuple):
    """A channel of predicted maps, its target, what a pixel weighs, and the valid mask.

    `maps` is `[N, C, H, W]`, or `[N, H, W]`, which is channel 0. The others are `[N, H, W]` and
    constant. `mask` is what every sum over pixels weighs by; `n_pos` and `n_neg` are counted with
    `valid`, which is the same where pixels have no weights of their own.
    """

    maps: Tensor
    channel: int
    target: Tensor
    mask: Tensor
    valid: Tensor


class Term(NamedTuple):
    """One loss on some pixels."""

    loss: Loss
    pixels: Pixels
    balance: Balance | None = None

    @property
    def mined(self) -> bool:
        """Whether a choice of pixels comes before the loss."""
        return self.balance is not None and self.balance.per_pixel


# What the losses of the terms are multiplied with: a row for each loss to return, the sum of these.
Mix = Sequence[Sequence[float]]


def maps_of(terms: Sequence[Term]) -> dict[int, Tensor]:
    """Return the maps of the terms, each once, by their `id`."""
    return {id(term.pixels.maps): term.pixels.maps for term in terms}


def labels_of(terms: Sequence[Term]) -> dict[int, Tensor]:
    """Return the targets and masks of the terms, each once, by their `id`."""
    return {id(tensor): tensor for term in terms for tensor in term.pixels[2:]}


class Sweeps(Protocol):
    """What an engine does with a batch: sums, choices, and the gradient, which is its own affair.

    Its methods are called in this order. A term is named by its index in the list of terms. Sums
    are over all processes.
    """

    def counts(self) -> Sequence[tuple[Counts, Counts]]:
        """Return the counts of every term, and the same with the valid mask in place of w.

        Both positives, and the second counts, are read for a balance alone.
        """

    def choose(self, index: int, n: Any) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on.

        Negatives whose hardness equals that of the n-th have the `tie_weight`. A pixel weighs `g*m`
        and `(1-g)*m` times its choice.
        """

    def largest(self, index: int, n: Any, d: Any) -> Any:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""


def counted(sweeps: Sweeps, terms: Sequence[Term]) -> list[Numbers]:
    """Return what is counted for each term, once the negatives of those that mine are chosen."""
    found: list[Numbers] = []
    for index, (term, (weights, valid)) in enumerate(zip(terms, sweeps.counts())):
        if term.balance is None:
            found.append(Numbers(weights.positive, 0, 0, weights.total))
            continue
        n_pos, n_neg = term.balance.counts(valid)
        if term.mined:
            sweeps.choose(index, n_neg)
        count = n_pos + n_neg if term.mined else weights.total
        found.append(Numbers(weights.positive, n_pos, n_neg, count))
    return found
