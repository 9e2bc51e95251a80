"""What a formula calls that a tensor and a number in a compiled loop have to do differently.

The functions here take tensors; `engine/loops.py` gives each the body that it has in a loop. There
a target may also be a bool, where every one of them is 0 or 1: that saves a logarithm.
"""

import math
from typing import Any, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from dbloss.base.tensors import constant, unchanged, without_amp


def value(loss: Any, p: Any, g: Any) -> Any:
    """Return the loss of each pixel, differentiable in p."""
    if not getattr(loss, "clips", False):
        return loss.value(p, g)
    fixed = constant(p)
    with paddle.no_grad():
        values = loss.value(fixed, g)
    zero = p - fixed  # whose derivative is made the slope
    if zero.stop_gradient:
        return values
    if not paddle.in_dynamic_mode():
        return values + loss.slope(fixed, g) * zero
    check = unchanged(p, g)

    def times_slope(upstream: Tensor) -> Tensor:
        check()
        with without_amp():
            return upstream * loss.slope(p, g)

    zero.register_hook(times_slope)
    return values + zero


def slope(loss: Any, p: Any, g: Any) -> Any:
    """Return its derivative in p."""
    return loss.slope(p, g)


def cross_entropy(q: Any, g: Any, least: float) -> Any:
    """Return `-(g * log q + (1-g) * log(1-q))`.

    `least` is a number that q and 1 - q are not below, 0 if there is none. Then a logarithm below
    -100, or of a number that is not positive, counts as -100. Nothing infinite arises on the way.
    """
    # For a small q, 1 - q has lost digits. log1p would keep them, but has no second derivative.
    if least:
        r = complement(q)
        with paddle.no_grad():
            lost = (constant(r) - 1) + constant(q)
        return (g - 1) * (paddle.log(r) - lost) - g * paddle.log(q)
    return (g - 1) * _log_of_complement(q) - g * _log(q)


def _log(x: Tensor) -> Tensor:
    tiny = max(float(paddle.finfo(x.dtype).tiny), math.exp(-100))
    log = paddle.log(x.clip(min=tiny))
    short = math.log(tiny) + 100
    if short < 1:
        return log
    # Below the smallest normal number of float32 a straight line leads down to -100.
    return log - short * F.hardsigmoid(x, -1 / tiny, 1.0)


def _log_of_complement(x: Tensor) -> Tensor:
    is_one = x.clip(0, 1).floor()
    return paddle.log1p(is_one - x.clip(max=1)) - 100 * is_one


def clip(x: Any, least: float, most: float) -> Any:
    """Return `min(max(x, least), most)`."""
    return x.clip(least, most)


def within(p: Any, eps: float) -> Any:
    """Return p clipped to [eps, 1 - eps], and below 1 where its dtype rounds that to 1."""
    return clip(p, eps, 1 - max(eps, float(paddle.finfo(p.dtype).eps) / 2))


def mix(q: Any, r: Any, g: Any) -> Any:
    """Return q where g is 0, r where it is 1, and a share of both in between."""
    return q + g * (r - q)


def between(q: float, r: float, g: Any, like: Any) -> Any:
    """Return the same for two numbers, in the dtype of `like`."""
    return linear(g, r - q, q)


def complement(x: Any) -> Any:
    """Return `1 - x`."""
    return linear(x, -1.0, 1.0)


def nan_unless_finite(x: Any) -> Any:
    """Return 0, or NaN where x is not finite, which a clip of x would hide."""
    return linear(x, 0.0, 0.0)


def unless_infinite(x: Any, number: float) -> Any:
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
