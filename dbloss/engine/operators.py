"""Sums and choices in Paddle's operators: any device, any float width, any graph. The reference.

Paddle differentiates what is written here; the choice of negatives has no gradient. Values are read
on the host only in eager mode on a CPU: elsewhere that would wait for the device. On a GPU each
operator is a kernel launch, so that their number is kept small.
"""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.base.processes import ALONE, Processes
from dbloss.base.tensors import computed, constant, widened
from dbloss.engine.arithmetic import value
from dbloss.engine.formulas import MOST_SUMS, PixelLoss
from dbloss.engine.mining import (
    BY_PREDICTION,
    Balance,
    Counts,
    Mix,
    Pixels,
    Term,
    labels_of,
    maps_of,
    nth_index,
    outcomes,
    tie_weight,
)

_ROW = 16  # pixels that are added up in the dtype of the maps; the sums of rows are float64


def evaluate(terms: Sequence[Term], mix: Mix, processes: Processes) -> tuple[Tensor, ...]:
    """Return the sums of the losses that `mix` asks for, 0-D float32, differentiable."""
    values = paddle.stack([outcome.value for outcome in outcomes(_Sweeps(terms, processes), terms)])
    # A loss is a row of numbers times the values, added up. A value that is no part of a loss must
    # not make it NaN, as 0 * NaN would.
    weights, is_part, nothing = _constants(np.array(mix, np.float64), values)
    losses = paddle.where(is_part, weights * values, nothing).sum(axis=-1)
    cast: list[Tensor] = losses.astype(paddle.float32).unbind()
    return tuple(cast)


def _constants(mix: NDArray[Any], like: Tensor) -> Sequence[Tensor]:
    """Return the numbers, a mask of those that are not 0, and zeros; cached in eager mode."""
    if paddle.in_dynamic_mode():
        return _kept_constants(mix.tobytes(), mix.shape, str(like.place))
    return [paddle.to_tensor(x) for x in (mix, mix != 0, 0 * mix)]


@functools.lru_cache(maxsize=64)
def _kept_constants(mix: bytes, shape: tuple[int, ...], place: str) -> Sequence[Tensor]:
    device = place.removeprefix("Place(").removesuffix(")")
    numbers = np.frombuffer(mix).reshape(shape)
    return [paddle.to_tensor(x, place=device) for x in (numbers, numbers != 0, 0 * numbers)]


def mined_weights(term: Term, n: Any, processes: Processes) -> Tensor:
    """Return what a pixel weighs where the `n` hardest negatives of a term are chosen."""
    with paddle.no_grad():
        sweeps = _Sweeps([term], processes)
        weights: Tensor = sweeps.weights(0, paddle.to_tensor(n, paddle.float64, "cpu"))
    return weights.reshape(term.pixels.target.shape)


def largest(term: Term, n: Any, d: Any, processes: Processes) -> float:
    """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
    numbers = (paddle.to_tensor(number, paddle.float64, "cpu") for number in (n, d))
    return float(_Sweeps([term], processes).largest(0, *numbers))


def pixel_map(pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the loss of every pixel, the shape of `pred`, differentiable in `pred`."""
    p = widened(pred, computed(pred))
    loss: Tensor = value(pixel_loss, p, constant(gt.astype(p.dtype)))
    return loss


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    hardness, gt, mask = (constant(tensor.astype(dtype)) for tensor in (hardness, gt, mask))
    # The hardness of pixels that are no negatives must not matter: infinity times 0 would be NaN.
    is_negative = (mask - gt * mask).astype(paddle.bool)  # not `!=`, which has a tolerance
    hardness = paddle.where(is_negative, hardness, paddle.zeros_like(hardness))
    sweeps = _Sweeps([Term(BY_PREDICTION, Pixels(hardness, 0, gt, mask, mask), balance)], ALONE)
    ((_, counts),) = sweeps.counts()
    _, n_neg = balance.counts(counts, paddle)
    chosen = sweeps.chosen(0, sweeps.negative(0), n_neg).reshape(paddle.shape(gt))
    return (chosen * is_negative.astype(dtype)).astype(paddle.float32)


