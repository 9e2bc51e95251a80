"""The sweeps as numba kernels on zero-copy views of CPU tensors, spread over threads.

A batch is cut into blocks of one image each. A thread takes a block through all the kernels of a
sweep, so that what one of them has read is still in the cache for the next. The blocks and the
order in which their sums are added are fixed: the number of threads changes no bit of a result.

The threads are Python's own, and the kernels release the interpreter lock. Numba's threading layers
are not used: they abort the process when two Python threads compute at once, or after a fork.
"""

import functools
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import numpy as np
import paddle
from numba import config
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.engine import Term, kernels
from dbloss.engine.dtypes import computed
from dbloss.engine.processes import ALONE, Processes
from dbloss.formulas import AbsoluteError, BinaryCrossEntropy, Dice, Focal, SquaredError
from dbloss.mining import Balance, tie_weight

_Array: TypeAlias = NDArray[Any]
_Block: TypeAlias = tuple[int, slice]
_Job: TypeAlias = tuple[int, int]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK_PIXELS = 1 << 17  # enough work for the call of a kernel, few enough to share out evenly

_KINDS: dict[type, int] = {
    AbsoluteError: kernels.ABSOLUTE,
    BinaryCrossEntropy: kernels.CROSS_ENTROPY,
    Focal: kernels.FOCAL,
    SquaredError: kernels.SQUARED,
}


def has_kernel(term: Term) -> bool:
    """Tell whether the kernels can do a term."""
    if isinstance(term.loss, Dice):
        return True
    kind = _KINDS.get(type(term.loss.pixel_loss))
    if term.balance is None or term.balance.per_pixel:
        return kind is not None
    return kind == kernels.ABSOLUTE  # which also makes the sums of the labels


def sweep(
    maps: Tensor, terms: Sequence[Term], processes: Processes
) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Tensor]]:
    """Return the losses of the terms and the function that gives the gradient of the maps."""
    dtype = computed(maps)
    planes = _rows(maps, dtype)
    labels = {
        id(tensor): _rows(tensor, dtype)[:, 0]
        for term in terms
        for tensor in (term.target, term.mask)
    }
    blocks = _blocks(planes.shape[0], planes.shape[2])
    parts = [
        _Part(term, planes[:, term.channel], labels[id(term.target)], labels[id(term.mask)], blocks)
        for term in terms
    ]
    sums = _first_sweep(parts, [part.first_job() for part in parts], processes)
    with np.errstate(all="ignore"):  # NaN and infinity are results, and no reason to warn
        for part, part_sums in zip(parts, sums):
            part.finish(part_sums, processes)

    def gradient(upstream: Sequence[Tensor]) -> Tensor:
        written = _empty(tuple(maps.shape), planes.dtype)
        rows = written.reshape(planes.shape)
        _second_sweep(parts, [float(scale) for scale in upstream], rows)
        # Not through DLPack: Paddle holds a lock while the memory of such a tensor is given back,
        # and two threads that do so wait for each other.
        return paddle.Tensor(
            value=written, place=paddle.CPUPlace(), persistable=False, zero_copy=True
        )

    return tuple(paddle.to_tensor(part.value, paddle.float32, "cpu") for part in parts), gradient


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    p, g, m = (_rows(tensor, dtype)[:, 0] for tensor in (hardness, gt, mask))
    # What counts as no negative must not matter, not even where infinity times 0 would be NaN.
    p = np.where(m != m * g, p, 0)
    # Dice ranks negatives by what is predicted: here, by the hardness.
    term = Term(Dice(1.0, 0.0), gt, mask, balance=balance)
    part = _Part(term, p, g, m, _blocks(*p.shape))
    (sums,) = _first_sweep([part], [part.first_job()], ALONE)
    positive = sums[kernels.POSITIVE]
    _, n_neg = balance.counts(positive, sums[kernels.TOTAL] - positive, np)
    threshold, share = part.threshold(n_neg, sums[kernels.BLANK], ALONE)
    weights = (part.hardness > threshold) + share * (part.hardness == threshold)
    weights *= part.m != part.m * part.g
    return paddle.to_tensor(weights.reshape(hardness.shape), paddle.float32, "cpu")


