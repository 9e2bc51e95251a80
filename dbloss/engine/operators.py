"""The sweeps in Paddle's operators: any device, any float width, any graph. The reference.

Maps are float32, or float64 where the prediction is. A sum adds up each row in the dtype of the
maps and the rows in float64. No value is read on the host. A map that was made here is worked on in
place: on a CPU fresh memory costs more than the arithmetic.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import paddle
from paddle import Tensor

from dbloss import _scratch as scratch
from dbloss.engine.dtypes import cast_gradient, computed
from dbloss.engine.processes import ALONE, Processes
from dbloss.formulas import PixelLoss
from dbloss.mining import Balance, tie_weight

if TYPE_CHECKING:
    from dbloss.engine import Term

_DIGIT = 11  # bits; a GPU counts in fast memory that does not hold the bins of many more


def sweep(
    maps: Tensor, terms: Sequence["Term"], processes: Processes
) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Tensor]]:
    """Return the losses of the terms and the function that gives the gradient of the maps."""
    parts = _first_sweep(maps, terms, processes)

    def gradient(upstream: Sequence[Tensor]) -> Tensor:
        channels: dict[int, Tensor] = {}
        for part, scale in zip(parts, upstream):
            added = part.gradient(scale)
            if part.channel in channels:
                added = scratch.add(added, channels[part.channel])
            channels[part.channel] = added
        if maps.ndim == 3:
            return channels[0]
        for channel in set(range(maps.shape[1])) - set(channels):
            channels[channel] = paddle.zeros_like(channels[parts[0].channel])
        stacked: Tensor = paddle.stack([channels[c] for c in sorted(channels)], axis=1)
        return stacked

    return tuple(part.value.astype(paddle.float32) for part in parts), gradient


def graph(maps: Tensor, terms: Sequence["Term"], processes: Processes) -> tuple[Tensor, ...]:
    """Return the losses of the terms in a static graph, which differentiates operators itself.

    What it differentiates is a 0 added to the loss: the gradient times the difference between the
    maps and a constant copy of them.
    """
    losses, maps = [], _computed(maps)
    for part in _first_sweep(maps, terms, processes):
        plane = maps if maps.ndim == 3 else maps[:, part.channel]
        line = part.gradient(paddle.ones_like(part.value))
        zero = (line * (plane - scratch.constant(plane))).sum()
        losses.append((part.value.astype(line.dtype) + zero).astype(paddle.float32))
    return tuple(losses)


def pixel_graph(pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the loss of every pixel in a static graph, made differentiable as in `graph`."""
    pred = _computed(pred)
    p, g = scratch.constant(pred), scratch.constant(gt.astype(pred.dtype))
    return pixel_loss.value(p, g) + pixel_loss.derivative(p, g) * (pred - p)


def _computed(maps: Tensor) -> Tensor:
    """Return the maps of a static graph in the dtype they are computed in.

    They are cast once, so that their gradient is rounded once, and before anything else: on a CPU
    Paddle's graphs have no difference of float16.
    """
    dtype = computed(maps)
    if maps.dtype != paddle.float16:
        return maps.astype(dtype)
    cast: Tensor = paddle.static.nn.static_pylayer(
        lambda x: x.astype(dtype), [maps], lambda gradient: cast_gradient(gradient, paddle.float16)
    )
    return cast


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    hardness, gt, mask = (scratch.constant(tensor.astype(dtype)) for tensor in (hardness, gt, mask))
    positive = gt * mask
    negative = mask - positive
    _, n_neg = balance.counts(_sum(positive), _sum(mask) - _sum(positive), paddle)
    # What counts as no negative must not matter, not even where infinity times 0 would be NaN.
    hardness = paddle.where(negative != 0, hardness, paddle.zeros_like(hardness))
    weights = _largest(hardness * negative, negative, n_neg, ALONE) * (negative != 0).astype(dtype)
    return weights.astype(paddle.float32)


