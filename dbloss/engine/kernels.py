"""The loops of the fused engine, compiled by numba: each takes one block of pixels.

Arrays are 1-D and contiguous: a prediction `p`, its target `g`, the mask `m` or weights `w`, the
hardness `v` of negatives, and an `out` that is written. Sums are float64 and run over every pixel,
so that a NaN or an infinity shows in the loss wherever it stands, as in the formulas (`0 * NaN` is
NaN). The slots of `out` are named below.
"""

import numpy as np

from dbloss._compiled import compiled

# Slots of the sums of a block. `Dice` takes the first three for its sums, `Mean` the first.
LOSS, PREDICTED, POSITIVE, TOTAL, IRREGULAR, BLANK, SLOTS = range(7)

# Losses of a pixel. PROBABILITY is the prediction, which Dice adds up and ranks by, CONSTANT is the
# number a for every pixel, and BINARY_ENTROPY the cross-entropy for targets of 0 and 1, where one
# logarithm will do.
ABSOLUTE, SQUARED, CROSS_ENTROPY, BINARY_ENTROPY, FOCAL, PROBABILITY, CONSTANT = range(7)

# What the first sweep does for a term: add up a loss, or write the hardness of negatives.
SUM, RANK = range(2)

_PIECE = 8192  # pixels that one kernel hands on to the next in the second-level cache
_CHUNK = 1024  # pixels whose values stand in the first-level cache


# Sums of a block may be reordered, which lets the compiler use vector instructions.
_kernel = compiled(fastmath={"reassoc", "contract", "nsz"})


@_kernel
def _dice_sums(p, g, w, out):  # type: ignore[no-untyped-def]
    """Add `w*p*g`, `w*p`, `w*g`, `w` and the count of fractional negative weights."""
    overlap = predicted = positive = total = 0.0
    irregular = 0
    for i in range(p.size):
        wg = w[i] * g[i]
        overlap += wg * p[i]
        predicted += w[i] * p[i]
        positive += wg
        total += w[i]
        negative = w[i] - wg
        irregular += (negative != 0) & (negative != 1)
    out[LOSS] += overlap
    out[PREDICTED] += predicted
    out[POSITIVE] += positive
    out[TOTAL] += total
    out[IRREGULAR] += irregular


@_kernel
def _dice_gradient(p, g, w, line, out, add):  # type: ignore[no-untyped-def]
    """Write `w * (a + b*g)` for the line (a, b), or add it."""
    a, b, zero = p.dtype.type(line[0]), p.dtype.type(line[1]), p.dtype.type(0)
    for i in range(p.size):
        out[i] = w[i] * (a + b * g[i]) + (out[i] if add else zero)


@_kernel
def _absolute_sums(p, g, w, out):  # type: ignore[no-untyped-def]
    """Add `w * |p - g|`, `w*g`, `w` and the count of fractional negative weights."""
    loss = positive = total = 0.0
    irregular = 0
    for i in range(p.size):
        wg = w[i] * g[i]
        loss += w[i] * abs(p[i] - g[i])
        positive += wg
        total += w[i]
        negative = w[i] - wg
        irregular += (negative != 0) & (negative != 1)
    out[LOSS] += loss
    out[POSITIVE] += positive
    out[TOTAL] += total
    out[IRREGULAR] += irregular


@_kernel
def _absolute_gradient(p, g, w, line, out, add):  # type: ignore[no-untyped-def]
    """Write `w * sign(p - g) * c` for the line (c,), or add it."""
    c, zero = p.dtype.type(line[0]), p.dtype.type(0)
    for i in range(p.size):
        difference = p[i] - g[i]
        signed = c if difference > zero else (-c if difference < zero else difference)
        out[i] = w[i] * signed + (out[i] if add else zero)


@_kernel
def _log(x):  # type: ignore[no-untyped-def]
    """Return log x, at least -100, by arithmetic that the compiler turns into vector instructions.

    With `x = m * 2^e` and `s = (m - 1) / (m + 1)`, log x is `e * log 2` plus the series
    `2 * (s + s^3/3 + s^5/5 + ...)`; for m in [0.75, 1.5) the terms left out are below 3e-12.
    """
    x = max(x, 3.7200759760208356e-44)  # e^-100
    bits = np.float64(x).view(np.int64)
    exponent = (bits + 0x0008000000000000 >> 52) - 1023
    m = np.int64(bits - (exponent << 52)).view(np.float64)
    s = (m - 1) / (m + 1)
    z = s * s
    tail = z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15))))
    series = 1 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + tail)))
    return exponent * 0.6931471805599453 + 2 * s * series


