"""Sums, choices and gradients as compiled loops on zero-copy views of CPU tensors, over threads.

A batch is cut into blocks of one image each. A thread takes a block through all the jobs of a
sweep, so that what one of them has read is still in the cache for the next. The blocks and the
order in which their sums are added are fixed: the number of threads changes no bit of a result.

The threads are Python's own, and the loops release the interpreter lock. Numba's threading layers
are not used: they abort the process when two Python threads compute at once, or after a fork.
"""

import functools
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import paddle
from numba import config
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer

from dbloss._tensors import computed, hold, unchanged, without_amp
from dbloss.engine import loops
from dbloss.engine.processes import ALONE, Processes
from dbloss.formulas import BinaryCrossEntropy, Counts, Loss, Mean
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

_Array: TypeAlias = NDArray[Any]
_Block: TypeAlias = tuple[int, slice]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK_PIXELS = 1 << 17  # enough work for the call of a loop, few enough to share out evenly


def evaluate(terms: Sequence[Term], processes: Processes) -> tuple[Tensor, ...]:
    """Return the losses of the terms, 0-D float32, each differentiable in the maps, once."""
    used: list[bool] = []
    graded = paddle.is_grad_enabled()
    losses: tuple[Tensor, ...] = _Layer.apply(
        terms, processes, graded, used, *maps_of(terms).values()
    )
    if not losses[0].stop_gradient:
        for loss in losses:
            # Paddle's second way through a layer of Python ends the process.
            loss.register_hook(functools.partial(_refuse_twice, used))
    return losses


def _refuse_twice(used: list[bool], gradient: Tensor) -> None:
    if used:
        raise RuntimeError(
            "The fused engine lets backward() run once through the losses of a batch, and this is"
            " the second time (retain_graph=True). Add the losses up and call backward() once, ask"
            " paddle.grad for each gradient, or set the environment variable"
            " DBLOSS_ENGINE=operators."
        )


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    dtype = computed(hardness)
    p, g, m = (_rows(tensor, dtype)[:, 0] for tensor in (hardness, gt, mask))
    # What counts as no negative must not matter, not even where infinity times 0 would be NaN.
    p = _read_only(np.where(m != m * g, p, 0))
    term = Term(BY_PREDICTION, Pixels(hardness, 0, gt, mask, mask), balance)
    sweeps = _Sweeps([term], [_Rows(p, g, m, m)], {}, ALONE)
    ((_, counts, _),) = sweeps.sums([0])
    _, n_neg = balance.counts(counts, np)
    values, threshold, share = sweeps.ranked(0, n_neg)
    weights = (values > threshold) + share * (values == threshold)
    weights *= m != m * g
    return paddle.to_tensor(weights.reshape(hardness.shape), paddle.float32, "cpu")


class _Layer(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        terms: Sequence[Term],
        processes: Processes,
        graded: bool,
        used: list[bool],
        *maps: Tensor,
    ) -> tuple[Tensor, ...]:
        dtype = computed(*maps)
        planes = {id(tensor): _rows(tensor, dtype) for tensor in maps}
        given = labels_of(terms)
        labels = {key: _rows(tensor, dtype)[:, 0] for key, tensor in given.items()}
        written = {
            id(tensor): _empty(tuple(tensor.shape), planes[id(tensor)].dtype)
            for tensor in maps
            if graded and not tensor.stop_gradient
        }
        rows = [
            _Rows(
                planes[id(pixels.maps)][:, pixels.channel],
                labels[id(pixels.target)],
                labels[id(pixels.mask)],
                labels[id(pixels.counted)],
            )
            for _, pixels, _ in terms
        ]
        sweeps = _Sweeps(terms, rows, written, processes)
        with np.errstate(all="ignore"):  # NaN and infinity are results, and no reason to warn
            found = outcomes(sweeps, terms)
            values = [outcome.value for outcome in found]
            ctx.lines = [outcome.line for outcome in found]
        ctx.sweeps, ctx.written, ctx.used, ctx.processes = sweeps, written, used, processes
        ctx.maps = {id(tensor): tensor.detach() for tensor in maps}
        ctx.check = unchanged(*maps, *given.values())
        return tuple(_tensor(np.array(values, np.float32)).unbind())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if paddle.is_grad_enabled():
            raise RuntimeError(
                "The fused engine gives no second derivative, which create_graph=True asks for."
                " Set the environment variable DBLOSS_ENGINE=operators."
            )
        ctx.check()
        again = sys._getframe(2).f_code.co_name == "grad"  # which copies what it goes through
        if not again:
            ctx.used.append(True)
        # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
        scales = [ctx.processes.size * scale.item() for scale in upstream]
        lines = [tuple(scale * float(x) for x in line) for scale, line in zip(scales, ctx.lines)]
        written = {key: _copy(array) if again else array for key, array in ctx.written.items()}
        ctx.sweeps.write(lines, written)
        with without_amp():
            return tuple(
                hold(_tensor(written[key]), given) if key in written else None
                for key, given in ctx.maps.items()
            )


