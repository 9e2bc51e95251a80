"""Sums, choices and gradients as compiled loops on zero-copy views of CPU tensors, over threads.

A batch is cut into blocks of one image each. A thread takes a block through all the loops of a
sweep, one after the other. The blocks and the order in which their sums are added are fixed: the
number of threads changes no bit of a result.

The threads are Python's own, and the loops release the interpreter lock. Numba's threading layers
are not used: they abort the process when two Python threads compute at once, or after a fork.
"""

import functools
import os
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

from dbloss.base.processes import Processes
from dbloss.base.tensors import computed, hold, unchanged, without_amp
from dbloss.engine import loops, operators
from dbloss.engine.formulas import MOST_SUMS, Loss
from dbloss.engine.mining import (
    Combine,
    Counts,
    Term,
    labels_of,
    maps_of,
    mix_of,
    outcomes,
    tie_weight,
)

_Array: TypeAlias = NDArray[Any]
_Block: TypeAlias = tuple[int, slice]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BLOCK_PIXELS = 1 << 17  # enough work for the call of a loop, few enough to share out evenly
_SAMPLE = 1 << 14  # pixels that tell where the hardest negatives begin


def evaluate(terms: Sequence[Term], combine: Combine, processes: Processes) -> tuple[Tensor, ...]:
    """Return what `combine` makes of the losses, 0-D float32, differentiable in the maps, once."""
    graded = paddle.is_grad_enabled()
    alive: list[weakref.ref[_Sign]] = []
    losses: tuple[Tensor, ...] = _Layer.apply(
        terms, combine, processes, graded, alive, *maps_of(terms).values()
    )
    if not losses[0].stop_gradient:
        refuse = functools.partial(_refuse_twice, *alive)
        for loss in losses:
            loss.register_hook(refuse)
    return losses


class _Sign:
    """Lives as long as what the layer keeps for its backward pass; a weak reference tells."""


def _refuse_twice(sign: "weakref.ref[_Sign]", gradient: Tensor) -> None:
    # Running the backward of a PyLayer twice aborts the process: after the first time Paddle has
    # freed what the layer kept. `paddle.grad` runs it on a copy.
    if sign() is None:
        raise RuntimeError(
            "The fused engine lets backward() run once through the losses of a batch, and this is"
            " the second time (retain_graph=True). Add the losses up and call backward() once, ask"
            " paddle.grad for each gradient, or set the environment variable"
            " DBLOSS_ENGINE=operators."
        )


class _Layer(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        terms: Sequence[Term],
        combine: Combine,
        processes: Processes,
        graded: bool,
        alive: list[weakref.ref[_Sign]],
        *maps: Tensor,
    ) -> tuple[Tensor, ...]:
        labels = labels_of(terms)
        needed = [tensor for tensor in maps if graded and not tensor.stop_gradient]
        sweeps = _Sweeps(terms, maps, labels, needed, processes)
        with np.errstate(all="ignore"):  # NaN and infinity are results, and no reason to warn
            found = outcomes(sweeps, terms)
            values = np.array(combine([outcome.value for outcome in found]), np.float32)
            if needed:
                ctx.mix = mix_of(combine, len(terms))
                ctx.partials = [outcome.partials for outcome in found]
        if needed:
            ctx.sign = _Sign()
            alive.append(weakref.ref(ctx.sign))
            ctx.set_materialize_grads(False)
            ctx.sweeps, ctx.processes = sweeps, processes
            ctx.maps = {id(tensor): tensor.detach() for tensor in maps}
            ctx.check = unchanged(*maps, *labels.values())
        return tuple(_tensor(values).unbind())

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if paddle.is_grad_enabled():
            raise RuntimeError(
                "The fused engine gives no second derivative, which create_graph=True asks for."
                " Set the environment variable DBLOSS_ENGINE=operators."
            )
        ctx.check()
        scales = np.array([0.0 if scale is None else scale.item() for scale in upstream]) @ ctx.mix
        # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
        scales *= ctx.processes.size
        written = ctx.sweeps.write(
            [tuple(float(k * x) for x in partials) for k, partials in zip(scales, ctx.partials)]
        )
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


class _Job(NamedTuple):
    """A loop, its settings and the rows it works on."""

    loop: Any
    settings: tuple[Any, ...]
    rows: tuple[_Array, ...]

    def __call__(self, block: _Block, *more: Any) -> Any:
        return self.loop(*self.settings, *[array[block] for array in self.rows], *more)


