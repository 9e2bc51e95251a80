"""What keeps `paddle.jit.to_static` from translating the Python of this package."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import paddle

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


def untranslated(function: _Function) -> _Function:
    """Keep a static graph from translating `function`, which asks no tensor for its value.

    Its Python runs once, and the graph holds the operators it calls.
    """
    if not paddle.__version__.startswith("2."):
        function = _outside_traces(function)
    paddle.jit.not_to_static(function)
    return function


def _outside_traces(function: Any) -> Any:
    """Return a function that Paddle does not trace, nor what it calls.

    A layer that `untraced` leaves out of a graph runs between two of them, and what it calls would
    be traced again.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        tracer = paddle.framework.core.set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            paddle.framework.core.set_eval_frame(tracer)

    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return run


def untraced(layer: _Class) -> _Class:
    """Keep the graphs that Paddle traces (`full_graph=False`) from holding a layer.

    It runs between two of them, in eager mode: traced, it corrupts memory. Not for subclasses, in
    which Paddle then cannot follow `super()`; what they call of this package runs in eager mode.
    """
    marker = getattr(paddle.jit, "marker", None)  # Paddle 3.0 has none
    if marker is not None:
        marker.force_dynamic(layer)
    return layer
