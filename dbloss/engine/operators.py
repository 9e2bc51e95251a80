"""Sums and choices in Paddle's operators: any device, any float width, any graph. The reference.

Paddle differentiates what is written here; the choice of negatives has no gradient. Values are read
on the host only of tensors that are there. On a GPU each operator is a launch, so that their number
is kept small.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from dbloss._arithmetic import value
from dbloss._tensors import computed, constant, widened
from dbloss.engine.processes import ALONE, Processes
from dbloss.formulas import Counts, Mean, PixelLoss, Tversky
from dbloss.mining import (
    BY_PREDICTION,
    Balance,
    Pixels,
    Sums,
    Term,
    labels_of,
    maps_of,
    nth_place,
    outcomes,
    tie_weight,
)

_ROW = 16  # pixels that are added up in the dtype of the maps; the sums of rows are float64


def evaluate(terms: Sequence[Term], processes: Processes) -> tuple[Tensor, ...]:
    """Return the losses of the terms, 0-D float32, each differentiable in the maps."""
    found = outcomes(_Sweeps(terms, processes), terms)
    values = paddle.stack([outcome.value for outcome in found])
    losses: list[Tensor] = values.astype(paddle.float32).unbind()
    return tuple(losses)


def pixel_map(pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the loss of every pixel, the shape of `pred`, differentiable in `pred`."""
    p = widened(pred, computed(pred))
    loss: Tensor = value(pixel_loss, p, constant(gt.astype(p.dtype)))
    return loss


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    hardness, gt, mask = (constant(tensor.astype(dtype)) for tensor in (hardness, gt, mask))
    # What counts as no negative must not matter, not even where infinity times 0 would be NaN.
    is_negative = (mask - gt * mask) != 0
    hardness = paddle.where(is_negative, hardness, paddle.zeros_like(hardness))
    sweeps = _Sweeps([Term(BY_PREDICTION, Pixels(hardness, 0, gt, mask, mask), balance)], ALONE)
    ((_, counts, _),) = sweeps.sums([0])
    _, n_neg = balance.counts(counts, paddle)
    chosen = sweeps.chosen(0, sweeps.negative(0), n_neg).reshape(paddle.shape(gt))
    return (chosen * is_negative.astype(dtype)).astype(paddle.float32)