class _Mining(NamedTuple):
    """What the first sweep has found of the negatives of a term."""

    low: Any
    high: Any
    between: Sequence[_Array]  # predictions of the negatives between the two, block by block
    slots: _Array

    def choice(self, loss: Loss, n: Any) -> "tuple[_Choice, _Array] | None":
        """Return the choice of the `n` negatives predicted highest, None if the sweep cannot tell.

        With it come the sums over the text and the chosen negatives.
        """
        slots = self.slots.copy()
        above, at_high, at_low = slots[[loops.ABOVE, loops.AT_HIGH, loops.AT_LOW]]
        # Pixels that are no negatives have the value minus infinity.
        at_high = 0.0 if np.isneginf(self.high) else at_high
        at_low = 0.0 if np.isneginf(self.low) or self.low == self.high else at_low
        n = min(n, slots[loops.NEGATIVES])
        between = np.concatenate(self.between)
        known = above + at_high + between.size + at_low
        everything = np.isneginf(self.low) and np.isposinf(self.high)
        if not everything and (n < above or n > known):
            return None
        threshold, equal = self.high, at_high
        tied = []
        if n > above + at_high:
            tied.append((self.high, at_high))
            threshold, equal, above = self.low, at_low, above + at_high
            if n <= above + between.size:
                threshold = _in_rising_order(between, between.size - int(n - above))
            # The loop of the sweep, once more for these few: now the threshold is known.
            inside = np.zeros(loops.SLOTS)
            as_negatives = between, np.zeros_like(between), np.ones_like(between)
            rows = map(_read_only, as_negatives)
            loops.mine(loss, *rows, threshold, threshold, between[:0], inside)
            slots += inside
            above += inside[loops.ABOVE]
            equal = inside[loops.AT_HIGH] if threshold > self.low else equal
        of_tie = tie_weight(n, above, equal)
        tied.append((threshold, of_tie * equal))
        p, w = np.array([tie for tie in tied if tie[1] > 0], between.dtype).reshape(-1, 2).T.copy()
        loops.add(loss, *map(_read_only, (p, np.zeros_like(p), w)), slots)
        return _Choice(threshold, between.dtype.type(of_tie)), slots


class _Choice(NamedTuple):
    """Negatives predicted above a threshold, and those at it, each with the weight of a tie."""

    threshold: Any
    tie_weight: Any