class _Sweeps:
    """The sweeps of `dbloss.engine.mining` over a batch, whose maps are cut into rows."""

    xp = paddle

    def __init__(self, terms: Sequence[Term], processes: Processes) -> None:
        self._terms, self._processes = terms, processes
        given = maps_of(terms)
        dtype = computed(*given.values())
        shapes = [tensor.shape for tensor in given.values()]
        size = math.prod(shapes[0][-2:]) if min(map(min, shapes)) > 0 else 1
        self._row = math.gcd(size, _ROW)  # 1 where a static graph leaves an axis open
        planes = {
            key: _planes(
                widened(tensor, dtype),
                {term.pixels.channel for term in terms if term.pixels.maps is tensor},
            )
            for key, tensor in given.items()
        }
        labels = {key: constant(tensor.astype(dtype)) for key, tensor in labels_of(terms).items()}
        self._g = [labels[id(term.pixels.target)] for term in terms]
        self._weights = [labels[id(term.pixels.mask)] for term in terms]
        self._valid = [labels[id(term.pixels.valid)] for term in terms]
        self._positives: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._hardness = [
            loss.hardness(planes[id(pixels.maps)][pixels.channel], g)
            for (loss, pixels, _), g in zip(terms, self._g)
        ]
        self._parts: list[tuple[Tensor, ...]] = []  # before the choice, of a mined term nothing
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}  # maps and what each adds up to, by `id`

    def counts(self) -> list[tuple[Counts, Counts]]:
        """Return the counts of every term, and the same with the valid mask in place of w."""
        wanted = []
        for index, term in enumerate(self._terms):
            g, w, valid = self._g[index], self._weights[index], self._valid[index]
            if term.balance is None:
                wanted.append([w] * 4)
            else:
                wanted.append([w, self._product(g, w), valid, self._product(g, valid)])
        self._parts = [() if x.mined else self._parts_of(i) for i, x in enumerate(self._terms)]
        # What a loss adds up of labels alone goes along: one map more in a sum is no operator more.
        labels = (x for parts in self._parts for x in parts if x.stop_gradient)
        self._add_up([*chain(*wanted), *labels])
        counts = [[self._sums[id(x)][1] for x in maps] for maps in wanted]
        return [(Counts(*four[:2]), Counts(*four[2:])) for four in counts]

    def choose(self, index: int, n: Tensor) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        self._weights[index] = self.weights(index, n)
        self._parts[index] = self._parts_of(index)

    def sums(self) -> list[tuple[Tensor, ...]]:
        """Return what the parts of every term add up to."""
        every = [*chain(*self._parts)]
        # Sums of labels alone are added up apart: stacked with the others, Paddle finds no second
        # derivative.
        for fixed in (True, False):
            self._add_up([x for x in every if x.stop_gradient == fixed])
        return [tuple(self._sums[id(x)][1] for x in parts) for parts in self._parts]

    def weights(self, index: int, n: Tensor) -> Tensor:
        """Return what a pixel weighs where the `n` hardest negatives of a term are chosen."""
        with paddle.no_grad():
            negative = self.negative(index)
            chosen = self.chosen(index, negative, n)
            return self._product(self._g[index], self._weights[index]) + negative * chosen

    def _parts_of(self, index: int) -> tuple[Tensor, ...]:
        """Return what each pixel adds to the sums of a loss."""
        g, w, loss = self._g[index], self._weights[index], self._terms[index].loss
        wg = None if getattr(loss, "reads_no_text", False) else self._product(g, w)
        parts: tuple[Tensor, ...] = loss.parts(self._hardness[index], w, wg)
        if len(parts) > MOST_SUMS:
            raise TypeError(f"a loss has at most {MOST_SUMS} sums, and this one has {len(parts)}")
        return parts

    def chosen(self, index: int, negative: Tensor, n: Tensor) -> Tensor:
        """Return 1 for each of the `n` hardest negatives, the tie weight for a tie, 0 elsewhere."""
        values = constant(self._hardness[index]) * negative
        threshold = self._nth_largest(values, n)
        above, at_least = values > threshold, values >= threshold
        # A pixel that is no negative has the value 0 too, and is not to be chosen.
        # Not `==`, which Paddle takes for true where numbers differ by less than 1e-15.
        tied = at_least.logical_xor(above).logical_and(negative.astype(paddle.bool))
        n_above, n_tied = self._count([above, tied])
        of_tie = tie_weight(n, n_above, n_tied, paddle).astype(values.dtype)
        return above.astype(values.dtype) + tied.astype(values.dtype) * of_tie

    def largest(self, index: int, n: Tensor, d: Tensor) -> Tensor:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        with paddle.no_grad():
            negative = self.negative(index)
            sign = paddle.sign(d + 1e-37)  # 1 for a loss of 0 as well
            values = negative * sign.astype(negative.dtype)
            if self._on_host(values):
                array, n = values.numpy(), n.item()
                nth = nth_index(n, array.size)
                hardest = np.partition(array, nth, axis=None)[nth:] if n >= 1 else array[:0]
                return sign * float(hardest.sum(dtype=np.float64))
            if self._processes.size == 1:
                ordered = paddle.sort(values.flatten(), descending=True)
                first = paddle.arange(_size(values, n), dtype="float64") < n
                return sign * (ordered * first.astype(values.dtype)).sum(dtype="float64")
            # n times the smallest of them, plus what the larger ones exceed it by.
            threshold = self._nth_largest(values, n)
            (more,) = self._added([(values - threshold).clip(min=0)])
            size = self._over_processes(paddle.full_like(n, _size(values, n)))
            return sign * (n.clip(max=size) * threshold.astype(n.dtype) + more)

    def _product(self, g: Tensor, w: Tensor) -> Tensor:
        """Return `g*w`, which is made once for all terms of one target and one mask."""
        key = id(g), id(w)
        if key not in self._positives:
            self._positives[key] = g, w, g * w  # kept alive, so that no other gets their `id`
        return self._positives[key][-1]

    def negative(self, index: int) -> Tensor:
        """Return `(1-g)*w`."""
        return self._weights[index] - self._product(self._g[index], self._weights[index])

    def _on_host(self, values: Tensor) -> bool:
        """Tell whether values can be read without waiting for a device or another process."""
        return (
            paddle.in_dynamic_mode() and values.place.is_cpu_place() and self._processes.size == 1
        )

    def _add_up(self, maps: Sequence[Tensor]) -> None:
        """Add up those of the maps that have not been."""
        new = {id(x): x for x in maps if id(x) not in self._sums}
        if new:
            sums = self._added(list(new.values()))
            self._sums.update(zip(new, zip(new.values(), sums)))

    def _added(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the sum of each map over all processes, 0-D float64."""
        stacked = paddle.stack(list(maps)) if len(maps) > 1 else maps[0]
        sums = stacked.reshape([len(maps), -1, self._row]).sum(axis=-1)
        sums = self._over_processes(sums.sum(axis=-1, dtype="float64"))
        added: Sequence[Tensor] = _nan_for_infinity(sums).unbind()
        return added

    def _count(self, masks: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return how many are True in each mask, over all processes."""
        counts = [mask.sum(dtype="float64") for mask in masks]
        if self._processes.size == 1:
            return counts
        numbers: Sequence[Tensor] = self._over_processes(paddle.stack(counts)).unbind()
        return numbers

    def _over_processes(self, numbers: Tensor) -> Tensor:
        """Return the sum of `numbers` over all processes."""
        if self._processes.size == 1:
            return numbers
        here = numbers.detach()
        total = self._processes.add_up(here.clone())
        if numbers.stop_gradient:
            return total
        # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
        return total + self._processes.size * (numbers - here)

    def _nth_largest(self, values: Tensor, n: Tensor) -> Tensor:
        """Return the n-th largest value, 0-D; the largest for n below 1, the least beyond all."""
        if self._processes.size > 1:
            return self._processes.nth_largest(values, n)
        if self._on_host(values):
            array = values.numpy().ravel()
            nth = nth_index(n.item(), array.size)
            array.partition(nth)
            return paddle.to_tensor(array[nth], values.dtype, values.place)
        ordered = paddle.sort(values.flatten(), descending=True)
        index = (n - 1).clip(0, _size(values, n) - 1)
        return paddle.gather(ordered, index.astype(paddle.int64))


def _nan_for_infinity(sums: Tensor) -> Tensor:
    # Sums of labels alone have no infinite prediction in them.
    return sums if sums.stop_gradient else sums + (sums - sums)


def _size(values: Tensor, like: Tensor) -> Any:
    """Return the number of values, where it is open in a static graph as a tensor."""
    size = math.prod(values.shape)
    return size if min(values.shape) > 0 else paddle.numel(values).astype(like.dtype)


def _planes(maps: Tensor, channels: Collection[int]) -> Mapping[int, Tensor]:
    """Return some channels of maps; maps without channels are channel 0."""
    if len(maps.shape) == 3:
        return {0: maps}
    if not paddle.in_dynamic_mode():
        return {channel: maps[:, channel] for channel in channels}
    # Each operator on a channel of several images would copy it first.
    return {c: plane.contiguous() for c, plane in enumerate(maps.unbind(1)) if c in channels}
