"""The formulas of the losses and of their gradients.

A `PixelLoss` is a loss that each pixel has for itself. `Dice` and `Mean` make one number of a map;
an engine asks them, in this order,

- `hardness(p, g)`: what each pixel brings to the sums, and what mining ranks the negatives by;
- `sums(hardness, g, w, add_up)`: the few sums over the pixels of weight w;
- `value(sums, count)`: the loss;
- `line(sums, count)`: the coefficients of the gradient;
- `slope(p, g, line)`: the gradient for a weight of 1.

Sums are those of whatever does the adding up: numbers or 0-D tensors.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import paddle
from paddle import Tensor

from dbloss import _scratch as scratch


class Dice(NamedTuple):
    """`L = 1 - (2*I + smooth) / (U + smooth)` over pixels of weight `w`.

    `I = sum(w*p*g)`, `U = sum(w*p) + sum(w*g) + eps`, and
    `dL/dp = w * (a + b*g)` with `a = (2*I + smooth) / (U + smooth)^2`, `b = -2 / (U + smooth)`.
    """

    eps: float
    smooth: float

    def value(self, sums: Any, count: Any) -> Any:
        """Return L from `(sum(w*p*g), sum(w*p), sum(w*g))`."""
        return 1 - self._overlap(sums) / self._union(sums)

    def line(self, sums: Any, count: Any) -> tuple[Any, ...]:
        """Return the coefficients `(a, b)` of the gradient."""
        union = self._union(sums)
        return self._overlap(sums) / (union * union), -2 / union

    def hardness(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `p`, which mining ranks the negatives by."""
        return p

    def sums(
        self, hardness: Tensor, g: Tensor, w: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the sums that `value` takes; `hardness` is overwritten."""
        predicted = scratch.multiply(hardness, w)
        predicted_sum = add_up(predicted)
        overlap = scratch.multiply(predicted, g)
        overlap_sum = add_up(overlap)
        labelled = scratch.multiply(scratch.replace(overlap, g), w)
        return overlap_sum, predicted_sum, add_up(labelled)

    def slope(self, p: Tensor, g: Tensor, line: tuple[Any, ...]) -> Tensor:
        """Return the gradient for a weight of 1; `p` is overwritten."""
        constant, per_target = line
        return scratch.add(scratch.multiply(scratch.replace(p, g), per_target), constant)

    def _overlap(self, sums: Any) -> Any:
        return 2 * sums[0] + self.smooth

    def _union(self, sums: Any) -> Any:
        return sums[1] + sums[2] + self.eps + self.smooth


class PixelLoss(Protocol):
    """A loss `l(p, g)` of a prediction and its target, pixel by pixel, as a tuple of its settings.

    Both methods may overwrite `p`, and neither `g`.
    """

    def __iter__(self) -> Iterator[float]:
        """Return the settings."""

    def value(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`, the shape of `p`."""

    def derivative(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `dl/dp`, the shape of `p`."""


class Mean(NamedTuple):
    """`L = sum(w * l) / (count + eps)` and `dL/dp = w * l' / (count + eps)`.

    `w` are the weights of the pixels and `count` is what they stand for: `sum(w)`, or the numbers
    of positives and chosen negatives where mining picked the weights.
    """

    pixel_loss: PixelLoss
    eps: float

    def value(self, sums: Any, count: Any) -> Any:
        """Return L from `(sum(w * l),)`."""
        (total,) = sums
        # inf - inf is NaN, so that an infinite prediction cannot pass for a large loss.
        return (total + (total - total)) / (count + self.eps)

    def line(self, sums: Any, count: Any) -> tuple[Any, ...]:
        """Return the coefficients of the gradient."""
        return (1 / (count + self.eps),)

    def hardness(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`, which mining ranks the negatives by; `p` is overwritten."""
        return self.pixel_loss.value(p, g)

    def sums(
        self, hardness: Tensor, g: Tensor, w: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the sums that `value` takes; `hardness` is overwritten."""
        return (add_up(scratch.multiply(hardness, w)),)

    def slope(self, p: Tensor, g: Tensor, line: tuple[Any, ...]) -> Tensor:
        """Return the gradient for a weight of 1; `p` is overwritten."""
        return scratch.multiply(self.pixel_loss.derivative(p, g), line[0])


Loss: TypeAlias = Dice | Mean


class AbsoluteError(NamedTuple):
    """`l = |p - t|`, `dl/dp = sign(p - t)` with `sign(0) = 0`."""

    def value(self, p: Tensor, t: Tensor) -> Tensor:
        """Return `l`."""
        return scratch.absolute(scratch.subtract(p, t))

    def derivative(self, p: Tensor, t: Tensor) -> Tensor:
        """Return `dl/dp`."""
        return paddle.sign(scratch.subtract(p, t))


class SquaredError(NamedTuple):
    """`l = (p - g)^2`, `dl/dp = 2 * (p - g)`."""

    def value(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`."""
        difference = scratch.subtract(p, g)
        return scratch.multiply(difference, difference)

    def derivative(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `dl/dp`."""
        return scratch.scale(scratch.subtract(p, g), 2.0)


class BinaryCrossEntropy(NamedTuple):
    """`l = -(g * log p + (1-g) * log(1-p))`, `dl/dp = (p - g) / max(p * (1-p), 1e-12)`.

    A logarithm below -100, or of a number that is not positive, counts as -100.
    """

    def value(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`."""
        # What is not finite is lost in a clip: 0 * p brings it back, as NaN.
        return scratch.add(_cross_entropy(p, g, -100), scratch.scale(p, 0.0))

    def derivative(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `dl/dp`."""
        variance = scratch.clip(scratch.multiply(1 - p, p), min=1e-12)
        return scratch.divide(scratch.subtract(p, g), variance)


class Focal(NamedTuple):
    """`l = alpha_t * (1 - p_t)^gamma * BCE(q, g)` with `q = clip(p, eps, 1 - eps)`.

    `p_t = q*g + (1-q)*(1-g)` and `alpha_t = alpha*g + (1-alpha)*(1-g)`. Within the clip,
    `dl/dp = alpha_t * (1-p_t)^(gamma-1) * ((1-p_t) * (q-g) / (q*(1-q)) - gamma * (2g-1) * BCE)`;
    outside it the derivative is 0.
    """

    alpha: float
    gamma: float
    eps: float

    def value(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`."""
        *_, miss = self._clipped(p, g)
        weight = scratch.multiply(_power(miss, self.gamma), self._alpha_t(g))
        value = scratch.multiply(weight, self._entropy(p, g))
        # What is not finite is lost in the clip: 0 * p brings it back, as NaN.
        return scratch.add(value, scratch.scale(p, 0.0))

    def derivative(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `dl/dp`."""
        q, not_q, miss = self._clipped(p, g)
        inside = (q == p).astype(p.dtype)
        through_weight = scratch.multiply(self._entropy(p, g), self.gamma * (2 * g - 1))
        variance = scratch.multiply(not_q, q)
        through_bce = scratch.divide(scratch.multiply(scratch.subtract(q, g), miss), variance)
        slope = scratch.subtract(through_bce, through_weight)
        slope = scratch.multiply(slope, _power(miss, self.gamma - 1))
        return scratch.multiply(scratch.multiply(slope, self._alpha_t(g)), inside)

    def _clipped(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `q`, `1 - q` and `1 - p_t`."""
        q = p.clip(self.eps, 1 - self.eps)
        # Not 1 - q: in float32 the rounding of 1 - eps would be 1 % of eps.
        not_q = scratch.clip(1 - p, self.eps, 1 - self.eps)
        return q, not_q, scratch.add(scratch.multiply(1 - g, q), not_q * g)

    def _entropy(self, p: Tensor, g: Tensor) -> Tensor:
        return _cross_entropy(p, g, math.log(self.eps), math.log1p(-self.eps))

    def _alpha_t(self, g: Tensor) -> Tensor:
        return (1 - self.alpha) + (2 * self.alpha - 1) * g


def _cross_entropy(p: Tensor, g: Tensor, least: float, most: float | None = None) -> Tensor:
    """Return `-(g * log p + (1-g) * log(1-p))` with both logarithms clipped to [least, most]."""
    log_p = scratch.clip(scratch.log(p.clip(min=0)), least, most)
    # Of a small p, 1 - p would lose digits.
    log_not_p = scratch.clip(scratch.log1p(scratch.negate(p.clip(max=1))), least, most)
    text = scratch.multiply(log_p, g)
    return scratch.negate(scratch.add(text, scratch.multiply(log_not_p, 1 - g)))


def _power(x: Tensor, exponent: float) -> Tensor:
    """Return `x^exponent`; `x` is overwritten."""
    # A power takes eight times as long as a product.
    return scratch.multiply(x, x) if exponent == 2 else x**exponent
