"""Imports Paddle before anything else does, and says what to install where it cannot.

The wheels of Paddle for a CPU and for a GPU unpack into one folder. Where both were installed,
Paddle may be found broken, or be imported and not be what was asked for.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_WHEELS = ("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu", "paddlepaddle-dcu")


def with_extra(extra: str) -> str:
    """Return what pip takes for this package with an extra.

    Pip takes the extras of the package that is installed, wherever that came from. A checkout that
    is not installed has a path alone.
    """
    try:
        distribution("dbloss")
    except PackageNotFoundError:
        return f"{Path(__file__).parents[1]}[{extra}]"
    return f"dbloss[{extra}]"


def two_wheels() -> str:
    """Return what is wrong and what to do where wheels share a folder, an empty text elsewhere."""
    folders: dict[str, list[Distribution]] = {}
    for name in _WHEELS:
        try:
            wheel = distribution(name)
        except PackageNotFoundError:
            continue
        folders.setdefault(str(wheel.locate_file("paddle")), []).append(wheel)
    for folder, wheels in folders.items():
        if len(wheels) > 1:
            names = [wheel.metadata["Name"] for wheel in wheels]
            found = (f"{name} {wheel.version}" for name, wheel in zip(names, wheels))
            return (
                f"{' and '.join(found)} are both installed in {folder}, and one has written over"
                " files of the other. Uninstalling one takes files from both, so uninstall both:\n"
                f"  pip uninstall -y {' '.join(names)}\n"
                "and then install one of the two:\n"
                f'  CPU: pip install "{with_extra("cpu")}"\n'
                "  GPU: the wheel for your CUDA version:"
                " https://www.paddlepaddle.org.cn/en/install/quick\n"
                "Of the extras of dbloss cpu, test and dev bring the CPU wheel, no other any."
            )
    return ""


@contextmanager
def _without_ccache() -> Iterator[None]:
    """Leave out that Paddle finds no ccache, which speeds up compiling C++ that nothing here has.

    The filters of warnings are then as they were, but for those that an import has added.
    """
    warnings.filterwarnings("ignore", "No ccache found", UserWarning)
    ours = warnings.filters[0]
    try:
        yield
    finally:
        with suppress(ValueError):
            warnings.filters.remove(ours)  # type: ignore[attr-defined]


_clash = two_wheels()
try:
    with _without_ccache():
        import paddle  # noqa: F401
except Exception as error:
    if _clash:
        raise ImportError(f"dbloss needs PaddlePaddle, which is broken. {_clash}") from error
    if not isinstance(error, ModuleNotFoundError) or error.name != "paddle":
        raise
    raise ImportError(
        "dbloss needs PaddlePaddle, which is not installed. Install one of the two:\n"
        f'  CPU: pip install "{with_extra("cpu")}"\n'
        "  GPU: pip install paddlepaddle-gpu   "
        "(the wheel for your CUDA version: https://www.paddlepaddle.org.cn/en/install/quick)"
    ) from error
if _clash:
    logging.getLogger("dbloss").warning(_clash)
