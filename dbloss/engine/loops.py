"""The loops of the fused engine, compiled by numba: each does one thing to one block of pixels.

Arrays are 1-D and contiguous: a prediction `p`, its target `g`, and the weights `w`. Short runs are
added up in the dtype of the maps and the runs in float64, over every pixel, so that a NaN or an
infinity shows in the loss wherever it stands, as in the formulas (`0 * NaN` is NaN). A loop is
compiled for the type of the settings it is given, and so for one formula.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import overload, overload_method

from dbloss.base.compiled import compiled, options
from dbloss.engine import arithmetic, formulas
from dbloss.engine.formulas import MOST_SUMS

_RUN = 256  # pixels that are added up in the dtype of the maps, in some 30 sums side by side

# Sums of a block may be reordered, which lets the compiler use vector instructions.
_FASTMATH = {"reassoc", "contract", "nsz"}
_inner = njit(forceinline=True, **options(_FASTMATH))
_kernel = compiled(fastmath=_FASTMATH, sources=(__file__, formulas.__file__, arithmetic.__file__))


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
def _log_in_a_loop(x, rest):
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


@_with_body(arithmetic.cross_entropy)
def _cross_entropy_in_a_loop(q, r, g):
    one = _dtype(q)(1)
    if isinstance(g, types.Boolean):
        return lambda q, r, g: -_log(q if g else r, r if g else q)
    return lambda q, r, g: (g - one) * _log(r, q) - g * _log(q, r)


@_with_body(arithmetic.clipped_cross_entropy)
def _clipped_cross_entropy_in_a_loop(p, g):
    return lambda p, g: arithmetic.cross_entropy(p, arithmetic.complement(p), g)


@_with_body(arithmetic.within)
def _within_in_a_loop(p, eps):
    dtype = _dtype(p)
    step = float(np.finfo(dtype).eps) / 2
    return lambda p, eps: min(max(p, dtype(eps)), dtype(1 - max(eps, step)))


@_with_body(arithmetic.miss)
def _miss_in_a_loop(q, r, g):
    if isinstance(g, types.Boolean):
        return lambda q, r, g: r if g else q
    return lambda q, r, g: q + g * (r - q)


@_with_body(arithmetic.value)
def _value_in_a_loop(loss, p, g):
    return loss.instance_class.value


@_with_body(arithmetic.slope)
def _slope_in_a_loop(loss, p, g):
    return loss.instance_class.slope


@_with_body(arithmetic.own_slope)
def _own_slope_in_a_loop(loss, p, g):
    return lambda loss, p, g: arithmetic.if_finite(p, 0.0)


@_with_body(arithmetic.linear)
def _linear_in_a_loop(x, slope, offset):
    dtype = _dtype(x)
    return lambda x, slope, offset: dtype(slope) * x + dtype(offset)


@_with_body(arithmetic.between)
def _between_in_a_loop(q, r, g, like):
    dtype = _dtype(like)
    if isinstance(g, types.Boolean):
        return lambda q, r, g, like: dtype(r) if g else dtype(q)
    return lambda q, r, g, like: dtype(r - q) * g + dtype(q)


# Its own body will do, since what it calls has one for numbers.
_with_body(arithmetic.complement)(lambda x: arithmetic.complement)


@_with_body(arithmetic.if_finite)
def _if_finite_in_a_loop(x, number):
    return lambda x, number: arithmetic.linear(x, 0.0, number)


@_with_body(arithmetic.clip)
def _clip_in_a_loop(x, least, most):
    dtype = _dtype(x)
    return lambda x, least, most: min(max(x, dtype(least)), dtype(most))


@_with_body(arithmetic.power)
def _power_in_a_loop(x, exponent):
    dtype = _dtype(x)
    one = dtype(1)

    def products(x, exponent):
        single = x if exponent & 1 else one
        double = x * x if exponent & 2 else one
        return single * double * (x * x * x * x if exponent & 4 else one)

    if isinstance(exponent, types.Integer):
        return products
    if isinstance(exponent, types.BaseTuple):  # a Half
        return lambda x, exponent: arithmetic.power(x, exponent.whole) * np.sqrt(x)
    return lambda x, exponent: exp(exponent * log_float64(np.float64(x), 0.0))


@_with_body(arithmetic.absolute)
def _absolute_in_a_loop(x):
    return lambda x: abs(x)


@_with_body(arithmetic.sign)
def _sign_in_a_loop(x):
    dtype = _dtype(x)
    one = dtype(1)
    # A NaN is neither, and remains.
    return lambda x: one if x > 0 else (-one if x < 0 else x)


@_with_body(arithmetic.where)
def _where_in_a_loop(condition, x, y):
    return lambda condition, x, y: x if condition else y


# The methods of the formulas, which a loop finds by the type of the settings.


def _with_method(name: str, find: Callable[..., Any]) -> None:
    overload_method(types.BaseNamedTuple, name, **_HOW)(find)


_with_method("hardness", lambda self, p, g: self.instance_class.hardness)
_with_method("slope", lambda self, p, g: self.instance_class.slope)
_with_method("parts", lambda self, h, w, wg: self.instance_class.parts)
_with_method("at", lambda self, g, partials: self.instance_class.at)


def is_binary(loss: formulas.Loss) -> bool:
    """Tell whether a loop of the loss is faster for targets of 0 and 1."""
    return isinstance(loss, formulas.Mean) and getattr(loss.pixel_loss, "binary", False)


def _target(loss, g):
    raise NotImplementedError


@_with_body(_target)
def _target_in_a_loop(loss, g):
    """Return a target of 0 or 1 as the bool that saves a logarithm where there is one to save."""
    pixel_loss = dict(zip(loss.fields, loss.types)).get("pixel_loss")
    if getattr(getattr(pixel_loss, "instance_class", None), "binary", False):
        return lambda loss, g: g != 0
    return lambda loss, g: g


# What the loops of the first sweep add up to `out`: the parts of the loss, the weights of all
# pixels and of the text, how many negatives there are, and what makes choices hard: IRREGULAR is 0
# where the negatives weigh 0 or 1 each. What a choice counts follows.

TOTAL, POSITIVE, NEGATIVES, IRREGULAR, ABOVE, AT_LOW, SLOTS = range(MOST_SUMS, MOST_SUMS + 7)


def _three(parts):
    raise NotImplementedError


@_with_body(_three)
def _three_in_a_loop(parts):
    """Return the parts of a pixel with zeros for those that a loss does not have."""
    if len(parts) > MOST_SUMS:
        raise TypingError(f"a loss has at most {MOST_SUMS} sums, and this one has {len(parts)}")
    zero = _dtype(parts[0])(0)
    return {
        1: lambda parts: (parts[0], zero, zero),
        2: lambda parts: (parts[0], parts[1], zero),
        3: lambda parts: parts,
    }[len(parts)]


@_kernel
def add(loss, p, g, w, out):
    """Add up the parts of a loss, and the weights."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for start in range(0, p.size, _RUN):
        # An index that might be negative would keep the compiler from vector instructions.
        ps, gs, ws = p[start : start + _RUN], g[start : start + _RUN], w[start : start + _RUN]
        first = second = third = total = positive = irregular = zero
        for i in range(ps.size):
            wg = ws[i] * gs[i]
            a, b, c = _three(loss.parts(loss.hardness(ps[i], gs[i]), ws[i], wg))
            first += a
            second += b
            third += c
            negative = ws[i] - wg
            total += ws[i]
            positive += wg
            irregular += abs(negative * (one - negative))
        out[0] += first
        out[1] += second
        out[2] += third
        out[TOTAL] += total
        out[POSITIVE] += positive
        out[IRREGULAR] += irregular


