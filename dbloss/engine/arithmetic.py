"""What a formula calls that a tensor and a number in a compiled loop have to do differently.

The functions here take tensors; `engine/loops.py` gives each the body that it has in a loop. There
a target may also be a bool, where every one of them is 0 or 1: that saves a logarithm.
"""

from typing import Any, NamedTuple

import paddle
from paddle import Tensor

from dbloss.base.tensors import constant, unchanged, without_amp


def value(loss: Any, p: Any, g: Any) -> Any:
    """Return the loss of each pixel: a loop cannot call a method of what a tuple holds."""
    return loss.value(p, g)


def slope(loss: Any, p: Any, g: Any) -> Any:
    """Return its derivative in p."""
    return loss.slope(p, g)


def own_slope(loss: Any, p: Any, g: Any) -> Any:
    """Return 0, or NaN where p is not finite; its derivative in p is `loss.slope`."""
    fixed = constant(p)
    zero = p - fixed
    if zero.stop_gradient:
        return zero
    if not paddle.in_dynamic_mode():
        return loss.slope(fixed, g) * zero
    check = unchanged(p, g)

    def times_slope(upstream: Tensor) -> Tensor:
        check()
        with without_amp():
            return upstream * loss.slope(p, g)

    zero.register_hook(times_slope)
    return zero


def cross_entropy(q: Any, r: Any, g: Any) -> Any:
    """Return `-(g * log q + (1-g) * log r)` for q between 0 and 1, of which r is the complement."""
    return (g - 1) * (paddle.log(r) - _lost(q, r)) - g * paddle.log(q)


def clipped_cross_entropy(p: Any, g: Any) -> Any:
    """Return `-(g * log p + (1-g) * log(1-p))` without a gradient, and by way of no infinity.

    A logarithm below -100, or of a number that is not positive, counts as -100.
    """
    p = constant(p)
    r = complement(p)
    above = paddle.stack([p, r]).clip(min=3.64e-44)  # whose logarithm is -100.02
    log_p, log_r = paddle.log(above).clip(min=-100).unbind()
    return (g - 1) * (log_r - _lost(p, r)) - g * log_p


def _lost(q: Tensor, r: Tensor) -> Tensor:
    """Return what a small q has lost in r, its complement: log r is too large by it.

    log1p would keep it, but has no second derivative, and takes a CPU more than twice as long.
    """
    return (constant(r) - 1) + constant(q)


def clip(x: Any, least: float, most: float) -> Any:
    """Return `min(max(x, least), most)`."""
    return x.clip(least, most)


def within(p: Any, eps: float) -> Any:
    """Return p clipped to [eps, 1 - eps], and below 1 where its dtype rounds that to 1."""
    return clip(p, eps, 1 - max(eps, float(paddle.finfo(p.dtype).eps) / 2))


def miss(q: Any, r: Any, g: Any) -> Any:
    """Return q where g is 0, its complement r where it is 1, and a share of both in between."""
    return q + g * (r - q)


def between(q: float, r: float, g: Any, like: Any) -> Any:
    """Return the same for any two numbers, in the dtype of `like`."""
    return linear(g, r - q, q)


def complement(x: Any) -> Any:
    """Return `1 - x`."""
    return linear(x, -1.0, 1.0)


def if_finite(x: Any, number: float) -> Any:
    """Return a number, or NaN where x is not finite; it has no gradient."""
    return linear(x if isinstance(x, float) else constant(x), 0.0, number)


def linear(x: Any, slope: float, offset: float) -> Any:
    """Return `slope * x + offset`."""
    return slope * x + offset if isinstance(x, float) else paddle.scale(x, slope, offset)


class Half(NamedTuple):
    """The number `whole + 1/2`, as an exponent."""

    whole: int


def exponent(number: float) -> Any:
    """Return a number as the type that says how to raise to it: by products, a root, a logarithm.

    A power takes a tensor forty times as long as a product or a root, and a loop ten times.
    """
    whole, half = divmod(number, 1)
    if whole > 7 or half not in (0, 0.5):
        return float(number)
    return Half(int(whole)) if half else int(whole)


def power(x: Any, exponent: Any) -> Any:
    """Return `x^exponent` for x above 0."""
    if isinstance(exponent, Half):
        return power(x, exponent.whole) * paddle.sqrt(x)
    return paddle.square(x) if exponent == 2 else x**exponent


def absolute(x: Any) -> Any:
    """Return `|x|`."""
    return x.abs()


def sign(x: Any) -> Any:
    """Return -1, 0 or 1."""
    return paddle.sign(x)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return x where the condition holds, y elsewhere."""
    return paddle.where(condition, x, y)
