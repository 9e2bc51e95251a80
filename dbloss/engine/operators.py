"""The sweeps in Paddle's operators: any device, any float width. The reference of the others.

Maps are float32, or float64 where the prediction is. A sum adds up each row in the dtype of the
maps and the rows in float64. No value is read on the host. A map that was made here is worked on in
place: on a CPU fresh memory costs more than the arithmetic.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import paddle
from paddle import Tensor

from dbloss import mining
from dbloss.engine.dtypes import computed

if TYPE_CHECKING:
    from dbloss.engine import Term

_FEW = 1 << 17  # values


def sweep(
    maps: Tensor, terms: Sequence["Term"]
) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Tensor]]:
    """Return the losses of the terms and the function that gives the gradient of the maps."""
    dtype = computed(maps)
    planes = maps.detach().astype(dtype)
    if maps.ndim == 3:
        planes = planes.unsqueeze(1)
    labels = {
        id(tensor): tensor.astype(dtype) for term in terms for tensor in (term.target, term.mask)
    }
    parts = [_Part(term, planes, labels[id(term.target)], labels[id(term.mask)]) for term in terms]

    def gradient(upstream: Sequence[Tensor]) -> Tensor:
        channels: dict[int, Tensor] = {}
        for part, scale in zip(parts, upstream):
            added = part.gradient(scale)
            if part.channel in channels:
                added.add_(channels[part.channel])
            channels[part.channel] = added
        if maps.ndim == 3:
            return channels[0]
        for channel in set(range(planes.shape[1])) - set(channels):
            channels[channel] = paddle.zeros_like(planes[:, 0])
        stacked: Tensor = paddle.stack([channels[c] for c in sorted(channels)], axis=1)
        return stacked

    return tuple(part.value.astype(paddle.float32) for part in parts), gradient


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: mining.Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    hardness, gt, mask = (tensor.astype(dtype) for tensor in (hardness, gt, mask))
    positive = gt * mask
    negative = mask - positive
    _, n_neg = balance.counts(_sum(positive), _sum(mask) - _sum(positive), paddle)
    weights = _largest(hardness * negative, negative, n_neg) * (negative != 0).astype(dtype)
    return weights.astype(paddle.float32)


class _Part:
    """One term: its first sweep, and what its second sweep needs."""

    def __init__(self, term: "Term", planes: Tensor, g: Tensor, m: Tensor) -> None:
        self.channel, self.loss = term.channel, term.loss
        self.planes, self.g, self.weights = planes, g, m
        balance, count = term.balance, _sum(m)
        values = self.loss.values(self._predictions(), g)
        if balance is None:
            self.value, self.line = self._outcome(values, count)
            return
        negative = g * m
        positive_sum = _sum(negative)
        negative.subtract_(m).neg_()
        n_pos, n_neg = balance.counts(positive_sum, count - positive_sum, paddle)
        if balance.per_pixel:
            self.weights = _largest(values * negative, negative, n_neg).multiply_(negative)
            self.weights.subtract_(negative).add_(m)
            self.value, self.line = self._outcome(values, n_pos + n_neg)
            return
        d, line = self._outcome(values, count)
        sign = 1 - 2 * (d < 0).astype(d.dtype)
        negative.multiply_(sign.astype(m.dtype))
        chosen = sign * _sum_of_largest(negative, n_neg)
        factor = (positive_sum + chosen) / (n_pos + n_neg + balance.eps)
        self.value, self.line = factor * d, tuple(factor * x for x in line)

    def gradient(self, upstream: Tensor) -> Tensor:
        scale = upstream.astype(paddle.float64)
        line = tuple((scale * x).astype(self.weights.dtype) for x in self.line)
        return self.loss.slope(self._predictions(), self.g, line).multiply_(self.weights)

    def _predictions(self) -> Tensor:
        """Return a copy, for its receiver to overwrite."""
        return self.planes[:, self.channel].clone()

    def _outcome(self, values: Tensor, count: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        sums = self.loss.sums(values, self.g, self.weights, _sum)
        return self.loss.value(sums, count), self.loss.line(sums, count)


def _sum(x: Tensor) -> Tensor:
    return x.sum(axis=-1).astype(paddle.float64).sum()


def _largest(values: Tensor, negative: Tensor, n: Tensor) -> Tensor:
    """Return 1 for each of the `n` largest values, a tie's weight for a tie, 0 for the others."""
    threshold = _nth_largest(values, n)
    above = (values > threshold).astype(values.dtype)
    # A pixel of no negative weight has the value 0 and takes no place.
    tied = (values == threshold).logical_and(negative != 0).astype(values.dtype)
    share = mining.tie_weight(n, _sum(above), _sum(tied), paddle)
    return above.add_(tied.multiply_(share.astype(values.dtype)))


def _sum_of_largest(values: Tensor, n: Tensor) -> Tensor:
    """Return the sum of the `n` largest values, which are overwritten.

    It is n times the smallest of them, plus what the others have more.
    """
    n = paddle.minimum(n, paddle.numel(values).astype(n.dtype))
    threshold = _nth_largest(values, n)
    return n * threshold.astype(n.dtype) + _sum(values.subtract_(threshold).clip_(min=0))


def _nth_largest(values: Tensor, n: Tensor) -> Tensor:
    """Return the n-th largest value, 0-D; the largest for n below 1, the least for n too large.

    It is found digit by digit: a histogram of the leading bits tells in which bin the n-th largest
    lies, and a histogram of the next bits of the values in that bin narrows it further.
    """
    wide = values.dtype == paddle.float64
    bits = values.view(paddle.int64 if wide else paddle.int32).flatten()
    n = paddle.minimum(n.clip(1), paddle.numel(values).astype(n.dtype))
    # Few values are counted sooner than the bins of a long histogram are looked through.
    longest = 11 if 0 <= bits.shape[0] <= _FEW else 16
    prefix = paddle.zeros([], dtype=bits.dtype)
    above = paddle.zeros([], dtype=n.dtype)
    rest, leading = 64 if wide else 32, True
    while rest:
        bins = 1 << min(longest, rest)
        rest -= min(longest, rest)
        digits = paddle.bitwise_right_shift(bits, paddle.full_like(prefix, rest))
        rising = paddle.arange(bins, dtype=bits.dtype)
        falling = rising.flip(0)
        if leading:
            # A float is sign and magnitude: falling values are falling positive digits, and then
            # rising negative ones.
            first = paddle.full_like(prefix, -bins // 2)
            order = paddle.concat([falling[: bins // 2], rising[: bins // 2]])
        else:
            first = prefix * bins
            order = paddle.where(prefix < 0, rising, falling)
        # Digits that follow another prefix are counted at the two ends, which are cut off.
        digits = digits.subtract_(first).clip_(-1, bins).add_(paddle.ones_like(prefix))
        histogram = paddle.bincount(digits, minlength=bins + 2)[1:-1].astype(n.dtype)
        counts = paddle.gather(histogram, order)
        at_least = counts.cumsum(0) + above
        place = (at_least < n).astype(paddle.int64).sum().clip(max=bins - 1).reshape([1])
        above = paddle.gather(at_least - counts, place).squeeze()
        prefix = first + paddle.gather(order, place).squeeze()
        leading = False
    return prefix.view(values.dtype)
