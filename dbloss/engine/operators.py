"""The sweeps in Paddle's operators: any device, any float width. The reference of the others.

Maps are float32, or float64 where the prediction is; sums add up a row in the dtype of the maps
and the rows in float64. No value is read on the host.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import paddle
from paddle import Tensor

from dbloss.mining import tie_weight

if TYPE_CHECKING:
    from dbloss.engine import Term

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS


def sweep(
    maps: Tensor, terms: Sequence["Term"]
) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Tensor]]:
    """Return the losses of the terms and the function that gives the gradient of the maps."""
    dtype = paddle.float64 if maps.dtype == paddle.float64 else paddle.float32
    planes = maps.detach().astype(dtype)
    if maps.ndim == 3:
        planes = planes.unsqueeze(1)
    labels: dict[tuple[int, int], _Labels] = {}
    parts = []
    for term in terms:
        # The probability and the binary map have one target: what it gives is computed once.
        key = id(term.target), id(term.mask)
        if key not in labels:
            labels[key] = _Labels(term.target.astype(dtype), term.mask.astype(dtype))
        parts.append(_Part(term, planes[:, term.channel], labels[key]))

    def gradient(upstream: Sequence[Tensor]) -> Tensor:
        channels: dict[int, Tensor] = {}
        for part, scale in zip(parts, upstream, strict=True):
            written = channels.get(part.channel)
            added = part.gradient(scale)
            channels[part.channel] = added if written is None else written + added
        if maps.ndim == 3:
            return channels[0].astype(maps.dtype)
        unread = paddle.zeros_like(planes[:, 0]) if len(channels) < planes.shape[1] else None
        stacked = paddle.stack([channels.get(c, unread) for c in range(planes.shape[1])], axis=1)
        return stacked.astype(maps.dtype)

    return tuple(part.value.astype(paddle.float32) for part in parts), gradient


class _Labels:
    """A target with its mask, and what both give without any prediction."""

    def __init__(self, target: Tensor, mask: Tensor) -> None:
        self.target = target
        self.mask = mask

    @cached_property
    def positive(self) -> Tensor:
        return self.target * self.mask

    @cached_property
    def negative(self) -> Tensor:
        return self.mask - self.positive

    @cached_property
    def mask_sum(self) -> Tensor:
        return _sum(self.mask)

    @cached_property
    def positive_sum(self) -> Tensor:
        return _sum(self.positive)


class _Part:
    """The first sweep of one term, and what its second sweep needs."""

    def __init__(self, term: "Term", p: Tensor, labels: _Labels) -> None:
        self.channel = term.channel
        self.loss = loss = term.loss
        self.p, self.target, self.weights = p, labels.target, labels.mask
        balance = term.balance
        count = None
        if balance is not None:
            n_pos, n_neg = balance.counts(
                labels.positive_sum, labels.mask_sum - labels.positive_sum, paddle
            )
            chosen_count = n_pos + n_neg
            if balance.per_pixel:
                hardness = labels.negative * loss.hardness(p, labels.target)
                self.weights = labels.positive + labels.negative * _largest(hardness, n_neg)
                count = chosen_count
        if count is None:
            count = labels.mask_sum
        sums = tuple(_sum(x) for x in loss.sums(p, labels.target, self.weights))
        self.value = loss.value(sums, count)
        self.line = loss.line(sums, count)
        if balance is not None and not balance.per_pixel:
            hardness = labels.negative * self.value.astype(p.dtype)
            chosen = _sum(labels.negative * _largest(hardness, n_neg))
            factor = (labels.positive_sum + chosen) / (chosen_count + balance.eps)
            self.value = factor * self.value
            self.line = tuple(factor * x for x in self.line)

    def gradient(self, upstream: Tensor) -> Tensor:
        scale = upstream.astype(paddle.float64)
        line = tuple((scale * x).astype(self.p.dtype) for x in self.line)
        return self.weights * self.loss.slope(self.p, self.target, line)


def _sum(x: Tensor) -> Tensor:
    return x.sum(axis=-1).astype(paddle.float64).sum()


def _largest(values: Tensor, n: Tensor) -> Tensor:
    """Return the weight of each value among the `n` largest: 1 above the threshold, 0 below.

    The threshold is the n-th largest value, and the values equal to it share the places left. It is
    found digit by digit: a histogram of the leading 16 bits tells in which bin the n-th largest
    lies, and a histogram of the next 16 bits of the values in that bin narrows it further.
    """
    keys = _ordered_integers(values)
    flat = keys.flatten()
    leading = (64 if keys.dtype == paddle.int64 else 32) - _DIGIT_BITS
    above = paddle.zeros([], dtype=paddle.float64)
    prefix = paddle.zeros([], dtype=keys.dtype)
    for shift in range(leading, -1, -_DIGIT_BITS):
        rest = paddle.bitwise_right_shift(flat, paddle.full_like(prefix, shift))
        if shift == leading:
            digits = rest + _DIGITS // 2  # negative keys first
        else:
            digits = rest - prefix * _DIGITS
            inside = (digits >= 0).logical_and(digits < _DIGITS)
            digits = paddle.where(inside, digits, paddle.full_like(prefix, _DIGITS))
        histogram = paddle.bincount(digits, minlength=_DIGITS + 1)[:_DIGITS].astype(above.dtype)
        at_least = histogram.flip(0).cumsum(0).flip(0) + above
        digit = ((at_least >= n).astype(paddle.int64).sum() - 1).clip(0).reshape([1])
        equal = paddle.gather(histogram, digit).squeeze()
        above = paddle.gather(at_least, digit).squeeze() - equal
        digit = digit.squeeze().astype(keys.dtype)
        prefix = prefix * _DIGITS + digit - (_DIGITS // 2 if shift == leading else 0)
    share = tie_weight(n, above, equal, paddle).astype(values.dtype)
    return (keys > prefix).astype(values.dtype) + (keys == prefix).astype(values.dtype) * share


def _ordered_integers(values: Tensor) -> Tensor:
    """Return integers in the order of the values, equal where those are, NaN the greatest."""
    wide = values.dtype == paddle.float64
    raw = values.view(paddle.int64 if wide else paddle.int32)
    lowest = paddle.full([], -(1 << (63 if wide else 31)), dtype=raw.dtype)
    # A float is sign and magnitude: below 0 its key is minus the magnitude, and that of -0 is 0.
    keys = paddle.where(raw < 0, lowest - raw, raw)
    return paddle.where(paddle.isnan(values), -1 - lowest, keys)
