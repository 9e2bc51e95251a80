"""Sums and choices in Paddle's operators: any device, any float width, any graph. The reference.

Paddle differentiates what is written here; the choice of negatives has no gradient. Values are read
on the host only in eager mode on a CPU: elsewhere that would wait for the device. On a GPU each
operator is a kernel launch, so that their number is kept small: terms of one loss and one target
are computed together.
"""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.base.processes import ALONE, Processes
from dbloss.base.tensors import computed, constant, on_cpu, widened
from dbloss.engine.formulas import MOST_SUMS, PixelLoss
from dbloss.engine.mining import (
    BY_PREDICTION,
    Balance,
    Counts,
    Mix,
    Pixels,
    Term,
    counted,
    labels_of,
    maps_of,
    nth_index,
    tie_weight,
)

_LONG = 128  # pixels: a longer row is added up in runs
_RUN = 16  # pixels of a run
_LARGE = 1 << 20  # pixels: on a CPU a larger map is added up in runs too


@np.errstate(all="ignore")  # NaN and infinity are results, and no reason to warn
def evaluate(terms: Sequence[Term], mix: Mix, processes: Processes) -> tuple[Tensor, ...]:
    """Return the sums of the losses that `mix` asks for, 0-D float32, differentiable."""
    sweeps = _Sweeps(terms, processes)
    numbers = counted(sweeps, terms)
    values = sweeps.values([x.count for x in numbers])
    # A loss is a row of numbers times the values, added up. A value that is no part of a loss must
    # not make it NaN, as 0 * NaN would.
    ordered = tuple(tuple(row[index] for index in sweeps.order) for row in mix)
    weights, is_part, nothing, one = _constants(ordered, values)
    factors: dict[int, Any] = {}
    for position, index in enumerate(sweeps.order):
        balance = terms[index].balance
        if balance is not None and not balance.per_pixel:
            largest = sweeps.largest(index, numbers[index].n_neg, constant(values)[position])
            factors[index] = balance.factor(numbers[index], largest)
    if factors:
        weights = weights * sweeps.vector([factors.get(index) for index in sweeps.order], one)
    losses = paddle.where(is_part, weights * values, nothing).sum(axis=-1, dtype="float32")
    separate: list[Tensor] = losses.unbind()
    return tuple(separate)


def _constants(mix: Mix, like: Tensor) -> Sequence[Tensor]:
    """Return the numbers, a mask of those that are not 0, zeros, and 1; cached in eager mode."""
    if paddle.in_dynamic_mode():
        return _kept_constants(mix, str(like.place))
    return _new_constants(mix)


@functools.lru_cache(maxsize=64)
def _kept_constants(mix: Mix, place: str) -> Sequence[Tensor]:
    return _new_constants(mix, place.removeprefix("Place(").removesuffix(")"))


def _new_constants(mix: Mix, place: str | None = None) -> Sequence[Tensor]:
    numbers = np.array(mix, np.float64)
    every = numbers, numbers != 0, 0 * numbers, np.float64(1)
    return [paddle.to_tensor(x, place=place) for x in every]


def mined_weights(term: Term, n: Any, processes: Processes) -> Tensor:
    """Return what a pixel weighs where the `n` hardest negatives of a term are chosen."""
    sweeps = _Sweeps([term], processes)
    weights: Tensor = sweeps.weights(0, sweeps.number(n))
    return weights.reshape(term.pixels.target.shape)


def largest(term: Term, n: Any, d: Any, processes: Processes) -> float:
    """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
    sweeps = _Sweeps([term], processes)
    return float(sweeps.largest(0, sweeps.number(n), sweeps.number(d)))


def pixel_map(pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the loss of every pixel, the shape of `pred`, differentiable in `pred`."""
    p = widened(pred, computed(pred))
    loss: Tensor = pixel_loss.value(p, constant(gt.astype(p.dtype)))
    return loss