class _Part:
    """One term: the sums of its first sweep, what they give, and what its second sweep needs."""

    def __init__(self, term: "Term", planes: Tensor, g: Tensor, m: Tensor) -> None:
        self.channel, self.loss, self.balance = term.channel, term.loss, term.balance
        self.planes, self.g, self.weights = planes, g, m

    def first_sums(self) -> list[Tensor]:
        """Return the sums of this process that `finish` takes."""
        sums = [_sum(self.weights)]
        if self.balance is not None:
            positive = self.g * self.weights
            sums.append(_sum(positive))
            self.negative = scratch.negate(scratch.subtract(positive, self.weights))
            if self.balance.per_pixel:
                return sums
        return [*sums, *self._sums(self.loss.hardness(self._copy(), self.g))]

    def finish(self, sums: Sequence[Tensor], processes: Processes) -> None:
        """Take the sums of the batch; set the value and the line of the gradient."""
        balance, (count, *sums) = self.balance, sums
        if balance is None:
            self.value, self.line = self._outcome(sums, count)
            return
        positive, *sums = sums
        n_pos, n_neg = balance.counts(positive, count - positive, paddle)
        negative = self.negative
        del self.negative
        if balance.per_pixel:
            hardness = self.loss.hardness(self._copy(), self.g)
            chosen = _largest(hardness * negative, negative, n_neg, processes)
            chosen = scratch.multiply(chosen, negative)
            self.weights = scratch.add(scratch.subtract(chosen, negative), self.weights)
            sums = processes.add_up(paddle.stack(self._sums(hardness))).unbind()
            self.value, self.line = self._outcome(sums, n_pos + n_neg)
            return
        d, line = self._outcome(sums, count)
        sign = 1 - 2 * (d < 0).astype(d.dtype)
        negative = scratch.multiply(negative, sign.astype(negative.dtype))
        chosen = sign * _sum_of_largest(negative, n_neg, processes)
        factor = balance.factor(positive, chosen, n_pos, n_neg)
        self.value, self.line = factor * d, tuple(factor * x for x in line)

    def gradient(self, upstream: Tensor) -> Tensor:
        """Return the gradient of the channel."""
        scale = upstream.astype(paddle.float64)
        line = tuple((scale * x).astype(self.weights.dtype) for x in self.line)
        return scratch.multiply(self.loss.slope(self._copy(), self.g, line), self.weights)

    def _copy(self) -> Tensor:
        """Return the predictions, for the receiver to overwrite."""
        return self.planes[:, self.channel].clone()

    def _sums(self, hardness: Tensor) -> tuple[Tensor, ...]:
        return self.loss.sums(hardness, self.g, self.weights, _sum)

    def _outcome(self, sums: Sequence[Tensor], count: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.loss.value(sums, count), self.loss.line(sums, count)


def _first_sweep(maps: Tensor, terms: Sequence["Term"], processes: Processes) -> list[_Part]:
    dtype = computed(maps)
    planes = scratch.constant(maps.astype(dtype))
    if maps.ndim == 3:
        planes = planes.unsqueeze(1)
    labels = {
        id(tensor): scratch.constant(tensor.astype(dtype))
        for term in terms
        for tensor in (term.target, term.mask)
    }
    parts = [_Part(term, planes, labels[id(term.target)], labels[id(term.mask)]) for term in terms]
    sums = [part.first_sums() for part in parts]
    if processes.size > 1:
        # One exchange for all of them: each costs a message and a wait.
        every = iter(processes.add_up(paddle.stack([x for some in sums for x in some])).unbind())
        sums = [[next(every) for _ in some] for some in sums]
    for part, some in zip(parts, sums):
        part.finish(some, processes)
    return parts


def _sum(x: Tensor) -> Tensor:
    return x.sum(axis=-1).astype(paddle.float64).sum()


def _largest(values: Tensor, negative: Tensor, n: Tensor, processes: Processes) -> Tensor:
    """Return 1 for each of the `n` largest values, a tie's weight for a tie, 0 for the others."""
    threshold = _nth_largest(values, n, processes)
    above = (values > threshold).astype(values.dtype)
    # A pixel of no negative weight has the value 0 and takes no place.
    tied = (values == threshold).logical_and(negative != 0).astype(values.dtype)
    n_above, n_tied = processes.add_up(paddle.stack([_sum(above), _sum(tied)])).unbind()
    share = tie_weight(n, n_above, n_tied, paddle)
    return scratch.add(above, scratch.multiply(tied, share.astype(values.dtype)))


def _sum_of_largest(values: Tensor, n: Tensor, processes: Processes) -> Tensor:
    """Return the sum of the `n` largest values, which are overwritten.

    It is n times the smallest of them, plus what the others have more.
    """
    threshold = _nth_largest(values, n, processes)
    more = _sum(scratch.clip(scratch.subtract(values, threshold), min=0))
    count = paddle.numel(values).astype(n.dtype)
    count, more = processes.add_up(paddle.stack([count, more])).unbind()
    return paddle.minimum(n, count) * threshold.astype(n.dtype) + more


def _nth_largest(values: Tensor, n: Tensor, processes: Processes) -> Tensor:
    """Return the n-th largest value, 0-D; the largest for n below 1, the least for n too large.

    It is found digit by digit: a histogram of the leading bits tells in which bin the n-th largest
    lies, and a histogram of the next bits of the values in that bin narrows it further.

    Every tensor made here is made like another one: alone it would land on the default device,
    which is not always that of the maps.
    """
    if not paddle.in_dynamic_mode():
        return _nth_in_order(values, n)
    bits = values.view(paddle.int64 if values.dtype == paddle.float64 else paddle.int32).flatten()
    prefix, above = paddle.zeros_like(n, bits.dtype), paddle.zeros_like(n)
    rest, leading = 64 if bits.dtype == paddle.int64 else 32, True
    while rest:
        width = min(_DIGIT, rest)
        rest -= width
        bins = 1 << width
        first = paddle.full_like(prefix, -bins // 2) if leading else prefix * bins
        digits = scratch.subtract(_shifted(bits, rest), first)
        counts = processes.add_up(_histogram(digits, bins))
        rising = (paddle.ones_like(counts).cumsum(0) - 1).astype(bits.dtype)
        falling = rising.flip(0)
        if leading:
            # A float is sign and magnitude: falling values are falling positive digits, and then
            # rising negative ones.
            order = paddle.concat([falling[: bins // 2], rising[: bins // 2]])
        else:
            order = paddle.where(prefix < 0, rising, falling)
        counts = paddle.gather(counts, order).astype(n.dtype)
        at_least = counts.cumsum(0) + above
        # An n too large ends in the last bin that holds a value.
        wanted = paddle.minimum(n.clip(1), at_least[-1])
        place = (at_least < wanted).astype(paddle.int64).sum().reshape([1])
        above = paddle.gather(at_least - counts, place).squeeze()
        prefix = first + paddle.gather(order, place).squeeze()
        leading = False
    return prefix.view(values.dtype)


def _nth_in_order(values: Tensor, n: Tensor) -> Tensor:
    # A static graph has no operator that gives the bits of a float.
    place = n.clip(1).minimum(paddle.numel(values).astype(n.dtype)).astype(paddle.int64) - 1
    ordered = paddle.sort(values.flatten(), descending=True)
    return paddle.gather(ordered, place.reshape([1])).squeeze()


def _shifted(bits: Tensor, by: int) -> Tensor:
    if hasattr(paddle, "bitwise_right_shift"):
        return paddle.bitwise_right_shift(bits, paddle.full_like(bits[:1], by))
    return bits // (1 << by)  # Paddle 2.6: slower, and rounded down as a shift is


def _histogram(digits: Tensor, bins: int) -> Tensor:
    # `bincount` reads values on the host, to know its size. Of this histogram the last bin, which
    # also counts the digit above it, is cut off; other digits outside the range are not counted.
    return paddle.histogram(digits, bins + 1, 0, bins + 1)[:-1]