class _Rows(NamedTuple):
    """The pixels of a term as rows `[N, pixels]`."""

    p: _Array
    g: _Array
    w: _Array
    counted: _Array


class _Sweeps:
    """The sweeps of `dbloss.mining` over the rows of each term.

    `written` holds what the gradients go to, in the shape of the maps, by the `id` of these; maps
    that need no gradient are not in it.
    """

    xp = np

    def __init__(
        self,
        terms: Sequence[Term],
        rows: Sequence[_Rows],
        written: Mapping[int, _Array],
        processes: Processes,
    ) -> None:
        self._terms, self._processes, self._written = terms, processes, written
        self._p, self._g, weights, self._pixels = zip(*rows)
        self._weights = list(weights)
        self._planes = [(id(term.pixels.maps), term.pixels.channel) for term in terms]
        self._blocks = _blocks(*self._p[0].shape)
        self._nothing = np.empty((len(self._p[0]), 0), self._p[0].dtype)
        self._counted: dict[int, _Array] = {}  # what the labels of a term add up to
        self._hardness: dict[int, _Array] = {}
        self._chosen: set[int] = set()
        self._kept: dict[int, tuple[int, int]] = {}  # planes whose slopes stand in `written`

    def sums(self, places: Sequence[int]) -> list[Sums]:
        """Return the sums of the terms at some places."""
        jobs: dict[Any, _Job] = {}  # in the order in which they are done

        def count(place: int, w: _Array) -> tuple[int, int]:
            g = self._g[place]
            jobs.setdefault((id(g), id(w)), _Job(loops.Count(), g, g, w, self._nothing))
            return id(g), id(w)

        counting: dict[int, Any] = {}
        for place in places:
            w = self._weights[place]
            if self._ranks(place):
                jobs[place] = self._ranking(place, _ranked_by(self._terms[place].loss))
                counting[place] = place  # a rank counts too, and more closely
            else:
                counting[place] = count(place, w)
                jobs[place] = self._addition(place)
            if self._pixels[place] is not w and self._terms[place].balance is not None:
                count(place, self._pixels[place])
        out = dict(zip(jobs, self._first_sweep(list(jobs.values()), self._processes)))
        found = []
        for place in places:
            parts = () if self._ranks(place) else tuple(out[place][: loops.TOTAL])
            self._counted[place] = out[counting[place]]
            counts = _counts(self._counted[place])
            counted = out.get((id(self._g[place]), id(self._pixels[place])))
            found.append(Sums(parts, counts, counts if counted is None else _counts(counted)))
        return found

    def choose(self, place: int, n: Any) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        self._weigh(place, n)
        # The hardness itself stays where it is: a view would not keep its memory.
        self._weights[place] = _read_only(self._hardness[place])
        self._chosen.add(place)

    def largest(self, place: int, n: Any, d: Any) -> Any:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        if d >= 0 and self._counted[place][loops.IRREGULAR] == 0:
            return n
        job = self._ranking(place, loops.Constant(-1.0 if d < 0 else 1.0))
        (self._counted[place],) = self._first_sweep([job], self._processes)
        chosen = self._weigh(place, n)
        del self._hardness[place]
        return chosen

    def ranked(self, place: int, n: Any) -> tuple[_Array, Any, float]:
        """Return the hardness of a term's negatives, the n-th largest, and what a tie weighs."""
        counted, loss = self._counted[place], self._terms[place].loss
        if counted[loops.IRREGULAR] and _ranked_by(loss) != loss:
            self._first_sweep([self._ranking(place, loss)], ALONE)
        values = self._hardness[place]
        threshold, above, equal = self._nth_largest(values, n)
        if threshold == 0:
            # Pixels of no negative weight have the hardness 0 and take no place.
            equal -= counted[loops.BLANK]
        return values, threshold, float(tie_weight(n, above, equal, np))

    def write(self, lines: Sequence[tuple[float, ...]], gradients: Mapping[int, _Array]) -> None:
        """Write the gradients of the losses, whose derivatives in their sums are the lines.

        They are what was given to the sweeps, or copies: the slopes that are kept stand in them.
        """
        rows = {key: self._rows(gradient) for key, gradient in gradients.items()}
        places = [place for place, (key, _) in enumerate(self._planes) if key in rows]
        # What is kept stands where the gradient goes, and is overwritten first.
        places.sort(key=lambda place: place not in self._kept)
        jobs = [
            loops.Scale(lines[place])
            if place in self._kept
            else loops.Slope(self._terms[place].loss, lines[place])
            for place in places
        ]
        planes = [self._planes[place] for place in places]
        adds = np.array([plane in planes[:j] for j, plane in enumerate(planes)])

        def work(block: _Block) -> None:
            n, pixels = block
            loops.second_sweep(
                tuple(jobs),
                tuple(self._p[place][block] for place in places),
                tuple(self._g[place][block] for place in places),
                tuple(self._weights[place][block] for place in places),
                tuple(rows[key][n, channel, pixels] for key, channel in planes),
                adds,
            )

        _spread(work, self._blocks)
        for key, gradient in rows.items():
            for channel in range(gradient.shape[1]):
                if (key, channel) not in planes:
                    gradient[:, channel] = 0

    def _addition(self, place: int) -> "_Job":
        """Return the job that adds up a loss, and keeps its slopes where there is room for them."""
        loss, slopes = self._terms[place].loss, self._nothing
        job: Any = loops.Add(loss)
        if loops.is_binary(loss):
            job = loops.AddBinary(loss)
            key, channel = plane = self._planes[place]
            if key in self._written and plane not in self._kept.values():
                self._kept[place] = plane
                slopes = self._rows(self._written[key])[:, channel]
        return _Job(job, self._p[place], self._g[place], self._weights[place], slopes)

    def _ranks(self, place: int) -> bool:
        """Tell whether the negatives of a term are still to be chosen."""
        return self._terms[place].mined and place not in self._chosen

    def _rows(self, gradient: _Array) -> _Array:
        """Return a view `[N, C, pixels]` of a gradient."""
        return gradient.reshape(len(gradient), -1, self._p[0].shape[1])

    def _ranking(self, place: int, by: Any) -> "_Job":
        """Return the job that writes what the negatives are ranked by."""
        w = self._weights[place]
        if place not in self._hardness:
            self._hardness[place] = _empty(w.shape, w.dtype)
        return _Job(loops.Rank(by), self._p[place], self._g[place], w, self._hardness[place])

    def _nth_largest(self, values: _Array, n: Any) -> tuple[Any, Any, Any]:
        """Return the n-th largest value of all processes, how many are above it, how many equal."""
        if self._processes.size == 1:
            return _nth_largest(values, n, self._blocks)
        n = paddle.to_tensor(n, paddle.float64, "cpu")
        threshold = self._processes.nth_largest(paddle.to_tensor(values, place="cpu"), n).item()
        counts = [(values > threshold).sum(), (values == threshold).sum()]
        above, equal = _add_up(np.array(counts, np.float64), self._processes)
        return values.dtype.type(threshold), above, equal

    def _weigh(self, place: int, n: Any) -> Any:
        """Turn hardness into weights; return the weight of all chosen negatives."""
        values, threshold, share = self.ranked(place, n)

        def weigh(block: _Block) -> float:
            arrays = values[block], self._g[place][block], self._weights[place][block]
            return float(loops.mined_weights(*arrays, threshold, share))

        return _add_up(np.sum(_spread(weigh, self._blocks)), self._processes)

    def _first_sweep(self, jobs: Sequence["_Job"], processes: Processes) -> Any:
        """Do the jobs; return the sums of each over the processes, `[jobs, slots]`."""

        def work(block: _Block) -> _Array:
            out = np.zeros((len(jobs), loops.SLOTS))
            what, *arrays = zip(*jobs)
            loops.first_sweep(what, *(tuple(a[block] for a in some) for some in arrays), out)
            return out

        sums = _add_up(np.sum(_spread(work, self._blocks), axis=0), processes)
        return sums + (sums - sums)  # inf - inf is NaN