class _Sweeps:
    """The sweeps of `dbloss.mining` over a batch, whose maps are cut into rows."""

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
                _rows(widened(tensor, dtype), self._row),
                {term.pixels.channel for term in terms if term.pixels.maps is tensor},
            )
            for key, tensor in given.items()
        }
        labels = {
            key: _rows(constant(tensor.astype(dtype)), self._row)
            for key, tensor in labels_of(terms).items()
        }
        self._g = [labels[id(term.pixels.target)] for term in terms]
        self._weights = [labels[id(term.pixels.mask)] for term in terms]
        self._pixels = [labels[id(term.pixels.counted)] for term in terms]
        self._positives: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._mined = [term.mined for term in terms]  # until the choice
        self._hardness = [
            loss.hardness(planes[id(pixels.maps)][pixels.channel], g)
            for (loss, pixels, _), g in zip(terms, self._g)
        ]

    def sums(self, places: Sequence[int]) -> list[Sums]:
        """Return the sums of the terms at some places."""
        adding: dict[Any, Tensor] = {}
        for place in places:
            term, g, w = self._terms[place], self._g[place], self._weights[place]
            loss, pixels = term.loss, self._pixels[place]
            chosen = term.mined and not self._mined[place]
            if term.balance is not None and not chosen:
                adding[id(g), id(pixels), "total"] = pixels
                adding[id(g), id(pixels), "positive"] = self._product(g, pixels)
            if self._mined[place]:
                continue
            if isinstance(loss, Mean) and not term.mined:
                adding[id(g), id(w), "total"] = w
            if isinstance(loss, Tversky) or not (term.balance is None or term.mined):
                adding[id(g), id(w), "positive"] = self._product(g, w)
            for number, part in enumerate(loss.parts(self._hardness[place], g, w)):
                adding[place, number] = part
        # Apart from what is differentiated, since Paddle finds no second derivative of the two
        # together.
        added: dict[Any, Tensor] = {}
        for fixed in (True, False):
            some = [key for key, x in adding.items() if x.stop_gradient == fixed]
            added.update(zip(some, self._add_up([adding[key] for key in some])))
        found = []
        for place in places:
            counts, counted = (
                Counts(*(added.get((id(self._g[place]), id(w), of)) for of in Counts._fields))
                for w in (self._weights[place], self._pixels[place])
            )
            parts = tuple(added[place, number] for number in (0, 1) if (place, number) in added)
            found.append(Sums(parts, counts, counted))
        return found

    def choose(self, place: int, n: Tensor) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        with paddle.no_grad():
            negative = self.negative(place)
            chosen = self.chosen(place, negative, n)
            positive = self._product(self._g[place], self._weights[place])
            self._weights[place] = positive + negative * chosen
        self._mined[place] = False

    def chosen(self, place: int, negative: Tensor, n: Tensor) -> Tensor:
        """Return 1 for each of the `n` hardest negatives, a tie's weight for a tie, or 0."""
        values = constant(self._hardness[place]) * negative
        if not self._on_host(values):
            threshold = self._nth_largest(values, n)
            return _choice(values, negative, n, threshold, self._count, paddle)
        array, n = values.numpy(), n.item()
        nth = nth_place(n, array.size)
        threshold = np.partition(array, nth, axis=None)[nth]
        weights = _choice(array, negative.numpy(), n, threshold, _count, np)
        return paddle.to_tensor(weights, place=values.place)

    def largest(self, place: int, n: Tensor, d: Tensor) -> Tensor:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        with paddle.no_grad():
            sign = 1 - 2 * (d < 0).astype(d.dtype)
            values = self.negative(place) * sign.astype(self._weights[place].dtype)
            if self._on_host(values):
                array, n = values.numpy(), n.item()
                nth = nth_place(n, array.size)
                hardest = np.partition(array, nth, axis=None)[nth:] if n >= 1 else array[:0]
                return sign * float(hardest.sum(dtype=np.float64))
            # n times the smallest of them, plus what the others have more.
            threshold = self._nth_largest(values, n)
            (more,) = self._add_up([(values - threshold).clip(min=0)])
            size = _size(values, n)
            if self._processes.size > 1:
                size = self._over_processes(paddle.full_like(n, size))
            return sign * (n.clip(max=size) * threshold.astype(n.dtype) + more)

    def _product(self, g: Tensor, w: Tensor) -> Tensor:
        """Return `g*w`, which is made once for all terms of one target and one mask."""
        key = id(g), id(w)
        if key not in self._positives:
            self._positives[key] = g, w, g * w  # while it holds them, no other has their `id`
        return self._positives[key][-1]

    def negative(self, place: int) -> Tensor:
        """Return `(1-g)*w`."""
        return self._weights[place] - self._product(self._g[place], self._weights[place])

    def _on_host(self, values: Tensor) -> bool:
        """Tell whether values can be read without waiting for a device or another process."""
        return (
            paddle.in_dynamic_mode() and values.place.is_cpu_place() and self._processes.size == 1
        )

    def _add_up(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the sum of each map over all processes, 0-D float64."""
        if not maps:
            return []
        if self._row > 1:
            maps = [x.sum(axis=-1) for x in maps]
        if len(maps) == 1:
            total = self._over_processes(maps[0].sum(dtype="float64"))
            return [_nan_for_infinity(total)]
        stacked = paddle.stack(list(maps))
        axes = list(range(1, stacked.ndim))
        sums = self._over_processes(stacked.sum(axis=axes, dtype="float64"))
        added: Sequence[Tensor] = _nan_for_infinity(sums).unbind()
        return added

    def _count(self, masks: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return how many are True in each mask, over all processes."""
        counts = [mask.sum(dtype="float64") for mask in masks]
        if self._processes.size == 1:
            return counts
        counted: Sequence[Tensor] = self._over_processes(paddle.stack(counts)).unbind()
        return counted

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
        ordered = paddle.sort(values.flatten(), descending=True)
        place = (n - 1).clip(0, _size(values, n) - 1)
        return paddle.gather(ordered, place.astype(paddle.int64))


def _nan_for_infinity(sums: Tensor) -> Tensor:
    # Sums of labels alone have no infinite prediction in them.
    return sums if sums.stop_gradient else sums + (sums - sums)


def _size(values: Tensor, like: Tensor) -> Any:
    """Return the number of values, where it is open in a static graph as a tensor."""
    size = math.prod(values.shape)
    return size if min(values.shape) > 0 else paddle.numel(values).astype(like.dtype)


def _rows(maps: Tensor, row: int) -> Tensor:
    return maps.reshape([*maps.shape[:-2], -1, row]) if row > 1 else maps


def _planes(maps: Tensor, channels: Collection[int]) -> Mapping[int, Tensor]:
    """Return some channels of maps; maps without channels are channel 0."""
    if len(maps.shape) == 3:
        return {0: maps}
    if not paddle.in_dynamic_mode():
        return {channel: maps[:, channel] for channel in channels}
    # Each operator on a channel of several images would copy it first.
    return {c: plane.contiguous() for c, plane in enumerate(maps.unbind(1)) if c in channels}


def _choice(
    values: Any, negative: Any, n: Any, threshold: Any, count: Callable[[Any], Any], xp: Any
) -> Any:
    """Return the weights of the `n` largest values for tensors or arrays; `xp` is their library."""
    above = values > threshold
    # A pixel of no negative weight has the value 0 and takes no place.
    tied = (values == threshold) & (negative != 0)
    n_above, n_tied = count([above, tied])
    share = tie_weight(n, n_above, n_tied, xp).astype(values.dtype)
    return above.astype(values.dtype) + tied.astype(values.dtype) * share


def _count(arrays: Sequence[Any]) -> list[Any]:
    return [array.sum(dtype=np.float64) for array in arrays]
