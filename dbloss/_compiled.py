"""What compiles the loops of this package."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*signature: str, fastmath: set[str]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function which lets other threads run.

    With a signature it is compiled where it is defined, without one at its first call. `fastmath`
    says what the arithmetic may leave out; NaN and infinity keep their meaning.
    """
    # A division is an instruction, not a test for zero.
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(*signature, cache=True, **options)(function)
        except RuntimeError:  # no folder to keep compiled code in
            return njit(*signature, **options)(function)

    return compile_it