@np.errstate(all="ignore")
def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    hardness, gt, mask = (constant(tensor.astype(dtype)) for tensor in (hardness, gt, mask))
    positive = gt * mask
    negative = mask - positive
    is_negative = negative.astype(paddle.bool)  # not `!=`, which has a tolerance
    # The hardness of pixels that are no negatives must not matter: infinity times 0 would be NaN.
    nothing = paddle.zeros_like(hardness)
    ranked = paddle.where(is_negative, hardness * negative, nothing)
    weight = is_negative.astype(dtype)
    sweeps = _Sweeps([Term(BY_PREDICTION, Pixels(ranked, 0, nothing, weight, weight))], ALONE)
    counts = Counts(*sweeps.added([mask, positive], read=True))
    _, n_neg = balance.counts(counts)
    return sweeps.weights(0, n_neg).astype(paddle.float32)


class _Sweeps:
    """The sweeps of `dbloss.engine.mining` over a batch."""

    def __init__(self, terms: Sequence[Term], processes: Processes) -> None:
        self._terms, self._processes = terms, processes
        given = maps_of(terms)
        dtype = computed(*given.values())
        self._host = self._on_host(next(iter(given.values())))
        shapes = [tensor.shape for tensor in given.values()]
        *_, height, width = shapes[0]
        # The sum of a long row loses digits, of which a GPU keeps more: its threads share the row.
        # Of large maps on a CPU the sums of runs keep malloc from giving the memory of a map back
        # after each operator.
        longest = _LONG if self._host or not paddle.in_dynamic_mode() else 8 * _LONG
        if min(map(min, shapes)) <= 0:  # a static graph leaves an axis open
            self._run = 1
        elif width > longest or (self._host and shapes[0][0] * height * width > _LARGE):
            self._run = math.gcd(height * width, _RUN)
        else:
            self._run = 0
        planes = {
            key: _planes(
                widened(tensor, dtype),
                {term.pixels.channel for term in terms if term.pixels.maps is tensor},
            )
            for key, tensor in given.items()
        }
        self._labels = {id_: constant(x.astype(dtype)) for id_, x in labels_of(terms).items()}
        self._weights = [self._labels[id(term.pixels.mask)] for term in terms]
        self._positives: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._sums: dict[int, tuple[Tensor, Any]] = {}  # maps and what each adds up to, by `id`
        # Terms of one loss and one target are computed together, but not on a CPU, where a copy
        # takes more time than operators do. Tuples of different formulas may be equal, but not what
        # `repr` says of them.
        alike: dict[Any, list[int]] = {}
        for index, (loss, pixels, _) in enumerate(terms):
            key = index if self._host else (repr(loss), id(pixels.target))
            alike.setdefault(key, []).append(index)
        self.order = [*chain(*alike.values())]
        self._groups = []  # with the hardness: of one term `[N, H, W]`, of several an axis more
        for indices in alike.values():
            channels = [planes[id(terms[i].pixels.maps)][terms[i].pixels.channel] for i in indices]
            p = paddle.stack(channels) if len(channels) > 1 else _whole(channels[0])
            hardness = terms[indices[0]].loss.hardness(p, self._target(indices[0]))
            self._groups.append((indices, hardness))

    def number(self, x: float) -> Any:
        """Return a number as the sweeps have them, where the maps are on a CPU."""
        return x if self._host else paddle.to_tensor(x, paddle.float64, "cpu")

    def vector(self, numbers: Sequence[Any], one: Tensor | None = None) -> Tensor:
        """Return such numbers as one tensor; None stands for 1, which is `one` as a tensor."""
        if self._host:
            return on_cpu(np.array([1.0 if x is None else x for x in numbers]))
        return paddle.stack([one if x is None else x for x in numbers])

    def counts(self) -> list[tuple[Counts, Counts]]:
        """Return the counts of every term, and the same with the valid mask in place of w."""
        wanted = []
        for (loss, pixels, balance), w in zip(self._terms, self._weights):
            g, valid = (self._labels[id(x)] for x in (pixels.target, pixels.valid))
            if balance is None and getattr(loss, "reads_no_text", False):
                wanted.append([w] * 4)
            else:
                wanted.append([w, self._product(g, w), valid, self._product(g, valid)])
        self._add_up([*chain(*wanted)], read=True)
        counts = [[self._sums[id(x)][1] for x in maps] for maps in wanted]
        return [(Counts(*four[:2]), Counts(*four[2:])) for four in counts]

    def choose(self, index: int, n: Any) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        self._weights[index] = self.weights(index, n)

    def values(self, counts: Sequence[Any]) -> Tensor:
        """Return the losses of the terms in `order`, of which each has its count."""
        values = []
        for (indices, _), sums in zip(self._groups, self._sums_of_groups()):
            each = [counts[index] for index in indices]
            count = each[0] if all(x is each[0] for x in each) else self.vector(each)
            values.append(self._terms[indices[0]].loss.value(sums, count))
        if any(value.shape for value in values):
            return paddle.concat([value if value.shape else value.reshape([1]) for value in values])
        return paddle.stack(values)

    def weights(self, index: int, n: Any) -> Tensor:
        """Return what a pixel weighs where the `n` hardest negatives of a term are chosen.

        A negative that ties for the last of them weighs what it does times the tie weight.
        """
        w, text = map(self._given, self._split(index))
        negative = w - text
        ((group, hardness),) = [x for x in self._groups if index in x[0]]
        if len(group) > 1:
            hardness = hardness[group.index(index)]
        values = self._given(constant(hardness)) * negative
        threshold = self._threshold(values, n)
        above, at_least = values > threshold, values >= threshold
        # A pixel that is no negative has the value 0 too, and is not to be counted.
        # Not `==`, which Paddle takes for true where numbers differ by less than 1e-15.
        tied = (at_least ^ above) & negative.astype("bool")
        of_tie = tie_weight(n, *self._count([above, tied]))
        if self._host:  # `numpy` has copied: these may be written to
            negative *= float(of_tie)
            negative += text
            np.copyto(text, negative, where=at_least)
            np.copyto(text, w, where=above)
            return on_cpu(text)
        share = paddle.lerp(text, w, of_tie.astype(w.dtype))
        return paddle.where(above, w, paddle.where(at_least, share, text))

    def largest(self, index: int, n: Any, d: Any) -> Any:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        w, text = self._split(index)
        negative = self._given(w - text)
        if self._host:
            sign = 1.0 if d.item() >= 0 else -1.0
            hardest = _partitioned(sign * negative, n)
            return sign * hardest.sum(dtype=np.float64) if n >= 1 else 0.0
        sign = paddle.sign(d + 1e-37)  # 1 for a loss of 0 as well
        values = negative * sign.astype(negative.dtype)
        if self._processes.size == 1:
            places = n.astype("int64")
            first = F.sequence_mask(places, _size(values, places), values.dtype)
            ordered = paddle.sort(values.flatten(), descending=True)
            return sign * (ordered * first).sum(dtype="float64")
        # n times the threshold, plus what the larger ones exceed it by.
        threshold = self._threshold(values, n)
        (more,) = self.added([(values - threshold).clip(min=0)])
        size = self._over_processes(paddle.full_like(n, _size(values, n)))
        return sign * (n.clip(max=size) * threshold.astype(n.dtype) + more)

    def _sums_of_groups(self) -> list[tuple[Any, ...]]:
        """Return what the parts of every group add up to.

        Sums of labels alone are added up apart: stacked with the others, Paddle finds no second
        derivative.
        """
        every = [self._parts(*group) for group in self._groups]
        for fixed in (True, False):
            self._add_up([x for x in chain(*every) if x.stop_gradient == fixed])
        return [tuple(self._sums[id(x)][1] for x in parts) for parts in every]

    def _parts(self, indices: Sequence[int], hardness: Tensor) -> tuple[Tensor, ...]:
        """Return what each pixel adds to the sums of the losses of a group."""
        each = [self._weights[index] for index in indices]
        w = each[0] if all(x is each[0] for x in each) else paddle.stack(each)
        loss = self._terms[indices[0]].loss
        reads_text = not getattr(loss, "reads_no_text", False)
        wg = self._product(self._target(indices[0]), w) if reads_text else None
        parts: tuple[Tensor, ...] = loss.parts(hardness, w, wg)
        if len(parts) > MOST_SUMS:
            raise TypeError(f"a loss has at most {MOST_SUMS} sums, and this one has {len(parts)}")
        return parts

    def _target(self, index: int) -> Tensor:
        """Return the target of a term."""
        return self._labels[id(self._terms[index].pixels.target)]

    def _product(self, g: Tensor, w: Tensor) -> Tensor:
        """Return `g*w`, which is made once for all terms of one target and one mask."""
        key = id(g), id(w)
        if key not in self._positives:
            self._positives[key] = g, w, g * w  # kept alive, so that no other gets their `id`
        return self._positives[key][-1]

    def _split(self, index: int) -> tuple[Tensor, Tensor]:
        """Return what a pixel weighs, and `g*w` of it."""
        w = self._weights[index]
        return w, self._product(self._target(index), w)

    def _given(self, x: Tensor) -> Any:
        """Return values without gradient: an array where they can be read, else a tensor."""
        return x.numpy() if self._host else x

    def _on_host(self, maps: Tensor) -> bool:
        """Tell whether values can be read without waiting for a device or another process."""
        return paddle.in_dynamic_mode() and maps.place.is_cpu_place() and self._processes.size == 1

    def _add_up(self, maps: Sequence[Tensor], read: bool = False) -> None:
        """Add up those of the maps that have not been."""
        new = {id(x): x for x in maps if id(x) not in self._sums}
        if new:
            sums = self.added([*new.values()], read)
            self._sums.update(zip(new, zip(new.values(), sums)))

    def added(self, maps: Sequence[Tensor], read: bool = False) -> Sequence[Any]:
        """Return the sum of each map over all processes, float64.

        They are Python's numbers where they may be read (`read`) and the maps are on a CPU. Of a
        map `[terms, N, H, W]` it is a vector, and then so are the others.
        """
        if read and self._host:
            return [float(x.numpy().sum(dtype=np.float64)) for x in maps]
        several = any(len(x.shape) > 3 for x in maps)
        if several:
            maps = [x if len(x.shape) > 3 else x.unsqueeze(0) for x in maps]
        if self._run:
            maps = [x.reshape([*x.shape[:-3], -1, self._run]) for x in maps]
        # A row or a run of pixels is added up in the dtype of the maps, what they make in float64.
        if several:
            rows = (paddle.concat(maps) if len(maps) > 1 else maps[0]).sum(axis=-1)
        elif self._host:  # several sums take less time than one copy
            rows = paddle.stack([x.sum(axis=-1) for x in maps])
        else:
            rows = paddle.stack(list(maps)).sum(axis=-1)
        sums = rows.sum(axis=[*range(1, len(rows.shape))], dtype="float64")
        sums = self._over_processes(sums)
        each: Sequence[Any] = sums.split([x.shape[0] for x in maps]) if several else sums.unbind()
        return each

    def _count(self, masks: Sequence[Any]) -> Sequence[Any]:
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

    def _threshold(self, values: Any, n: Any) -> Any:
        """Return the n-th largest value or the next, which lead to the same weights.

        It is the largest for n below 1, the least for n beyond all.
        """
        if self._processes.size > 1:
            return self._processes.nth_largest(values, n)
        if self._host:
            return _partitioned(values, n)[0]
        ordered = paddle.sort(values.flatten(), descending=True)
        index = n.astype("int64")  # of NaN, as labels may make it, the least integer
        return paddle.gather(ordered, index.clip(0, _size(values, index) - 1))


def _partitioned(values: NDArray[Any], n: float) -> NDArray[Any]:
    """Return the n largest values, the least of them first; at least one."""
    nth = nth_index(n, values.size)
    return np.partition(values, nth, axis=None)[nth:]


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
    return dict(enumerate(maps.unbind(1)))


def _whole(plane: Tensor) -> Tensor:
    """Return a channel of several images in one piece: each operator on it would copy it first."""
    return plane.contiguous() if paddle.in_dynamic_mode() else plane