@_kernel
def _times_miss(p, g, eps, exponent, out):  # type: ignore[no-untyped-def]
    """Multiply by `(1 - p_t)^exponent`; whole steps are products, which are vector instructions."""
    steps = int(exponent) if 0 <= exponent <= 8 else 0
    for _ in range(steps):
        for i in range(p.size):
            q = min(max(np.float64(p[i]), eps), 1 - eps)
            out[i] *= q * (1 - g[i]) + (1 - q) * g[i]
    if exponent != steps:
        for i in range(p.size):
            q = min(max(np.float64(p[i]), eps), 1 - eps)
            out[i] *= (q * (1 - g[i]) + (1 - q) * g[i]) ** (exponent - steps)


@_kernel
def _values(kind, p, g, a, b, c, out):  # type: ignore[no-untyped-def]
    """Write the loss of each pixel; (a, b, c) are its settings, as alpha, gamma and eps of focal.

    `0 * x` carries what is not finite past the comparisons.
    """
    if kind == PROBABILITY:
        for i in range(p.size):
            out[i] = p[i]
    elif kind == CONSTANT:
        for i in range(p.size):
            out[i] = a
    elif kind == ABSOLUTE:
        for i in range(p.size):
            out[i] = abs(p[i] - g[i])
    elif kind == SQUARED:
        for i in range(p.size):
            out[i] = (p[i] - g[i]) * (p[i] - g[i])
    elif kind == CROSS_ENTROPY:
        for i in range(p.size):
            x, y = np.float64(p[i]), np.float64(g[i])
            out[i] = 0 * x - y * _log(x) - (1 - y) * _log(1 - x)
    elif kind == BINARY_ENTROPY:
        for i in range(p.size):
            x, y = np.float64(p[i]), np.float64(g[i])
            out[i] = 0 * x - _log(y * x + (1 - y) * (1 - x))
    else:
        for i in range(p.size):
            x, y = np.float64(p[i]), np.float64(g[i])
            q = min(max(x, c), 1 - c)
            entropy = -y * _log(q) - (1 - y) * _log(1 - q)
            out[i] = 0 * x + ((1 - a) * (1 - y) + a * y) * entropy
        _times_miss(p, g, c, b, out)


@_kernel
def _slopes(kind, p, g, a, b, c, out):  # type: ignore[no-untyped-def]
    """Write the derivative of `_values` in p."""
    if kind == SQUARED:
        for i in range(p.size):
            out[i] = 2 * (p[i] - g[i])
    elif kind in (CROSS_ENTROPY, BINARY_ENTROPY):
        for i in range(p.size):
            x, y = np.float64(p[i]), np.float64(g[i])
            out[i] = (x - y) / max(x * (1 - x), 1e-12)
    else:
        for i in range(p.size):
            x, y = np.float64(p[i]), np.float64(g[i])
            q = min(max(x, c), 1 - c)
            entropy = -y * _log(q) - (1 - y) * _log(1 - q)
            miss = q * (1 - y) + (1 - q) * y
            slope = miss * (q - y) / (q * (1 - q)) - b * (2 * y - 1) * entropy
            out[i] = ((1 - a) * (1 - y) + a * y) * slope if q == x else 0.0
        _times_miss(p, g, c, b - 1, out)


@_kernel
def _pixel_sums(kind, p, g, w, a, b, c, out):  # type: ignore[no-untyped-def]
    """Add `w*l` and `w`."""
    values = np.empty(_CHUNK, p.dtype)
    loss = total = 0.0
    for start in range(0, p.size, _CHUNK):
        stop = min(start + _CHUNK, p.size)
        _values(kind, p[start:stop], g[start:stop], a, b, c, values[: stop - start])
        for i in range(stop - start):
            loss += w[start + i] * values[i]
            total += w[start + i]
    out[LOSS] += loss
    out[TOTAL] += total


@_kernel
def _pixel_gradient(kind, p, g, w, line, a, b, c, out, add):  # type: ignore[no-untyped-def]
    """Write `w * l' * f` for the line (f,), or add it."""
    slopes = np.empty(_CHUNK, p.dtype)
    factor, zero = p.dtype.type(line[0]), p.dtype.type(0)
    for start in range(0, p.size, _CHUNK):
        stop = min(start + _CHUNK, p.size)
        _slopes(kind, p[start:stop], g[start:stop], a, b, c, slopes[: stop - start])
        for i in range(stop - start):
            j = start + i
            out[j] = w[j] * factor * slopes[i] + (out[j] if add else zero)


