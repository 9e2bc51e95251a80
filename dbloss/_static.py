"""What keeps `paddle.jit.to_static` from translating the Python of this package."""

from collections.abc import Callable
from typing import Any, TypeVar

import paddle

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


def untranslated(function: _Function) -> _Function:
    """Keep a static graph from translating `function`, which asks no tensor for its value.

    Its Python runs once, and the graph holds the operators it calls.
    """
    paddle.jit.not_to_static(function)
    return function


def untraced(layer: _Class) -> _Class:
    """Keep the graphs that Paddle traces (`full_graph=False`) from holding a layer.

    It runs between two of them, in eager mode: traced, it corrupts memory. Not for subclasses, in
    which Paddle then cannot follow `super()`; what they call of this package runs in eager mode.
    """
    marker = getattr(paddle.jit, "marker", None)  # Paddle 3.0 has none
    if marker is not None:
        marker.force_dynamic(layer)
    return layer
