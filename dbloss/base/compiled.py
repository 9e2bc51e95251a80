"""Compiles the loops of this package with numba, and keeps the code on disk."""

import logging
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import event


class _Announcer(event.Listener):  # type: ignore[misc]
    """Logs, once for each module, that its loops are being compiled, which takes a while.

    Numba reports this event before it compiles, and not when it loads code from disk.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._depth = 0  # above 0 for functions that are compiled as part of a loop

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        module = str(dispatcher.py_func.__module__)
        if self._depth == 0 and module.startswith("dbloss.") and module not in self.said:
            self.said.add(module)
            folder = dispatcher.stats.cache_path
            # A warning, since these are shown even if nobody has configured logging.
            logging.getLogger("dbloss").warning(
                "Compiling the loops of %s, which takes some seconds; %s",
                module,
                f"later processes load them from {folder}" if folder else "they cannot be kept",
            )
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1


ANNOUNCER = _Announcer()
event.register("numba:compile", ANNOUNCER)


class _Compiled:
    """A compiled function that is kept on disk, or only in memory if the disk cannot be used."""

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
            # The disk is full, or the code on it refers to a class that no longer exists.
            self._run = self._without_cache()
            return self._run(*arguments)


def options(fastmath: set[str]) -> dict[str, Any]:
    """Return numba's options for a loop that lets other threads run.

    `fastmath` are the rules that the arithmetic may break; NaN and infinity keep their meaning.
    """
    # With the error model of NumPy a division does not check for zero.
    return {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}


def compiled(
    *signature: str, fastmath: set[str], sources: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function for Python to call, and keeps it on disk.

    With a signature it is compiled at its definition, without one at its first call. `sources` are
    further files whose code is compiled into it: numba itself checks only the file of the function
    for changes, and would keep using old code when the others change.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        # Numba finds code on disk by the name of the function, among others.
        code = b"".join(Path(source).read_bytes() for source in sources)
        function.__qualname__ += f"_{zlib.crc32(code):x}" if sources else ""
        return _Compiled(function, *signature, **options(fastmath))

    return compile_it