@_kernel
def _hardness(kind, p, g, m, a, b, c, v, out):  # type: ignore[no-untyped-def]
    """Write `v = (1-g) * m * l`, and add `g*m` and `m`.

    IRREGULAR counts the pixels that count and whose target is neither 0 nor 1, those whose negative
    weight is neither 0 nor 1, and those whose prediction is outside [0, 1]; BLANK counts those of
    no negative weight, which can take no place among the hardest.
    """
    _values(kind, p, g, a, b, c, v)
    positive = total = 0.0
    irregular = blank = 0
    zero = p.dtype.type(0)
    nan = p.dtype.type(np.nan)
    for i in range(p.size):
        gm = m[i] * g[i]
        negative = m[i] - gm
        positive += gm
        total += m[i]
        fractional = (negative != 0) & ((gm != 0) | (negative != 1))
        irregular += fractional | ~((p[i] >= 0) & (p[i] <= 1))
        blank += negative == 0
        # Adding 0 makes 0 of -0, whose bits differ from it.
        hard = negative * v[i] + zero
        v[i] = hard if hard == hard else nan
    out[POSITIVE] += positive
    out[TOTAL] += total
    out[IRREGULAR] += irregular
    out[BLANK] += blank


@_kernel
def first_sweep(jobs, ps, gs, ws, vs, settings, out):  # type: ignore[no-untyped-def]
    """Take a block through the first sweep of every term, piece by piece.

    Term j has the job and kind `jobs[j]`, the arrays `ps[j]`, `gs[j]`, `ws[j]`, room for hardness
    `vs[j]`, the settings `settings[j]` of its kind, and the slots `out[j]`.
    """
    for start in range(0, ps[0].size, _PIECE):
        stop = min(start + _PIECE, ps[0].size)
        for j in range(len(ps)):
            p, g, w = ps[j][start:stop], gs[j][start:stop], ws[j][start:stop]
            job, kind = jobs[j]
            a, b, c = settings[j]
            if job == RANK:
                _hardness(kind, p, g, w, a, b, c, vs[j][start:stop], out[j])
            elif kind == PROBABILITY:
                _dice_sums(p, g, w, out[j])
            elif kind == ABSOLUTE:
                _absolute_sums(p, g, w, out[j])
            else:
                _pixel_sums(kind, p, g, w, a, b, c, out[j])


@_kernel
def second_sweep(kinds, ps, gs, ws, lines, settings, outs, adds):  # type: ignore[no-untyped-def]
    """Take a block through the second sweep of every term, piece by piece.

    As `first_sweep`, with the line `lines[j]` of the gradient, which is written to `outs[j]`, or
    added where `adds[j]`.
    """
    for start in range(0, ps[0].size, _PIECE):
        stop = min(start + _PIECE, ps[0].size)
        for j in range(len(ps)):
            p, g, w = ps[j][start:stop], gs[j][start:stop], ws[j][start:stop]
            out, line, add = outs[j][start:stop], lines[j], adds[j]
            kind = kinds[j]
            a, b, c = settings[j]
            if kind == PROBABILITY:
                _dice_gradient(p, g, w, line, out, add)
            elif kind == ABSOLUTE:
                _absolute_gradient(p, g, w, line, out, add)
            else:
                _pixel_gradient(kind, p, g, w, line, a, b, c, out, add)


@_kernel
def count_digits(bits, shift, prefix, leading, histogram):  # type: ignore[no-untyped-def]
    """Count the digit at `shift` of each value whose digits above it are `prefix`.

    `bits` are the values as integers. A float is sign and magnitude: below 0 its key is minus the
    magnitude, so that keys are in the order of the values.
    """
    lowest = np.iinfo(bits.dtype).min
    for i in range(bits.size):
        key = np.int64(bits[i]) if bits[i] >= 0 else np.int64(lowest) - np.int64(bits[i])
        digit = key >> shift
        if leading:
            histogram[digit + histogram.size // 2] += 1
        else:
            digit -= prefix * histogram.size
            if digit >= 0 and digit < histogram.size:
                histogram[digit] += 1


@_kernel
def nth_digit(histogram, n, above):  # type: ignore[no-untyped-def]
    """Return the digit of the n-th largest value, how many lie above it, and how many share it."""
    for digit in range(histogram.size - 1, 0, -1):
        if above + histogram[digit] >= n:
            return digit, above, histogram[digit]
        above += histogram[digit]
    return 0, above, histogram[0]


@_kernel
def mined_weights(v, g, m, threshold, share):  # type: ignore[no-untyped-def]
    """Turn hardness into weights: `g*m + (1-g) * m * chosen`. Return the sum of the second."""
    chosen_sum = 0.0
    for i in range(v.size):
        gm = m[i] * g[i]
        chosen = 1.0 if v[i] > threshold else (share if v[i] == threshold else 0.0)
        taken = (m[i] - gm) * chosen
        chosen_sum += taken
        v[i] = gm + taken
    return chosen_sum