class _Part:
    """One term: the sums of its first sweep, what they give, and what its second sweep needs."""

    def __init__(
        self, term: Term, p: _Array, g: _Array, m: _Array, blocks: Sequence[_Block]
    ) -> None:
        self.channel, self.loss, self.balance = term.channel, term.loss, term.balance
        self.p, self.g, self.m, self.blocks = p, g, m, blocks
        self.weights, self.hardness = m, np.empty((m.shape[0], 0), m.dtype)
        self.settings: tuple[float, ...] = (0.0, 0.0, 0.0)
        if isinstance(term.loss, Dice):
            self.kind = kernels.PROBABILITY
        else:
            self.kind = _KINDS[type(term.loss.pixel_loss)]
            # What the formula has for fields, the kernel takes as a, b, c.
            self.settings = (*term.loss.pixel_loss, 0.0, 0.0, 0.0)[:3]

    def first_job(self) -> _Job:
        """Return what the first sweep does: add up, or rank where negatives are mined."""
        if self.balance is None or not self.balance.per_pixel:
            return kernels.SUM, self.kind
        # The cross-entropy of a negative grows with its probability, which gives the same order
        # without a logarithm. That holds for labels of 0 and 1; the sums tell whether they are.
        by_probability = self.kind == kernels.CROSS_ENTROPY
        return self._rank_by(kernels.PROBABILITY if by_probability else self.kind)

    def finish(self, sums: _Array, processes: Processes) -> None:
        """Take the sums of the batch; set the value and the line of the gradient."""
        balance, count = self.balance, sums[kernels.TOTAL]
        if balance is None:
            self.value, self.line = self._outcome(sums, count)
            return
        positive, regular = sums[kernels.POSITIVE], sums[kernels.IRREGULAR] == 0
        n_pos, n_neg = balance.counts(positive, count - positive, np)
        if balance.per_pixel:
            if self.kind == kernels.CROSS_ENTROPY and regular:
                self.kind = kernels.BINARY_ENTROPY
            elif self.kind == kernels.CROSS_ENTROPY:
                _first_sweep([self], [self._rank_by(self.kind)], ALONE)
            self._choose(n_neg, sums[kernels.BLANK], processes)
            self.weights = _read_only(self.hardness)
            (sums,) = _first_sweep([self], [(kernels.SUM, self.kind)], processes)
            self.value, self.line = self._outcome(sums, n_pos + n_neg)
            return
        d, line = self._outcome(sums, count)
        chosen = n_neg
        if not (regular and d >= 0):
            self.settings = (-1.0 if d < 0 else 1.0, 0.0, 0.0)
            (sums,) = _first_sweep([self], [self._rank_by(kernels.CONSTANT)], processes)
            chosen = self._choose(n_neg, sums[kernels.BLANK], processes)
        factor = balance.factor(positive, chosen, n_pos, n_neg)
        self.value, self.line = factor * d, tuple(factor * x for x in line)

    def threshold(self, n: Any, blank: Any, processes: Processes) -> tuple[Any, float]:
        """Return the n-th largest hardness and the weight of those that equal it."""
        threshold, above, equal = _nth_largest(self.hardness, n, self.blocks, processes)
        if threshold == 0:
            # Pixels of no negative weight have the hardness 0 and take no place.
            equal -= blank
        return threshold, float(tie_weight(n, above, equal, np))

    def _rank_by(self, kind: int) -> _Job:
        if not self.hardness.size:
            self.hardness = _empty(self.m.shape, self.m.dtype)
        return kernels.RANK, kind

    def _choose(self, n: Any, blank: Any, processes: Processes) -> Any:
        """Turn the hardness into weights; return the weight of all chosen negatives."""
        threshold, share = self.threshold(n, blank, processes)

        def weigh(block: _Block) -> float:
            arrays = self.hardness[block], self.g[block], self.m[block]
            return float(kernels.mined_weights(*arrays, threshold, share))

        return _add_up(np.sum(_spread(weigh, self.blocks)), processes)

    def _outcome(self, sums: _Array, count: Any) -> tuple[Any, tuple[Any, ...]]:
        used = tuple(sums[:3]) if isinstance(self.loss, Dice) else tuple(sums[:1])
        return self.loss.value(used, count), self.loss.line(used, count)


def _first_sweep(parts: Sequence[_Part], jobs: Sequence[_Job], processes: Processes) -> Any:
    """Do a job for each part; return its sums over the processes, `[parts, slots]`."""
    settings = np.array([part.settings for part in parts])
    numbers = np.array(jobs)

    def work(block: _Block) -> _Array:
        out = np.zeros((len(parts), kernels.SLOTS))
        kernels.first_sweep(
            numbers,
            tuple(part.p[block] for part in parts),
            tuple(part.g[block] for part in parts),
            tuple(part.weights[block] for part in parts),
            tuple(part.hardness[block] for part in parts),
            settings,
            out,
        )
        return out

    return _add_up(np.sum(_spread(work, parts[0].blocks), axis=0), processes)


def _second_sweep(parts: Sequence[_Part], scales: Sequence[float], rows: _Array) -> None:
    """Write the gradient of the parts, each times its scale, to rows `[N, C, H*W]`."""
    settings = np.array([part.settings for part in parts])
    kinds = np.array([part.kind for part in parts])
    lines = np.array([[*part.line, 0.0][:2] for part in parts]) * np.array(scales)[:, None]
    channels = [part.channel for part in parts]
    adds = np.array([channel in channels[:j] for j, channel in enumerate(channels)])

    def work(block: _Block) -> None:
        n, pixels = block
        kernels.second_sweep(
            kinds,
            tuple(part.p[block] for part in parts),
            tuple(part.g[block] for part in parts),
            tuple(part.weights[block] for part in parts),
            lines,
            settings,
            tuple(rows[n, channel, pixels] for channel in channels),
            adds,
        )

    _spread(work, parts[0].blocks)
    for channel in set(range(rows.shape[1])) - set(channels):
        rows[:, channel] = 0


