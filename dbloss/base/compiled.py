"""What compiles the loops of this package."""

import logging
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event


class _Announcer(event.Listener):  # type: ignore[misc]
    """Says, once for each module, that its loops are compiled: nobody shall wait in silence.

    Numba tells before it compiles, and tells nothing where it loads what it has kept.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._depth = 0  # a loop is compiled, and inside it the functions that it calls

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        module = str(dispatcher.py_func.__module__)
        if self._depth == 0 and module.startswith("dbloss.") and module not in self.said:
            self.said.add(module)
            folder = dispatcher.stats.cache_path
            # A warning is what is seen where nobody has configured logging.
            logging.getLogger("dbloss").warning(
                "Compiling the loops of %s, which takes some seconds; %s",
                module,
                f"later processes load them from {folder}" if folder else "no folder keeps them",
            )
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1


ANNOUNCER = _Announcer()
event.register("numba:compile", ANNOUNCER)


class _Compiled:
    """A compiled function that is kept on disk, and does without where the disk refuses."""

    def __init__(self, function: Callable[..., Any], *signature: str, **options: Any) -> None:
        compile_it: Any = njit
        self._without_cache = lambda: compile_it(*signature, **options)(function)
        try:
            self._run = compile_it(*signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # no folder to keep compiled code in, or a full disk
            self._run = self._without_cache()

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._run(*arguments)
        except (OSError, ImportError, AttributeError, pickle.PickleError):
            # The disk is full, or what is on it is of a class that is not there any more.
            self._run = self._without_cache()
            return self._run(*arguments)


def options(fastmath: set[str]) -> dict[str, Any]:
    """Return how a loop is compiled: it lets other threads run.

    `fastmath` says what the arithmetic may leave out; NaN and infinity keep their meaning.
    """
    # A division is an instruction, not a test for zero.
    return {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}


def compiled(
    *signature: str, fastmath: set[str], sources: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function which Python calls, and keeps it on disk.

    With a signature it is compiled where it is defined, without one at its first call. `sources`
    are further files whose code is compiled into it: numba itself looks at no file but that of the
    function, and would go on with what it has kept when they change.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        # The name is part of what numba looks for on disk.
        code = b"".join(Path(source).read_bytes() for source in sources)
        function.__qualname__ += f"_{zlib.crc32(code):x}" if sources else ""
        return _Compiled(function, *signature, **options(fastmath))

    return compile_it
