"""What a formula calls that a tensor and a number in a compiled loop have to do differently.

The functions here take tensors; `engine/loops.py` gives each the body that it has in a loop. There
a target may also be a bool, where every one of them is 0 or 1: that saves a logarithm.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor

from dbloss._tensors import constant, unchanged, without_amp


def value(loss: Any, p: Any, g: Any) -> Any:
    """Return the loss of each pixel, differentiable in p."""
    if not getattr(loss, "clips", False):
        return loss.value(p, g)
    fixed = constant(p)
    with paddle.no_grad():
        values = loss.value(fixed, g)
    if p.stop_gradient:
        return values
    zero = p - fixed  # whose derivative is made the slope
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


def cross_entropy(q: Any, r: Any, g: Any, least: float) -> Any:
    """Return `-(g * log q + (1-g) * log r)` with `r = 1 - q`.

    `least` is a number that q and r are not below, 0 if there is none. Then a logarithm below -100,
    or of a number that is not positive, counts as -100. Nothing infinite arises on the way.
    """
    log = paddle.log if least else _log
    with paddle.no_grad():  # of a small q, 1 - q has lost digits
        lost = (constant(r) - 1) + constant(q)
    return (g - 1) * (log(r) - lost) - g * log(q)


def _log(x: Tensor) -> Tensor:
    tiny = max(float(paddle.finfo(x.dtype).tiny), math.exp(-100))
    log = paddle.log(x.clip(min=tiny))
    short = math.log(tiny) + 100
    if short < 1:
        return log
    # Below the numbers that float32 holds in full it goes down in a line.
    return log + paddle.scale(x.clip(0, tiny) * (1 / tiny), short, -short)


def clip(x: Any, least: float, most: float) -> Any:
    """Return `min(max(x, least), most)`."""
    return x.clip(least, most)


def within(p: Any, eps: float) -> tuple[Any, Any]:
    """Return p and 1 - p, clipped to [eps, 1 - eps]; at the ends and beyond the derivative is 0."""
    # Paddle's clip has the derivative 1 at its own ends. So they are the last numbers inside, of
    # 1 - p those that its rounding cannot have taken there from outside.
    dtype = np.float64 if p.dtype == paddle.float64 else np.float32
    least, most = dtype(eps), dtype(1 - eps)
    first = float(np.nextafter(least, dtype(1)) if least <= eps else least)
    last = float(np.nextafter(most, dtype(0)) if most >= 1 - eps else most)
    return p.clip(first, last), (1 - p).clip(first, float(np.nextafter(most, dtype(0))))


def mix(q: Any, r: Any, g: Any) -> Any:
    """Return q where g is 0, `r = 1 - q` where it is 1, and a share of both in between."""
    return q + g * (r - q)


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
