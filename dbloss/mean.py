"""The weighted mean of a loss that every pixel has for itself."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from paddle import Tensor

from dbloss.engine import scratch


class PixelLoss(Protocol):
    """A loss `l(p, g)` of a prediction and its target, pixel by pixel. Both may overwrite `p`."""

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

    def values(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `l`, which mining ranks the negatives by; `p` is overwritten."""
        return self.pixel_loss.value(p, g)

    def sums(
        self, values: Tensor, g: Tensor, w: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the sums that `value` takes; `values` are overwritten."""
        return (add_up(scratch.multiply(values, w)),)

    def slope(self, p: Tensor, g: Tensor, line: tuple[Any, ...]) -> Tensor:
        """Return the gradient per unit of weight; `p` is overwritten."""
        return scratch.multiply(self.pixel_loss.derivative(p, g), line[0])
