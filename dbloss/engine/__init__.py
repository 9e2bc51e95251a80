"""The two sweeps over the pixels: one that makes the losses, one that writes the gradient.

An engine is a function `sweep(maps, terms)`. It returns the loss of every term, 0-D float32,
and a function that takes the gradients of those losses and returns the gradient of `maps`.
Engines know formulas and tensors, and no Layer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from dbloss.engine import operators

if TYPE_CHECKING:
    from dbloss.dice import Dice
    from dbloss.mean import Mean
    from dbloss.mining import Balance


class Term(NamedTuple):
    """One loss on one channel of the maps."""

    loss: "Dice | Mean"
    target: Tensor
    mask: Tensor
    channel: int = 0
    balance: "Balance | None" = None


def evaluate(maps: Tensor, terms: Sequence[Term]) -> tuple[Tensor, ...]:
    """Return the loss of every term, 0-D float32, each differentiable in `maps`.

    `maps` is `[N, C, H, W]`, or `[N, H, W]` for one channel; targets and masks are `[N, H, W]`
    and constant.
    """
    if not terms:
        return ()
    # Sums over a million pixels overflow in float16: the dtypes here are chosen, not cast by AMP.
    with paddle.amp.auto_cast(enable=False):
        losses: tuple[Tensor, ...] = _Sweeps.apply(maps, terms)
    return losses


class _Sweeps(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, maps: Tensor, terms: Sequence[Term]) -> tuple[Tensor, ...]:
        losses, ctx.gradient = operators.sweep(maps, terms)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        with paddle.amp.auto_cast(enable=False):
            gradient: Tensor = ctx.gradient(upstream)
        return gradient