def _nth_largest(
    values: _Array, n: float, blocks: Sequence[_Block], processes: Processes
) -> tuple[Any, int, int]:
    """Return the n-th largest value, how many lie above it and how many equal it.

    That is the largest for n below 1, the least for n too large. It is found digit by digit: a
    histogram of the leading bits tells in which bin the value lies, and a histogram of the next
    bits of the values in that bin narrows it further.
    """
    bits = values.view(np.int64 if values.dtype == np.float64 else np.int32)
    # Few values are counted sooner than the bins of a long histogram are looked through; and
    # processes, which do not know how many values the others have, send each other these bins.
    longest = 16 if values.size > _BLOCK_PIXELS and processes.size == 1 else 11
    # One histogram serves all blocks of a thread.
    groups = [blocks[i :: _threads()] for i in range(min(_threads(), len(blocks)))]
    rest = 8 * bits.itemsize
    prefix, above, equal, leading = 0, 0, 0, True
    while rest:
        width = min(longest, rest)
        rest -= width
        bins = 1 << width
        count = functools.partial(_count_digits, bits, bins, rest, prefix, leading)
        histogram = _add_up(np.sum(_spread(count, groups), axis=0), processes)
        # An n too large ends in the last bin that holds a value.
        wanted = min(max(float(n), 1.0), above + float(histogram.sum()))
        digit, above, equal = kernels.nth_digit(histogram, wanted, above)
        prefix = prefix * bins + digit - (bins // 2 if leading else 0)
        leading = False
    raw = prefix if prefix >= 0 else int(np.iinfo(bits.dtype).min) - prefix
    return bits.dtype.type(raw).view(values.dtype), above, equal


def _count_digits(
    bits: _Array, bins: int, shift: int, prefix: int, leading: bool, blocks: Sequence[_Block]
) -> _Array:
    histogram = np.zeros(bins, np.int32)
    for block in blocks:
        kernels.count_digits(bits[block], shift, prefix, leading, histogram)
    return histogram


def _add_up(numbers: _Array, processes: Processes) -> Any:
    """Return the sum of `numbers` over the processes."""
    if processes.size == 1:
        return numbers
    return processes.add_up(paddle.to_tensor(numbers, place="cpu")).numpy()


def _rows(tensor: Tensor, dtype: Any) -> _Array:
    """Return a view `[N, C, H*W]` of a tensor `[N, C, H, W]` or `[N, H, W]`, C then 1.

    The pixels of an image and channel are contiguous. Another layout or dtype is copied.
    """
    array = np.from_dlpack(tensor.detach().astype(dtype))
    channels = array.shape[1] if array.ndim == 4 else 1
    rows = array.reshape(array.shape[0], channels, -1)
    return _read_only(rows if rows.strides[2] == rows.itemsize else np.ascontiguousarray(rows))


def _read_only(array: _Array) -> _Array:
    """Return a view that a kernel cannot write to; numba refuses to compile one that would."""
    view: _Array = array.view()
    view.flags.writeable = False
    return view


def _blocks(images: int, pixels: int) -> list[_Block]:
    starts = range(0, pixels, _BLOCK_PIXELS)
    return [
        (n, slice(start, min(start + _BLOCK_PIXELS, pixels)))
        for n in range(images)
        for start in starts
    ]


def _spread(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return `function(item)` of every item, in their order, worked on by all threads."""
    results: list[Any] = [None] * len(items)
    queue = iter(enumerate(items))

    def work() -> None:
        for index, item in queue:
            results[index] = function(item)

    helpers = [_pool().submit(work) for _ in range(min(_threads(), len(items)) - 1)]
    work()
    for helper in helpers:
        # One that has not begun finds nothing left to do.
        if not helper.cancel():
            helper.result()
    return results


def _threads() -> int:
    return int(config.NUMBA_NUM_THREADS)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _threads() - 1), thread_name_prefix="dbloss")


# A forked process has none of its parent's threads. On Windows there are none.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _empty(shape: tuple[int, ...], dtype: Any) -> _Array:
    """Return an array, in memory that an earlier one has left where there is such.

    Fresh memory costs more than the sweep that fills it: the system clears it page by page. Views
    of the array do not keep it: whoever needs the memory must hold the array itself.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = _spare(size)
    if memory is None:
        memory = np.empty(size, np.uint8)
    array: _Array = memory.view(dtype).reshape(shape)
    weakref.finalize(array, _spares.append, memory)
    return array


def _spare(size: int) -> _Array | None:
    for _ in range(len(_spares)):
        try:
            memory = _spares.popleft()
        except IndexError:  # another thread was faster
            break
        if memory.size == size:
            return memory
        _spares.append(memory)
    return None


# A step leaves two: its gradient and, where negatives are mined, their hardness.
_spares: deque[_Array] = deque(maxlen=2)