@_kernel
def add_and_keep(loss, p, g, w, slopes, out):
    """Do what `add` does for a mean; write `w * slope`, which costs less here than on its own.

    It takes targets for 0 or 1. IRREGULAR counts the pixels whose target is neither.
    """
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for start in range(0, p.size, _RUN):
        ps, gs, ws = p[start : start + _RUN], g[start : start + _RUN], w[start : start + _RUN]
        kept = slopes[start : start + _RUN]
        first = total = irregular = zero
        for i in range(ps.size):
            text = gs[i] != zero
            first += ws[i] * loss.hardness(ps[i], text)
            kept[i] = ws[i] * loss.slope(ps[i], text)
            total += ws[i]
            regular = (ws[i] == zero) | (gs[i] == zero) | (gs[i] == one)
            irregular += zero if regular else one
        out[0] += first
        out[TOTAL] += total
        out[IRREGULAR] += irregular


# Negatives that weigh 1 each are as hard as they are predicted. So the loops below compare p, and
# make no map of hardness.


@_kernel
def mine(loss, p, g, w, low, high, between, out):
    """Do what `add` does for the text and for negatives predicted above `high`.

    ABOVE counts these negatives, AT_LOW those predicted `low`. Predictions of negatives in between,
    and of `high`, are set aside in `between`; returns how many. IRREGULAR is also above 0 where the
    target of a pixel that counts is neither 0 nor 1, or a negative is predicted outside [0, 1]:
    then negatives may be ranked by something else, and all this does not hold.
    """
    zero, one, none = p.dtype.type(0), p.dtype.type(1), p.dtype.type(np.nan)
    v, flags = np.empty(_RUN, p.dtype), np.zeros(_RUN, np.uint8)
    eights = flags.view(np.uint64)
    found = 0
    for start in range(0, p.size, _RUN):
        ps, gs, ws = p[start : start + _RUN], g[start : start + _RUN], w[start : start + _RUN]
        vs, inside = v[: ps.size], flags[: ps.size]
        first = second = third = total = positive = negatives = irregular = zero
        for i in range(ps.size):
            wg = ws[i] * gs[i]
            negative = ws[i] - wg
            vs[i] = ps[i] if negative != zero else none
            weight = wg + (negative if ps[i] > high else zero)
            hardness = loss.hardness(ps[i], _target(loss, gs[i]))
            a, b, c = _three(loss.parts(hardness, weight, wg))
            first += a
            second += b
            third += c
            total += ws[i]
            positive += wg
            negatives += negative
            counts_fully = (negative * (one - negative) == zero) & (negative * wg == zero)
            in_range = (negative == zero) | ((ps[i] >= zero) & (ps[i] <= one))
            regular = counts_fully & in_range
            irregular += zero if regular else one
        out[0] += first
        out[1] += second
        out[2] += third
        out[TOTAL] += total
        out[POSITIVE] += positive
        out[NEGATIVES] += negatives
        out[IRREGULAR] += irregular
        above = at_low = zero  # integers would keep the compiler from vectors
        for i in range(vs.size):
            above += one if vs[i] > high else zero
            at_low += one if vs[i] == low else zero
            inside[i] = (vs[i] > low) & (vs[i] <= high)
        out[ABOVE] += above
        out[AT_LOW] += at_low
        flags[vs.size :] = 0
        for k in range(eights.size):
            word = eights[k]
            while word != 0:  # in most there is none inside
                between[found] = v[8 * k + (trailing_zeros(word) >> 3)]
                found += 1
                word &= word - np.uint64(1)
    return found


