"""What keeps `paddle.jit.to_static` from translating the Python of this package."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import paddle

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


def untranslated(function: _Function) -> _Function:
    """Keep Paddle from translating `function`, which must not depend on the value of a tensor.

    Its Python then runs once, while the graph is built, and the graph holds the operators it calls.
    """
    if not paddle.__version__.startswith("2."):
        function = _outside_traces(function)
    paddle.jit.not_to_static(function)
    return function


def _outside_traces(function: Any) -> Any:
    """Return `function` so that Paddle traces neither it nor what it calls.

    A layer that is `untraced` runs between two graphs, and Paddle would trace what it calls again.
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
    """Keep a layer out of the graphs that Paddle traces (`full_graph=False`).

    It runs in eager mode between two graphs: traced, it corrupts memory. This does not cover
    subclasses, where Paddle could then not follow `super()`; what they call of this package runs
    in eager mode all the same.
    """
    marker = getattr(paddle.jit, "marker", None)  # Paddle 3.0 has none
    if marker is not None:
        marker.force_dynamic(layer)
    return layer
