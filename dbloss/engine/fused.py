"""Sums, choices and gradients as compiled loops on zero-copy views of CPU tensors, over threads.

A batch is cut into blocks of one image each. A thread takes a block through all the loops of a
sweep, one after the other. The blocks and the order in which their sums are added are fixed: the
number of threads changes no bit of a result.

The threads are Python's own, and the loops release the interpreter lock. Numba's threading layers
are not used: they abort the process when two Python threads compute at once, or after a fork.
"""

import functools
import math
import operator
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import numpy as np
import paddle
from numba import config
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from dbloss.base.processes import Processes
from dbloss.base.tensors import computed, hold, on_cpu, unchanged
from dbloss.engine import loops, operators
from dbloss.engine.formulas import MOST_SUMS
from dbloss.engine.mining import (
    BY_PREDICTION,
    Counts,
    Mix,
    Numbers,
    Term,
    counted,
    labels_of,
    maps_of,
)

_Array: TypeAlias = NDArray[Any]
_Block: TypeAlias = tuple[int, slice]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK_PIXELS = 1 << 17  # enough work for the call of a loop, few enough to share out evenly
_SAMPLE = 1 << 14  # pixels that tell where the hardest negatives begin
_FEW = 1 << 14  # values of maps, of which a copy takes less time than a view
_FEW_BYTES = 1 << 20  # of memory that need not be kept for the next batch