# The loops of the second sweep: `partials` are the partial derivatives of the loss in its sums, and
# zeros for sums that it does not have.


@_inner
def _in_dtype(partials, like):
    number = like.dtype.type
    return number(partials[0]), number(partials[1]), number(partials[2])


@_kernel
def write(loss, partials, p, g, w, out, adds):
    """Write the gradient `w * at(g, partials) * slope`, or add it."""
    partials = _in_dtype(partials, p)
    if adds:
        for i in range(p.size):
            out[i] += w[i] * loss.at(g[i], partials) * loss.slope(p[i], g[i])
    else:
        for i in range(p.size):
            out[i] = w[i] * loss.at(g[i], partials) * loss.slope(p[i], g[i])


@_kernel
def write_mined(loss, partials, threshold, tie_weight, p, g, w, out, adds):
    """Do the same for the text, the negatives above the threshold, and the ties at it."""
    zero, one = p.dtype.type(0), p.dtype.type(1)
    partials = _in_dtype(partials, p)
    for i in range(p.size):
        wg = w[i] * g[i]
        chosen = one if p[i] > threshold else (tie_weight if p[i] == threshold else zero)
        weight = wg + (w[i] - wg) * chosen
        gradient = weight * loss.at(g[i], partials) * loss.slope(p[i], g[i])
        out[i] = out[i] + gradient if adds else gradient


@_kernel
def scale(partials, out):
    """Multiply what `add_and_keep` has written."""
    factor = _in_dtype(partials, out)[0]
    for i in range(out.size):
        out[i] *= factor
