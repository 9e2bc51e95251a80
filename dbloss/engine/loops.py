"""The loops of the fused engine, compiled by numba: each takes one block of pixels.

Arrays are 1-D and contiguous: a prediction `p`, its target `g`, the weights `w` (the mask `m` where
nothing was chosen), and the hardness `v` of negatives. Short runs are added up in the dtype of the
maps and the runs in float64, over every pixel, so that a NaN or an infinity shows in the loss
wherever it stands, as in the formulas (`0 * NaN` is NaN). A loop is compiled for the type of the
settings it is given, and so for one formula.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import literal_unroll, njit, types
from numba.extending import overload, overload_method

from dbloss import _arithmetic, formulas
from dbloss._compiled import compiled, options

_PIECE = 8192  # pixels that one loop hands on to the next in the second-level cache
_RUN = 256  # pixels that are added up in the dtype of the maps, in some 30 sums side by side

# Sums of a block may be reordered, which lets the compiler use vector instructions.
_FASTMATH = {"reassoc", "contract", "nsz"}
_inner = njit(forceinline=True, **options(_FASTMATH))
_outer = compiled(fastmath=_FASTMATH, sources=(__file__, formulas.__file__, _arithmetic.__file__))


# What a formula calls, for numbers


# Annotations, which a strict comparison of signatures would look at, do not matter.
_HOW = {"jit_options": {"forceinline": True} | options(_FASTMATH), "strict": False}


def _with_body(function: Any) -> Any:
    return overload(function, **_HOW)


def _dtype(number: Any) -> type:
    return np.float32 if number == types.float32 else np.float64


# log x is `e * log 2` plus the series `2 * (s + s^3/3 + s^5/5 + ...)`, with `x = m * 2^e` for an m
# in [0.75, 1.5) and `s = (m - 1) / (m + 1)`: arithmetic that the compiler turns into vector
# instructions. What is below -100, of 0 too, counts as -100. `rest` is 1 - x: where x is near 1, it
# has digits that x has lost.


@_inner
def log_float64(x, rest):
    """Return log x; the terms left out are below 3e-12 of it."""
    bits = np.float64(max(x, 3.720075976020836e-44)).view(np.int64)  # e^-100
    exponent = (bits + 0x0008000000000000 >> 52) - 1023
    m = np.int64(bits - (exponent << 52)).view(np.float64)
    s = (m - 1) / (m + 1)
    z = s * s
    tail = z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15))))
    series = 1 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + tail)))
    return np.int32(exponent) * 0.6931471805599453 + 2 * s * series


_ONE, _TWO, _LOG_2, _LEAST = map(np.float32, (1, 2, np.log(2), -100))
_THIRD, _FIFTH, _SEVENTH, _NINTH = map(np.float32, (1 / 3, 1 / 5, 1 / 7, 1 / 9))
_TINY, _UP = map(np.float32, (np.finfo(np.float32).tiny, 2**32))
_HALF, _BIAS, _PLACES, _STEPS_UP = map(np.int32, (0x00400000, 127, 23, 32))


@_inner
def log_float32(x, rest):
    """Return log x in float32; the terms left out are below 1e-8 of it."""
    tiny = x < _TINY
    bits = np.float32(x * _UP if tiny else x).view(np.int32)
    exponent = np.int32(np.int32(np.int32(bits + _HALF) >> _PLACES) - _BIAS)
    m = np.int32(bits - np.int32(exponent << _PLACES)).view(np.float32)
    above = -rest if exponent == 0 and not tiny else m - _ONE
    s = above / (m + _ONE)
    z = s * s
    series = _ONE + z * (_THIRD + z * (_FIFTH + z * (_SEVENTH + z * _NINTH)))
    exponent = np.int32(exponent - _STEPS_UP) if tiny else exponent
    return max(np.float32(exponent) * _LOG_2 + _TWO * s * series, _LEAST)


def _log(x, rest):
    raise NotImplementedError


@_with_body(_log)
def _(x, rest):
    log = log_float32 if x == types.float32 else log_float64
    return lambda x, rest: log(x, rest)


@_inner
def exp(x):
    """Return e^x of x from -700 to 700, likewise: 2^k times the series of `x - k * log 2`."""
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = x - k * 0.6931471805599453
    tail = r * (1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * (1 / 40320 + r / 362880))))
    series = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + tail))))
    # The last bits of k + 1.5 * 2^52 are those of the integer k.
    power = np.float64(k + 6755399441055744.0).view(np.int64) + 1023 << 52
    return series * np.int64(power).view(np.float64)


@_with_body(_arithmetic.cross_entropy)
def _(q, r, g, least):
    dtype = _dtype(q)
    if isinstance(g, types.Boolean):
        return lambda q, r, g, least: -_log(q if g else dtype(r), dtype(r) if g else q)

    def body(q, r, g, least):
        return (g - 1) * _log(dtype(r), q) - g * _log(q, dtype(r))

    return body


@_with_body(_arithmetic.within)
def _(p, eps):
    dtype = _dtype(p)

    def body(p, eps):
        least, most = dtype(eps), dtype(1 - eps)
        return min(max(p, least), most), min(max(1 - np.float64(p), eps), 1 - eps)

    return body


@_with_body(_arithmetic.mix)
def _(q, r, g):
    dtype = _dtype(q)
    if isinstance(g, types.Boolean):
        return lambda q, r, g: dtype(r) if g else q
    return lambda q, r, g: q + g * (dtype(r) - q)


@_with_body(_arithmetic.value)
def _(loss, p, g):
    return loss.instance_class.value


@_with_body(_arithmetic.slope)
def _(loss, p, g):
    return loss.instance_class.slope


@_with_body(_arithmetic.linear)
def _(x, slope, offset):
    dtype = _dtype(x)
    if isinstance(x, types.Boolean):
        return lambda x, slope, offset: slope + offset if x else offset
    return lambda x, slope, offset: dtype(slope) * x + dtype(offset)


@_with_body(_arithmetic.clip)
def _(x, least, most):
    dtype = _dtype(x)
    return lambda x, least, most: min(max(x, dtype(least)), dtype(most))


@_with_body(_arithmetic.power)
def _(x, exponent):
    dtype = _dtype(x)
    one = dtype(1)

    def products(x, exponent):
        single = x if exponent & 1 else one
        double = x * x if exponent & 2 else one
        return single * double * (x * x * x * x if exponent & 4 else one)

    if isinstance(exponent, types.Integer):
        return products
    if isinstance(exponent, types.BaseTuple):  # a Half
        return lambda x, exponent: _arithmetic.power(x, exponent.whole) * np.sqrt(x)
    return lambda x, exponent: exp(exponent * log_float64(np.float64(x), 0.0))


@_with_body(_arithmetic.absolute)
def _(x):
    return lambda x: abs(x)


@_with_body(_arithmetic.sign)
def _(x):
    dtype = _dtype(x)
    one = dtype(1)
    # A NaN is neither, and remains.
    return lambda x: one if x > 0 else (-one if x < 0 else x)


@_with_body(_arithmetic.where)
def _(condition, x, y):
    return lambda condition, x, y: x if condition else y


# The methods of the formulas, which a loop finds by the type of the settings.


def _with_method(name: str, find: Callable[..., Any]) -> None:
    overload_method(types.BaseNamedTuple, name, **_HOW)(find)


_with_method("hardness", lambda self, p, g: self.instance_class.hardness)
_with_method("slope", lambda self, p, g: self.instance_class.slope)
_with_method("parts", lambda self, h, g, w: self.instance_class.parts)
_with_method("at", lambda self, g, line: self.instance_class.at)


def is_binary(loss: formulas.Loss) -> bool:
    """Tell whether a loop of the loss is faster for targets of 0 and 1."""
    return isinstance(loss, formulas.Mean) and getattr(loss.pixel_loss, "binary", False)


# The jobs of the first sweep. `out` takes the sums that are named here, first those of the loss.

FIRST, SECOND, TOTAL, POSITIVE, IRREGULAR, BLANK, SLOTS = range(7)


class Count(NamedTuple):
    """Add up the weights of the pixels.

    TOTAL is `sum(w)`, POSITIVE `sum(w*g)`. IRREGULAR is 0 where every negative weight is 0 or 1,
    and above it elsewhere.
    """


class Add(NamedTuple):
    """Add up the parts of a loss, FIRST and for Dice SECOND."""

    loss: Any


class AddBinary(NamedTuple):
    """The same for a loss that is faster for targets of 0 and 1; `v` takes `w` times the slope.

    There may be no room for it: then `v` is empty.
    """

    loss: Any


class Rank(NamedTuple):
    """Write the hardness of negatives `(1-g) * w * h` to `v`, and count as `Count` does.

    IRREGULAR is also above 0 where the target of a pixel that counts is neither 0 nor 1, and where
    a prediction is outside [0, 1]. BLANK counts the pixels of no negative weight, which can take no
    place among the hardest.
    """

    loss: Any


class Constant(NamedTuple):
    """Something to rank by that is the same for all pixels."""

    number: float

    def hardness(self, p: Any, g: Any) -> Any:
        """Return the number."""
        return self.number


def _do(job, p, g, w, v, out):
    raise NotImplementedError


@overload(_do, jit_options=options(_FASTMATH))
def _(job, p, g, w, v, out):
    return {Count: _count, Add: _add, AddBinary: _add_binary, Rank: _rank}[job.instance_class]


def _count(job, p, g, w, v, out):
    zero, one = g.dtype.type(0), g.dtype.type(1)
    for start in range(0, g.size, _RUN):
        total = positive = irregular = zero
        for i in range(start, min(start + _RUN, g.size)):
            wg = w[i] * g[i]
            total += w[i]
            positive += wg
            negative = w[i] - wg
            irregular += abs(negative * (one - negative))
        out[TOTAL] += total
        out[POSITIVE] += positive
        out[IRREGULAR] += irregular


def _second(parts):
    raise NotImplementedError


@_with_body(_second)
def _(parts):
    return (lambda parts: parts[1]) if len(parts) > 1 else (lambda parts: 0 * parts[0])


def _add(job, p, g, w, v, out):
    for start in range(0, p.size, _RUN):
        first = second = p.dtype.type(0)
        for i in range(start, min(start + _RUN, p.size)):
            parts = job.loss.parts(job.loss.hardness(p[i], g[i]), g[i], w[i])
            first += parts[0]
            second += _second(parts)
        out[FIRST] += first
        out[SECOND] += second


def _add_binary(job, p, g, w, v, out):
    fractions = 0
    for i in range(g.size):
        fractions += (w[i] != 0) & (g[i] != 0) & (g[i] != 1)
    total = 0.0
    if fractions:
        for i in range(p.size):
            total += w[i] * job.loss.hardness(p[i], g[i])
        for i in range(v.size):
            v[i] = w[i] * job.loss.slope(p[i], g[i])
    elif v.size:
        for i in range(p.size):
            total += w[i] * job.loss.hardness(p[i], g[i] != 0)
            v[i] = w[i] * job.loss.slope(p[i], g[i] != 0)
    else:
        for i in range(p.size):
            total += w[i] * job.loss.hardness(p[i], g[i] != 0)
    out[FIRST] += total


def _rank(job, p, g, w, v, out):
    total = positive = 0.0
    irregular = blank = 0
    zero, nan = p.dtype.type(0), p.dtype.type(np.nan)
    for i in range(p.size):
        wg = w[i] * g[i]
        negative = w[i] - wg
        total += w[i]
        positive += wg
        fractional = (negative != 0) & ((wg != 0) | (negative != 1))
        irregular += fractional | ~((p[i] >= 0) & (p[i] <= 1))
        blank += negative == 0
        # Adding 0 makes 0 of -0, whose bits differ from it.
        hard = p.dtype.type(negative * job.loss.hardness(p[i], g[i])) + zero
        v[i] = hard if hard == hard else nan
    out[TOTAL] += total
    out[POSITIVE] += positive
    out[IRREGULAR] += irregular
    out[BLANK] += blank


@_outer
def first_sweep(jobs, ps, gs, ws, vs, out):
    """Take a block through all jobs, piece by piece.

    Job j has the arrays `ps[j]`, `gs[j]`, `ws[j]`, `vs[j]`, of which it may need some, and the
    slots `out[j]`.
    """
    for start in range(0, gs[0].size, _PIECE):
        stop = min(start + _PIECE, gs[0].size)
        j = 0
        for job in literal_unroll(jobs):
            p, g, w = ps[j][start:stop], gs[j][start:stop], ws[j][start:stop]
            _do(job, p, g, w, vs[j][start:stop], out[j])
            j += 1  # noqa: SIM113


# The jobs of the second sweep.


class Slope(NamedTuple):
    """Write the gradient `w * at(g, line) * slope`, or add it."""

    loss: Any
    line: tuple[float, ...]


class Scale(NamedTuple):
    """Multiply what the first sweep has kept, `w * slope`."""

    line: tuple[float, ...]


def _write(job, p, g, w, out, add):
    raise NotImplementedError


@overload(_write, jit_options=options(_FASTMATH))
def _(job, p, g, w, out, add):
    return {Slope: _slope, Scale: _scale}[job.instance_class]


def _in_dtype(line, one):
    raise NotImplementedError


@_with_body(_in_dtype)
def _(line, one):
    if len(line) == 1:
        return lambda line, one: (type(one)(line[0]),)
    return lambda line, one: (type(one)(line[0]), type(one)(line[1]))


def _slope(job, p, g, w, out, add):
    line = _in_dtype(job.line, out[0])
    if add:
        for i in range(p.size):
            out[i] += w[i] * job.loss.at(g[i], line) * job.loss.slope(p[i], g[i])
    else:
        for i in range(p.size):
            out[i] = w[i] * job.loss.at(g[i], line) * job.loss.slope(p[i], g[i])


def _scale(job, p, g, w, out, add):
    (factor,) = _in_dtype(job.line, out[0])
    for i in range(out.size):
        out[i] *= factor


@_outer
def second_sweep(jobs, ps, gs, ws, outs, adds):
    """Take a block through all jobs, piece by piece; job j writes to `outs[j]`, or adds to it."""
    for start in range(0, ps[0].size, _PIECE):
        stop = min(start + _PIECE, ps[0].size)
        j = 0
        for job in literal_unroll(jobs):
            p, g, w = ps[j][start:stop], gs[j][start:stop], ws[j][start:stop]
            _write(job, p, g, w, outs[j][start:stop], adds[j])
            j += 1  # noqa: SIM113


# The choice of negatives


@_outer
def mined_weights(v, g, m, threshold, share):
    """Turn hardness into weights: `g*m + (1-g) * m * chosen`. Return the sum of the second."""
    chosen_sum = 0.0
    for i in range(v.size):
        gm = m[i] * g[i]
        chosen = 1.0 if v[i] > threshold else (share if v[i] == threshold else 0.0)
        taken = (m[i] - gm) * chosen
        chosen_sum += taken
        v[i] = gm + taken
    return chosen_sum
