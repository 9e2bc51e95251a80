"""The binary cross-entropy of a pixel."""

from typing import NamedTuple

from paddle import Tensor

from dbloss.engine import scratch


class BinaryCrossEntropy(NamedTuple):
    """`l = -(g * log p + (1-g) * log(1-p))`, `dl/dp = (p - g) / max(p * (1-p), 1e-12)`.

    A logarithm below -100, or of a number that is not positive, counts as -100.
    """

    def value(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`."""
        # What is not finite is lost in a clip: 0 * p brings it back, as NaN.
        return scratch.add(cross_entropy(p, g, -100), scratch.scale(p, 0.0))

    def derivative(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `dl/dp`."""
        variance = scratch.clip(scratch.multiply(1 - p, p), min=1e-12)
        return scratch.divide(scratch.subtract(p, g), variance)


def cross_entropy(p: Tensor, g: Tensor, least: float, most: float | None = None) -> Tensor:
    """Return `-(g * log p + (1-g) * log(1-p))` with both logarithms clipped to [least, most]."""
    log_p = scratch.clip(scratch.log(p.clip(min=0)), least, most)
    # Of a small p, 1 - p would lose digits.
    log_not_p = scratch.clip(scratch.log1p(scratch.negate(p.clip(max=1))), least, most)
    text = scratch.multiply(log_p, g)
    return scratch.negate(scratch.add(text, scratch.multiply(log_not_p, 1 - g)))
