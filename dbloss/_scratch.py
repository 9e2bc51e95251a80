"""Operators that put their result where their first argument stood.

On a CPU fresh memory costs more than the arithmetic. In a static graph nothing has memory yet, and
each is the plain operator there: use what it returns, and its first argument no more.
"""

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor


def _in_place(name: str) -> Callable[..., Tensor]:
    def operator(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        eager = paddle.in_dynamic_mode()
        result: Tensor = getattr(x, f"{name}_" if eager else name)(*args, **kwargs)
        return result

    return operator


absolute = _in_place("abs")
add = _in_place("add")
clip = _in_place("clip")
divide = _in_place("divide")
log = _in_place("log")
log1p = _in_place("log1p")
multiply = _in_place("multiply")
negate = _in_place("neg")
scale = _in_place("scale")
subtract = _in_place("subtract")


def replace(x: Tensor, y: Tensor) -> Tensor:
    """Return a copy of `y`."""
    return paddle.assign(y, x) if paddle.in_dynamic_mode() else y


def constant(x: Tensor) -> Tensor:
    """Return `x` without gradient: a view, but in a static graph a copy.

    A view there lets operators that work in place, and in parallel, write over what it shows.
    """
    if paddle.in_dynamic_mode():
        return x.detach()
    copy = paddle.assign(x)
    copy.stop_gradient = True
    return copy
