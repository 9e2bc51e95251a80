"""Every formula, once: a tuple of its settings, with plain functions for values and derivatives.

The functions take Paddle tensors, and in the loops that numba compiles they take numbers: numba
picks the function by the type of the settings. What differs between the two is in `arithmetic`.

A `PixelLoss` is a loss `l(p, g)` that each pixel has for itself. `Tversky` and `Mean` make one
number L of a map. Each pixel brings its `hardness` h, by which mining also ranks the negatives, and
adds its `parts` to some sums. L is a function of these sums and of a count, which is `sum(w)`, or
the number of pixels that mining has chosen. The parts are linear in h, so that

    dL/dp = w * at(g, partials) * slope(p, g)

where `partials` are the partial derivatives of L in the sums, `at` weighs them for a target, and
`slope` is dh/dp.
"""

import math
from typing import Any, NamedTuple, Protocol, TypeAlias

from dbloss.engine.arithmetic import (
    absolute,
    between,
    clip,
    clipped_cross_entropy,
    complement,
    cross_entropy,
    exponent,
    if_finite,
    linear,
    miss,
    own_slope,
    power,
    sign,
    slope,
    value,
    where,
    within,
)


class Tversky(NamedTuple):
    """`L = (1 - T)^gamma` over pixels of weight `w`, with `T = N / D`.

    `N = I + smooth/2` and `D = alpha*P + beta*G + (1-alpha-beta)*I + smooth/2 + eps/2`, where
    `I = sum(w*p*g)`, `P = sum(w*p)` and `G = sum(w*g)`: alpha is what a false find weighs, beta
    what a miss does. With both 1/2 and gamma 1, the defaults, it is the Dice loss,
    `L = 1 - (2*I + smooth) / (P + G + smooth + eps)`.

    `dL/dT = -gamma * (1 - T)^(gamma-1)`, `dT/dI = 1/D - (1-alpha-beta) * N/D^2` and
    `dT/dP = -alpha * N/D^2`. For a gamma other than 1, `1 - T` is at least 1e-12.
    """

    eps: float
    smooth: float
    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 1.0

    def hardness(self, p: Any, g: Any) -> Any:
        """Return `p`."""
        return p

    def slope(self, p: Any, g: Any) -> Any:
        """Return 1."""
        return 1

    def parts(self, h: Any, w: Any, wg: Any) -> Any:
        """Return what a pixel adds to the sums I, P and G: `(w*g*p, w*p, w*g)`."""
        return wg * h, w * h, wg

    def at(self, g: Any, partials: Any) -> Any:
        """Return the derivative of L in `w*p`."""
        return partials[0] * g + partials[1]

    def value(self, sums: Any, count: Any) -> Any:
        """Return L."""
        # A power, since Paddle has no third derivative of a quotient, which a Hessian asks for.
        ratio = self._overlap(sums) * self._whole(sums) ** -1
        missed = linear(ratio, -2.0, 1.0)
        return missed if self.gamma == 1 else clip(missed, _LEAST_MISS, math.inf) ** self.gamma

    def partials(self, sums: Any, count: Any) -> tuple[Any, ...]:
        """Return the partial derivatives of L in I and P."""
        overlap, whole = self._overlap(sums), self._whole(sums) / 2
        outer = -1.0
        if self.gamma != 1:
            missed = 1 - overlap / whole
            steep = missed ** (self.gamma - 1) if missed >= _LEAST_MISS else 0 * missed
            outer = -self.gamma * steep
        by_whole = overlap / (whole * whole)
        both = 1 - self.alpha - self.beta
        return outer * (1 / whole - both * by_whole), -outer * self.alpha * by_whole

    # On a GPU even a product with 1 or a sum with 0 is a kernel launch.

    def _overlap(self, sums: Any) -> Any:
        """Return N."""
        return sums[0] + self.smooth / 2 if self.smooth else sums[0]

    def _whole(self, sums: Any) -> Any:
        """Return `2 * D`, in which Dice has no products."""
        found = sums[1] if self.alpha == 0.5 else linear(sums[1], 2 * self.alpha, 0.0)
        whole = found + linear(sums[2], 2 * self.beta, self.eps)
        whole = whole + self.smooth if self.smooth else whole
        both = 2 * (1 - self.alpha - self.beta)
        return whole + both * sums[0] if both else whole


_LEAST_MISS = 1e-12


class PixelLoss(Protocol):
    """A loss `l(p, g)` of a prediction and its target, pixel by pixel, as a tuple of its settings.

    A property `binary` may say that a loop is faster where it knows that every target is 0 or 1,
    and makes value and slope at once. Where `slope` is not what Paddle would find, `value` uses
    `own_slope`, as that of the cross-entropy does.
    """

    def value(self, p: Any, g: Any) -> Any:
        """Return `l`."""

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""