def _counts(slots: _Array) -> Counts:
    return Counts(slots[loops.TOTAL], slots[loops.POSITIVE])


class _Job(NamedTuple):
    """A job of the first sweep and the rows it works on."""

    what: Any
    p: _Array
    g: _Array
    w: _Array
    v: _Array


def _ranked_by(loss: Loss) -> Loss:
    """Return a loss that puts negatives in the same order, and at less cost if there is one.

    The cross-entropy of a negative grows with its probability. That holds for labels of 0 and 1;
    the sums tell whether they are.
    """
    if isinstance(loss, Mean) and isinstance(loss.pixel_loss, BinaryCrossEntropy):
        return BY_PREDICTION
    return loss


def _nth_largest(values: _Array, n: float, blocks: Sequence[_Block]) -> tuple[Any, int, int]:
    """Return the n-th largest value, how many lie above it and how many equal it.

    That is the largest for n below 1, the least for n too large. A sample says between which two
    values it lies, but for rare cases; all values are counted against these, and those in between
    are few.
    """
    nth = nth_place(n, values.size)
    n = values.size - nth
    sample = np.sort(values.ravel()[:: max(values.size >> 15, 1) | 1])
    middle = nth * sample.size / values.size
    margin = 2 * np.sqrt(sample.size)  # four standard deviations, or more
    low, high = (sample[int(np.clip(middle + x, 0, sample.size - 1))] for x in (-margin, margin))
    everything = (values.dtype.type(-np.inf), values.dtype.type(np.inf))
    for bounds in ((low, high), everything):
        sift = functools.partial(_sift, values, bounds)
        taken, aboves = zip(*_spread(sift, blocks))
        between, above = np.concatenate(taken), sum(aboves)
        if above < n <= above + between.size:
            place = between.size - (n - above)
            threshold = np.partition(between, place)[place]
            above += int((between > threshold).sum())
            return threshold, above, int((between == threshold).sum())
    return values.dtype.type(np.nan), 0, 0  # which stands among the values


def _sift(values: _Array, bounds: tuple[Any, Any], block: _Block) -> tuple[_Array, int]:
    """Return the values of a block between two bounds, and the number of larger ones."""
    low, high = bounds
    above = values[block] > high
    return values[block][(values[block] >= low) ^ above], int(np.count_nonzero(above))


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


def _tensor(array: _Array) -> Tensor:
    """Return a tensor in the memory of an array."""
    # Not through DLPack: Paddle holds a lock while the memory of such a tensor is given back, and
    # two threads that do so wait for each other.
    return paddle.Tensor(value=array, place=paddle.CPUPlace(), persistable=False, zero_copy=True)


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
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = _spare(size)
    if memory is None:
        memory = np.empty(size, np.uint8)
    array: _Array = memory.view(dtype).reshape(shape)
    weakref.finalize(array, _spares.append, memory)
    return array


def _copy(array: _Array) -> _Array:
    copy = _empty(array.shape, array.dtype)
    copy[:] = array
    return copy


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