def _in_rising_order(values: _Array, index: int) -> Any:
    """Return the value at an index of the sorted values."""
    if values.size > _SAMPLE:
        # Between two values of a sample there are few to sort.
        sample = np.sort(values[:: 1 + values.size // 2048])
        middle, margin = index * sample.size / values.size, 2 * np.sqrt(sample.size)
        ends = np.clip((middle - margin, middle + margin), 0, sample.size - 1)
        low, high = sample[ends.astype(int)]
        below = np.count_nonzero(values < low)
        inside = values[(values >= low) & (values <= high)]
        if below <= index < below + inside.size:
            return np.partition(inside, index - below)[index - below]
    return np.partition(values, index)[index]


class _Sweeps:
    """The sweeps of `dbloss.engine.mining` over the rows of each term."""

    xp = np

    def __init__(
        self,
        terms: Sequence[Term],
        maps: Sequence[Tensor],
        labels: Mapping[int, Tensor],
        needed: Sequence[Tensor],
        processes: Processes,
    ) -> None:
        dtype = computed(*maps)
        planes = {id(tensor): _rows(tensor, dtype) for tensor in maps}
        flat = {key: _rows(tensor, dtype)[:, 0] for key, tensor in labels.items()}
        self._terms, self._processes = terms, processes
        self._rows = [
            _Rows(planes[id(x.maps)][:, x.channel], flat[id(x.target)], flat[id(x.mask)])
            for x in (term.pixels for term in terms)
        ]
        self._losses = [term.loss for term in terms]
        self._planes = [(id(term.pixels.maps), term.pixels.channel) for term in terms]
        self._valid = [flat[id(term.pixels.valid)] for term in terms]
        self._blocks = _blocks(*self._rows[0].p.shape)
        # Gradients, in which slopes are kept already, by the `id` of their maps.
        self._like = {id(x): (tuple(x.shape), planes[id(x)].dtype) for x in needed}
        self._written = {key: _empty(*like) for key, like in self._like.items()}
        self._kept: dict[int, tuple[int, int]] = {}
        self._sums: list[tuple[Any, ...]] = []  # before the choice, of a mined term none that holds
        self._mined: Mapping[int, _Mining] = {}
        self._chosen: dict[int, _Choice] = {}

    def counts(self) -> list[tuple[Counts, Counts]]:
        """Return the counts of every term, and the same with the valid mask in place of w."""
        jobs: list[_Job] = []
        bounds: dict[int, tuple[Any, Any]] = {}
        for index, (loss, rows) in enumerate(zip(self._losses, self._rows)):
            key, channel = plane = self._planes[index]
            if self._terms[index].mined:
                bounds[index] = self._bounds(index)
                jobs.append(_Job(loops.mine, (loss,), rows))
            elif loops.is_binary(loss) and plane not in self._kept.values():
                # Also where no gradient is wanted, so that the loss is the same to the last bit.
                written = self._written.get(key)
                if written is None:
                    slopes = _empty(rows.p.shape, rows.p.dtype)
                else:
                    self._kept[index] = plane
                    slopes = self._flat(written)[:, channel]
                jobs.append(_Job(loops.add_and_keep, (loss,), (*rows, slopes)))
            else:
                jobs.append(_Job(loops.add, (loss,), rows))
        # The valid mask differs from the weights where pixels have weights of their own.
        apart = [
            index
            for index, (term, rows) in enumerate(zip(self._terms, self._rows))
            if term.balance is not None and self._valid[index] is not rows.w
        ]
        jobs += [_Job(loops.count, (), (self._rows[i].g, self._valid[i])) for i in apart]
        out, self._mined = self._first_sweep(jobs, bounds)
        binary = [i for i, job in enumerate(jobs) if job.loop is loops.add_and_keep]
        fractions = [index for index in binary if out[index, loops.IRREGULAR]]
        if fractions:
            jobs = [_Job(loops.add, (self._losses[i],), self._rows[i]) for i in fractions]
            out[fractions], _ = self._first_sweep(jobs, {})
            self._kept = {i: plane for i, plane in self._kept.items() if i not in fractions}
        self._irregular = out[:, loops.IRREGULAR]
        of_valid = dict(zip(apart, out[len(self._terms) :]))
        out = out[: len(self._terms)]
        self._sums = [_parts(slots) for slots in out]
        return [(_counts(x), _counts(of_valid.get(i, x))) for i, x in enumerate(out)]

    def choose(self, index: int, n: Any) -> None:
        """Let the `n` hardest negatives of a term, and its text, be all that count from now on."""
        term, rows = self._terms[index], self._rows[index]
        if self._irregular[index] or self._processes.size > 1:
            weights = operators.mined_weights(term, n, self._processes)
            self._rows[index] = rows._replace(w=_rows(weights, weights.dtype)[:, 0])
            job = _Job(loops.add, (term.loss,), self._rows[index])
            ((slots,), _) = self._first_sweep([job], {})
            self._sums[index] = _parts(slots)
            return
        found = self._mined[index].choice(term.loss, n)
        if found is None:  # the sample has missed
            everything = rows.p.dtype.type(-np.inf), rows.p.dtype.type(np.inf)
            job = _Job(loops.mine, (term.loss,), rows)
            _, mined = self._first_sweep([job], {0: everything})
            found = mined[0].choice(term.loss, n)
            assert found is not None
        self._chosen[index], slots = found
        self._sums[index] = _parts(slots)

    def sums(self) -> list[tuple[Any, ...]]:
        """Return what the parts of every term add up to."""
        return self._sums

    def largest(self, index: int, n: Any, d: Any) -> Any:
        """Return the sum of the n largest `(1-g)*m` of a term, of the n smallest where d < 0."""
        if d >= 0 and self._irregular[index] == 0:
            return n
        return operators.largest(self._terms[index], n, d, self._processes)

    def write(self, partials: Sequence[tuple[float, ...]]) -> Mapping[int, _Array]:
        """Return the gradients of the losses by the `id` of their maps.

        `partials` are the partial derivatives of each loss in its sums.
        """
        if not self._written:  # a second time, by `paddle.grad`
            self._kept = {}
            self._written = {key: _empty(*like) for key, like in self._like.items()}
        written, self._written = self._written, {}
        gradients = {key: self._flat(array) for key, array in written.items()}
        jobs: list[tuple[_Job, tuple[Any, ...]]] = []
        begun = set()
        # Slopes kept by the first sweep lie where the gradient is to be: they are turned into it
        # before anything is added.
        for index in sorted(range(len(self._terms)), key=lambda index: index not in self._kept):
            key, channel = plane = self._planes[index]
            if key not in gradients:
                continue
            out, inner, loss = gradients[key][:, channel], partials[index], self._losses[index]
            adds = () if index in self._kept else (plane in begun,)
            begun.add(plane)
            if index in self._kept:
                jobs.append((_Job(loops.scale, (inner,), (out,)), adds))
            elif index in self._chosen:
                settings = loss, inner, *self._chosen[index]
                jobs.append((_Job(loops.write_mined, settings, (*self._rows[index], out)), adds))
            else:
                jobs.append((_Job(loops.write, (loss, inner), (*self._rows[index], out)), adds))

        def work(block: _Block) -> None:
            for job, more in jobs:
                job(block, *more)

        _spread(work, self._blocks)
        for key, gradient in gradients.items():
            for channel in range(gradient.shape[1]):
                if (key, channel) not in begun:
                    gradient[:, channel] = 0
        return written

    def _flat(self, gradient: _Array) -> _Array:
        """Return a view `[N, C, pixels]` of a gradient."""
        return gradient.reshape(len(gradient), -1, self._rows[0].p.shape[1])

    def _bounds(self, index: int) -> tuple[Any, Any]:
        """Return between which two predictions the last chosen negative of a term lies.

        They are estimated from a sample, which rarely misses. Both are minus infinity where all
        negatives are chosen, and infinity where the choice is made by other means.
        """
        p, g, w = self._rows[index]
        number = p.dtype.type
        if self._processes.size > 1:
            return number(np.inf), number(np.inf)
        if p.size <= 2 * _SAMPLE:
            return number(-np.inf), number(np.inf)
        step = p.size // _SAMPLE | 1

        given = {id(rows): rows for rows in (p, g, w, self._valid[index])}

        def sample(image: int) -> list[_Array]:
            start = (-image * p.shape[1]) % step
            return [rows[image, start::step].copy() for rows in given.values()]

        sampled = zip(*_spread(sample, range(len(p))))
        values, text, weights, *more = (np.concatenate(rows) for rows in sampled)
        valid = more[0] if more else weights
        balance = self._terms[index].balance
        assert balance is not None
        positive, total = float((valid * text).sum()), float(valid.sum())
        scale = p.size / values.size
        _, n = balance.counts(Counts(total * scale, positive * scale), np)
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

    def _first_sweep(
        self, jobs: Sequence[_Job], bounds: Mapping[int, tuple[Any, Any]]
    ) -> tuple[_Array, Mapping[int, _Mining]]:
        """Do the jobs; return the sums of each over the processes, `[jobs, slots]`.

        Those with bounds mine between them; what they find comes by the index of the job.
        """
        # Room for every pixel: memory that is never written to costs nothing.
        room = {
            index: np.empty((len(self._blocks), _BLOCK_PIXELS), jobs[index].rows[0].dtype)
            for index in bounds
        }

        def work(number: int) -> tuple[_Array, Mapping[int, _Array]]:
            out, between = np.zeros((len(jobs), loops.SLOTS)), {}
            for index, (job, slots) in enumerate(zip(jobs, out)):
                if index in bounds:
                    aside = room[index][number]
                    found = job(self._blocks[number], *bounds[index], aside, slots)
                    between[index] = aside[:found]
                else:
                    job(self._blocks[number], slots)
            return out, between

        outs, aside = zip(*_spread(work, range(len(self._blocks))))
        sums = _add_up(np.sum(outs, axis=0), self._processes)
        sums = sums + (sums - sums)  # inf - inf is NaN
        return sums, {
            index: _Mining(*pair, [between[index] for between in aside], sums[index])
            for index, pair in bounds.items()
        }


def _counts(slots: _Array) -> Counts:
    return Counts(slots[loops.TOTAL], slots[loops.POSITIVE])


def _parts(slots: _Array) -> tuple[Any, ...]:
    return tuple(slots[:MOST_SUMS])


def _add_up(numbers: _Array, processes: Processes) -> Any:
    """Return the sum of `numbers` over the processes."""
    if processes.size == 1:
        return numbers
    return processes.add_up(paddle.to_tensor(numbers, place="cpu")).numpy()


def _rows(tensor: Tensor, dtype: Any) -> _Array:
    """Return a view `[N, C, H*W]` of a tensor `[N, C, H, W]` or `[N, H, W]`, C then 1.

    The pixels of an image and channel are contiguous. Another layout or dtype is copied.
    """
    tensor = tensor if tensor.stop_gradient else tensor.detach()
    array = np.from_dlpack(tensor if tensor.dtype == dtype else tensor.astype(dtype))
    rows = array.reshape(array.shape[0], array.shape[1] if array.ndim == 4 else 1, -1)
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