class Mean(NamedTuple):
    """`L = sum(w*l) / (count + eps)`, so `dL/dsum(w*l) = 1 / (count + eps)`.

    Where negatives are mined, the count is that of the positives and the chosen negatives. An
    infinite sum makes L NaN: an infinite prediction must not pass for a large loss. Of a `Tversky`
    it does so by itself.
    """

    pixel_loss: Any
    eps: float

    @property
    def reads_no_text(self) -> bool:
        """`parts` does without `w*g`, which on a GPU saves a kernel launch."""
        return True

    def hardness(self, p: Any, g: Any) -> Any:
        """Return `l`."""
        return value(self.pixel_loss, p, g)

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""
        return slope(self.pixel_loss, p, g)

    def parts(self, h: Any, w: Any, wg: Any) -> Any:
        """Return what a pixel adds to the sum: `(w*l,)`."""
        return (w * h,)

    def at(self, g: Any, partials: Any) -> Any:
        """Return the derivative of L in `w*l`."""
        return partials[0]

    def value(self, sums: Any, count: Any) -> Any:
        """Return L."""
        return sums[0] / (count + if_finite(sums[0], self.eps))

    def partials(self, sums: Any, count: Any) -> tuple[Any, ...]:
        """Return the derivative of L in the sum."""
        return (1 / (count + self.eps),)


Loss: TypeAlias = Tversky | Mean

MOST_SUMS = 3  # that a loss may be made of


class AbsoluteError(NamedTuple):
    """`l = |p - g|`, `dl/dp = sign(p - g)` with `sign(0) = 0`."""

    def value(self, p: Any, g: Any) -> Any:
        """Return `l`."""
        return absolute(p - g)

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""
        return sign(p - g)


class SquaredError(NamedTuple):
    """`l = (p - g)^2`, `dl/dp = 2 * (p - g)`."""

    def value(self, p: Any, g: Any) -> Any:
        """Return `l`."""
        return power(p - g, 2)

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""
        return linear(p - g, 2.0, 0.0)


class BinaryCrossEntropy(NamedTuple):
    """`l = -(g * log p + (1-g) * log(1-p))`, `dl/dp = (p - g) / max(p * (1-p), 1e-12)`.

    A logarithm below -100, or of a number that is not positive, counts as -100. So where p is 0 or
    1 the slope is not the derivative of the value.
    """

    @property
    def binary(self) -> bool:
        """One logarithm serves a target of 0 or 1."""
        return True

    def value(self, p: Any, g: Any) -> Any:
        """Return `l`."""
        return own_slope(self, p, g) + clipped_cross_entropy(p, g)

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""
        return (p - g) / clip(p * complement(p), 1e-12, 1)


class Focal(NamedTuple):
    """`l = alpha_t * (1 - p_t)^gamma * BCE(q, g)` with `q = clip(p, eps, 1 - eps)`.

    `p_t = q*g + (1-q)*(1-g)` and `alpha_t = alpha*g + (1-alpha)*(1-g)`. Within the clip,
    `dl/dp = alpha_t * (1-p_t)^gamma * ((q-g) / (q*(1-q)) - gamma * (2g-1) * BCE / (1-p_t))`;
    outside it the derivative is 0. The clip and `1 - q` are rounded in the dtype of p, as in
    PaddleOCR: in float32, `1 - q` is 1.0133e-6 for p = 1 and eps = 1e-6. It is never 0.
    """

    alpha: float
    gamma: float
    eps: float
    exponent: Any  # gamma, as the type that says how to raise to it

    @property
    def binary(self) -> bool:
        """One logarithm serves a target of 0 or 1."""
        return True

    @classmethod
    def of(cls, alpha: float, gamma: float, eps: float) -> "Focal":
        """Return the formula with these settings."""
        return cls(alpha, gamma, eps, exponent(gamma))

    def value(self, p: Any, g: Any) -> Any:
        """Return `l`."""
        q = within(p, self.eps)
        r = complement(q)
        weight = power(miss(q, r, g), self.exponent) * between(1 - self.alpha, self.alpha, g, p)
        return if_finite(p, 0.0) + weight * cross_entropy(q, r, g)

    def slope(self, p: Any, g: Any) -> Any:
        """Return `dl/dp`."""
        q = within(p, self.eps)
        r = complement(q)
        missed, both = miss(q, r, g), q * r
        weight = power(missed, self.exponent) * between(1 - self.alpha, self.alpha, g, p)
        through_weight = between(self.gamma, -self.gamma, g, p) * cross_entropy(q, r, g)
        # One division, which takes as long as all the rest but the logarithm.
        slope = weight * (through_weight * both + (q - g) * missed) / (missed * both)
        return where(q == p, slope, if_finite(p, 0.0))