def evaluate(terms: Sequence[Term], mix: Mix, processes: Processes) -> tuple[Tensor, ...]:
    """Return the sums of the losses that `mix` asks for, 0-D float32, differentiable, once."""
    maps, labels = maps_of(terms), labels_of(terms)
    needed = [x for x in maps.values() if paddle.is_grad_enabled() and not x.stop_gradient]
    sweeps = _Sweeps(terms, maps, labels, needed, processes)
    with np.errstate(all="ignore"):  # NaN and infinity are results, and no reason to warn
        values = sweeps.values(counted(sweeps, terms))
    # A loss that is no part of a sum must not make it NaN, as 0 * NaN would.
    sums = [sum(k * value for k, value in zip(row, values) if k) for row in mix]
    if not needed:
        return _scalars(sums)
    check = unchanged(*maps.values(), *labels.values())

    def gradients(upstream: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        check()
        # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
        scales = [0.0 if x is None else x.item() * processes.size for x in upstream]
        factors = [sum(map(operator.mul, scales, column)) for column in zip(*mix)]
        written = sweeps.write(factors)
        return tuple(
            hold(on_cpu(written[key], share=True), tensor) if key in written else None
            for key, tensor in maps.items()
        )

    losses: tuple[Tensor, ...] = _Layer.apply(sums, gradients, *maps.values())
    # Nothing but the graph keeps the function from here on.
    refuse = functools.partial(_refuse_twice, weakref.ref(gradients))
    for loss in losses:
        loss.register_hook(refuse)
    return losses


def _refuse_twice(gradients: weakref.ref[Any], upstream: Tensor) -> None:
    # Running the backward of a PyLayer twice aborts the process: after the first time Paddle has
    # freed what the layer kept. `paddle.grad` runs it on a copy.
    if gradients() is None:
        raise RuntimeError(
            "The fused engine lets backward() run once through the losses of a batch, and this is"
            " the second time (retain_graph=True). Add the losses up and call backward() once, ask"
            " paddle.grad for each gradient, or set the environment variable"
            " DBLOSS_ENGINE=operators."
        )


class _Layer(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, losses: Sequence[float], gradients: Callable[..., Any], *maps: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.gradients = gradients
        return _scalars(losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if paddle.is_grad_enabled():
            raise RuntimeError(
                "The fused engine gives no second derivative, which create_graph=True asks for."
                " Set the environment variable DBLOSS_ENGINE=operators."
            )
        gradients: tuple[Tensor | None, ...] = ctx.gradients(upstream)
        return gradients


def _negatives(p: _Array, w: Any) -> _Array:
    """Return rows of predictions, of targets and of weights for some negatives."""
    rows = np.zeros((3, p.size), p.dtype)
    rows[0], rows[2] = p, w
    rows.flags.writeable = False  # as those of `_rows`, for which the loops are compiled
    return rows


class _Part:
    """A term, its pixels as rows `[N, pixels]`, and what the sweeps find out about it."""

    def __init__(self, term: Term, rows: Mapping[int, _Array]) -> None:
        pixels = term.pixels
        self.term, self.loss, self.plane = term, term.loss, (id(pixels.maps), pixels.channel)
        self.p = rows[id(pixels.maps)][:, pixels.channel]
        self.g, self.w = rows[id(pixels.target)][:, 0], rows[id(pixels.mask)][:, 0]
        # The valid mask differs from the weights where pixels have weights of their own.
        apart = term.balance is not None and pixels.valid is not pixels.mask
        self.valid = rows[id(pixels.valid)][:, 0] if apart else None
        # What a block adds up, and the same with the valid mask.
        self.slots: Any = None
        self.of_valid: Any = None
        self.slopes: _Array | None = None  # kept by the first sweep, where the gradient is to be
        # Where negatives are mined: predictions between which that of the last one lies, those of
        # negatives in between, block by block, and what follows: this threshold, and the weight of
        # a tie at it.
        self.bounds: tuple[Any, Any] | None = None
        self.between: dict[tuple[int, int], _Array] = {}
        self.choice: tuple[Any, Any] | None = None
        # The loss is a function of sums and a count, times a factor.
        self.sums: tuple[Any, ...] = ()
        self.count: Any = None
        self.factor: Any = 1.0

    def add(self, block: _Block, out: _Array) -> None:
        """Do the first sweep of a block."""
        slots, of_valid = out
        rows = self.p[block], self.g[block], self.w[block]
        if self.bounds is not None:
            # Room for every pixel: memory that is never written to costs nothing.
            aside = np.empty(rows[0].shape, rows[0].dtype)
            found = loops.mine(self.loss, *rows, *self.bounds, aside, slots)
            self.between[block[0], block[1].start] = aside[:found]
        elif self.slopes is not None:
            loops.add_and_keep(self.loss, *rows, self.slopes[block], slots)
        else:
            loops.add(self.loss, *rows, slots)
        if self.valid is not None:
            # Any loss will do: only the weights are read.
            loops.add(BY_PREDICTION, *rows[:2], self.valid[block], of_valid)

    def counts(self) -> tuple[Counts, Counts]:
        """Return what was counted with the weights, and with the valid mask."""
        every = Counts(self.slots[loops.TOTAL], self.slots[loops.POSITIVE])
        if self.valid is None:
            return every, every
        return every, Counts(self.of_valid[loops.TOTAL], self.of_valid[loops.POSITIVE])

    def partials(self, k: float) -> tuple[float, ...]:
        """Return the partial derivatives of `k` times the loss in its sums, then zeros."""
        found = self.loss.partials(self.sums, self.count)
        return tuple(float(k * self.factor * x) for x in found) + (0.0,) * (MOST_SUMS - len(found))

    def write(self, block: _Block, partials: tuple[float, ...], out: _Array, adds: bool) -> None:
        """Do the second sweep of a block: write the gradient, or add it."""
        rows = self.p[block], self.g[block], self.w[block]
        if self.slopes is not None:
            loops.scale(partials, out[block])
        elif self.choice is not None:
            loops.write_mined(self.loss, partials, *self.choice, *rows, out[block], adds)
        else:
            loops.write(self.loss, partials, *rows, out[block], adds)

    def choose(self, n: Any) -> bool:
        """Choose the `n` negatives predicted highest, and add up these and the text.

        Returns False if they do not begin between the bounds.
        """
        assert self.bounds is not None
        low, high = self.bounds
        values = np.concatenate([x for _, x in sorted(self.between.items())])
        rank = min(n, self.slots[loops.NEGATIVES]) - self.slots[loops.ABOVE]
        at_low = self.slots[loops.AT_LOW]
        if not 0 <= rank <= values.size + at_low:
            return False
        if values.size > _SAMPLE and rank <= values.size:
            low, high, values, rank, at_low = self._narrowed(low, high, values, rank, at_low)
        threshold, of_tie, chosen = high, 0.0, values[:0]
        weights: Any = 1.0
        if rank > values.size:
            threshold, of_tie = low, (rank - values.size) / at_low
            chosen = np.append(values, low)
            weights = np.append(np.ones_like(values), rank - values.size)
        elif rank > 0:
            values.partition(values.size - int(rank))
            chosen = values[-int(rank) :]
            threshold = chosen[0]
            of_tie = np.count_nonzero(chosen == threshold) / np.count_nonzero(values == threshold)
        loops.add(self.loss, *_negatives(chosen, weights), self.slots)
        self.choice = threshold, values.dtype.type(of_tie)
        return True

    def _narrowed(self, low: Any, high: Any, values: _Array, rank: Any, at_low: Any) -> Any:
        """Return nearer bounds, the values between them, the rank among these, and the ties at low.

        They lie between two values of a sample. Those above are added up by the loop of the sweep.
        """
        sample = np.sort(values[:: 1 + values.size // 2048])
        middle, margin = sample.size * (1 - rank / values.size), 2 * math.sqrt(sample.size)
        ends = [min(max(int(middle + x), 0), sample.size - 1) for x in (-margin, margin)]
        slots, aside = np.zeros(loops.SLOTS), np.empty_like(values)
        found = loops.mine(self.loss, *_negatives(values, 1), *sample[ends], aside, slots)
        left = rank - slots[loops.ABOVE]
        if not 0 <= left <= found + slots[loops.AT_LOW]:
            return low, high, values, rank, at_low
        self.slots[:MOST_SUMS] += slots[:MOST_SUMS]
        return *sample[ends], aside[:found], left, slots[loops.AT_LOW]


class _Sweeps:
    """The sweeps of `dbloss.engine.mining` over the rows of each term."""

    _written: dict[int, _Array]  # gradients, by the `id` of their maps
    _planes: dict[tuple[int, int], _Array]  # the rows of their channels

    def __init__(
        self,
        terms: Sequence[Term],
        maps: Mapping[int, Tensor],
        labels: Mapping[int, Tensor],
        needed: Sequence[Tensor],
        processes: Processes,
    ) -> None:
        dtype = computed(*maps.values())
        rows = {key: _rows(tensor, dtype) for key, tensor in {**maps, **labels}.items()}
        self._parts, self._processes = [_Part(term, rows) for term in terms], processes
        self._blocks = _blocks(*self._parts[0].p.shape)
        # The maps that get a gradient, by their `id`: their shape, and their rows.
        self._needed = {id(x): (tuple(x.shape), rows[id(x)]) for x in needed}
        self._make_room()

    def counts(self) -> list[tuple[Counts, Counts]]:
        """Return the counts of every term, and the same with the valid mask in place of w."""
        kept = set()
        for part in self._parts:
            if part.term.mined:
                part.bounds = self._bounds(part)
            elif loops.is_binary(part.loss) and part.plane not in kept:
                kept.add(part.plane)
                part.slopes = self._planes.get(part.plane)
                if part.slopes is None:  # no gradient, and the loss the same to the last bit
                    part.slopes = _empty(part.p.shape, part.p.dtype)
        self._first_sweep(self._parts)
        fractions = [
            x for x in self._parts if x.slopes is not None and x.slots[loops.IRREGULAR] != 0
        ]
        for part in fractions:
            part.slopes = None
        if fractions:
            self._first_sweep(fractions)
        return [part.counts() for part in self._parts]

    def choose(self, index: int, n: Any) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        part = self._parts[index]
        if part.slots[loops.IRREGULAR] != 0 or self._processes.size > 1:
            weights = operators.mined_weights(part.term, n, self._processes)
            part.w = _rows(weights, weights.dtype)[:, 0]
            part.bounds = None
            self._first_sweep([part])
        elif not part.choose(n):  # the sample has missed
            number = part.p.dtype.type
            part.bounds = number(-np.inf), number(np.inf)
            self._first_sweep([part])
            found = part.choose(n)
            assert found

    def values(self, numbers: Sequence[Numbers]) -> list[float]:
        """Return the losses of the terms, for each of which these numbers were counted."""
        values = []
        for index, (part, each) in enumerate(zip(self._parts, numbers)):
            part.sums, part.count = tuple(part.slots[:MOST_SUMS]), each.count
            value, balance = part.loss.value(part.sums, part.count), part.term.balance
            if balance is not None and not balance.per_pixel:
                part.factor = balance.factor(each, self.largest(index, each.n_neg, value))
            values.append(float(part.factor * value))
        return values

    def largest(self, index: int, n: Any, d: Any) -> Any:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        part = self._parts[index]
        if d >= 0 and part.slots[loops.IRREGULAR] == 0:
            return n
        return operators.largest(part.term, n, d, self._processes)

    def write(self, factors: Sequence[float]) -> dict[int, _Array]:
        """Return the gradients of the losses times some factors, by the `id` of their maps."""
        if not self._written:  # a second time, by `paddle.grad`
            self._make_room()
            for part in self._parts:
                part.slopes = None
        written, self._written = self._written, {}
        planes, self._planes = self._planes, {}
        jobs: list[tuple[_Part, Any, _Array, bool]] = []
        begun = set()
        # Slopes kept by the first sweep lie where the gradient is to be: they are turned into it
        # before anything is added.
        for part, k in sorted(zip(self._parts, factors), key=lambda x: x[0].slopes is None):
            if part.plane in planes:
                partials = part.partials(k)
                jobs.append((part, partials, planes[part.plane], part.plane in begun))
                begun.add(part.plane)

        def work(block: _Block) -> None:
            for part, partials, out, adds in jobs:
                part.write(block, partials, out, adds)

        _spread(work, self._blocks)
        for plane in planes.keys() - begun:
            planes[plane][:] = 0
        return written

    def _make_room(self) -> None:
        """Make room for the gradients, and name the rows of each channel in it."""
        self._written, self._planes = {}, {}
        for key, (shape, rows) in self._needed.items():
            self._written[key] = _empty(shape, rows.dtype)
            flat = self._written[key].reshape(rows.shape)
            self._planes |= {(key, channel): flat[:, channel] for channel in range(rows.shape[1])}

    def _bounds(self, part: _Part) -> tuple[Any, Any]:
        """Return between which two predictions the last chosen negative of a term lies.

        They are estimated from a sample, which rarely misses. Both are minus infinity where all
        negatives are chosen, and infinity where the choice is made by other means.
        """
        p, number = part.p, part.p.dtype.type
        if self._processes.size > 1:
            return number(np.inf), number(np.inf)
        if p.size <= 2 * _SAMPLE:
            return number(-np.inf), number(np.inf)
        step = p.size // _SAMPLE | 1
        given = [x for x in (p, part.g, part.w, part.valid) if x is not None]

        def sample(image: int) -> list[_Array]:
            start = (-image * p.shape[1]) % step
            return [rows[image, start::step].copy() for rows in given]

        sampled = zip(*_spread(sample, range(len(p))))
        values, text, weights, *more = (np.concatenate(rows) for rows in sampled)
        valid = more[0] if more else weights
        balance = part.term.balance
        assert balance is not None
        positive, total = float((valid * text).sum()), float(valid.sum())
        scale = p.size / values.size
        _, n = balance.counts(Counts(total * scale, positive * scale))
        others = weights == weights * text
        values[others] = -np.inf
        negatives = values.size - np.count_nonzero(others)
        wanted = min(n / scale, negatives)
        # Three standard deviations of the rank of a value, and of the number of text pixels.
        variance = wanted * (1 - wanted / max(negatives, 1))
        variance += balance.ratio**2 * positive * (1 - positive / max(total, 1.0))
        margin = 3 * np.sqrt(variance) + 1
        if balance.ratio * positive - (total - positive) > margin:
            return number(-np.inf), number(-np.inf)
        low, high = (int(max(values.size - wanted + x, 0)) for x in (-margin, margin))
        values = np.append(values, number(np.inf))
        high = min(high, values.size - 1)
        values.partition((low, high))
        return values[low], values[high]

    def _first_sweep(self, parts: Sequence[_Part]) -> None:
        """Do the first sweep: add up each part, over the processes."""

        def work(block: _Block) -> _Array:
            out = np.zeros((len(parts), 2, loops.SLOTS))
            for part, slots in zip(parts, out):
                part.add(block, slots)
            return out

        sums = functools.reduce(np.add, _spread(work, self._blocks))
        if self._processes.size > 1:
            sums = self._processes.add_up(paddle.to_tensor(sums, place="cpu")).numpy()
        sums += sums - sums  # an infinite sum is NaN, also one of labels
        for part, (slots, of_valid) in zip(parts, sums):
            part.slots, part.of_valid = slots, of_valid


def _rows(tensor: Tensor, dtype: Any) -> _Array:
    """Return a view `[N, C, H*W]` of a tensor `[N, C, H, W]` or `[N, H, W]`, C then 1.

    The pixels of an image and channel are contiguous. Another layout or dtype is copied, and so are
    few pixels, of which a view takes longer.
    """
    tensor, shape = tensor.detach(), tensor.shape
    # Not `!=`, which takes Paddle several times as long: `in` looks first whether it is the same.
    if tensor.dtype not in (dtype,):
        tensor = tensor.astype(dtype)
    array = tensor.numpy() if math.prod(shape) <= _FEW else np.from_dlpack(tensor)
    rows: _Array = array.reshape(shape[0], -1, shape[-2] * shape[-1])
    if rows.strides[2] != rows.itemsize:
        rows = np.ascontiguousarray(rows)
    rows.flags.writeable = False  # numba refuses to compile a loop that would write to it
    return rows


_ZERO = paddle.to_tensor(0.0, paddle.float32, "cpu")


def _scalars(values: Sequence[float]) -> tuple[Tensor, ...]:
    return tuple(_ZERO + value for value in values)  # no other way to a tensor takes less time


def _blocks(images: int, pixels: int) -> list[_Block]:
    starts = range(0, pixels, _BLOCK_PIXELS)
    return [
        (n, slice(start, min(start + _BLOCK_PIXELS, pixels)))
        for n in range(images)
        for start in starts
    ]


def _spread(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return `function(item)` of every item, in their order, worked on by all threads."""
    if len(items) == 1:
        return [function(items[0])]
    results: list[Any] = [None] * len(items)
    queue = iter(enumerate(items))

    def work() -> None:
        for index, item in queue:
            results[index] = function(item)

    helpers = []
    with suppress(RuntimeError):  # the interpreter shuts down: no new work is taken on
        for _ in range(min(_threads(), len(items)) - 1):
            helpers.append(_pool().submit(work))
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
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _FEW_BYTES:
        return np.empty(shape, dtype)
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


# A step leaves its gradient and, where negatives are mined, their hardness; with auxiliary maps it
# leaves four gradients.
_spares: deque[_Array] = deque(maxlen=5)
