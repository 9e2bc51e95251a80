"""Imports Paddle before anything else does, and says what to install if that fails.

The wheels of Paddle for a CPU and for a GPU unpack into the same folder. If both were installed,
Paddle may be broken, or be another one than was asked for. The four wheels of OpenCV share a folder
too.
"""

import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_PADDLE = ("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu", "paddlepaddle-dcu")
_OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def with_extra(extra: str) -> str:
    """Return what to pass to `pip install` for this package with an extra.

    If the package is installed its name will do, wherever it came from. A checkout that is not
    installed has only a path.
    """
    try:
        distribution("dbloss")
    except PackageNotFoundError:
        return f"{Path(__file__).parents[2]}[{extra}]"
    return f"dbloss[{extra}]"


def two_wheels() -> str:
    """Return what to do about several wheels of Paddle in one folder, "" if there are none."""
    for folder, wheels in _sharing("paddle", _PADDLE):
        return _clash_text(folder, wheels) + (
            "and then install one of the two:\n"
            f'  CPU: pip install "{with_extra("cpu")}"\n'
            "  GPU: the wheel for your CUDA version:"
            " https://www.paddlepaddle.org.cn/en/install/quick\n"
            "Of the extras of dbloss, cpu and test bring the CPU wheel, and no other brings"
            " Paddle."
        )
    return ""


def opencvs() -> str:
    """Return names and versions of the wheels of OpenCV that are installed."""
    wheels = (each for _, wheels in _folders("cv2", _OPENCV) for each in wheels)
    return ", ".join(f"{_name(each)} {each.version}" for each in wheels)


def two_opencvs() -> str:
    """Return the same for wheels of OpenCV, if their versions differ.

    Two of the same version, which PaddleOCR's requirements install, have the same functions.
    """
    for folder, wheels in _sharing("cv2", _OPENCV):
        if len({wheel.version for wheel in wheels}) > 1:
            again = (f"  pip install {_name(each)}=={each.version}\n" for each in wheels)
            return _clash_text(folder, wheels) + (
                "and then install one of them:\n"
                f"{''.join(again)}"
                "The extras targets, examples and test of dbloss bring opencv-python-headless."
                " Beside another OpenCV install what dbloss needs by name: pip install dbloss numba"
                " pyclipper"
            )
    return ""


@functools.cache
def check_opencv() -> None:
    """Warn of two wheels of OpenCV, once, and raise if what is left of them has no functions."""
    import cv2

    if clash := two_opencvs():
        logging.getLogger("dbloss").warning(clash)
    if not hasattr(cv2, "fillPoly"):
        here = [str(each) for each in getattr(cv2, "__path__", ())]
        left = [wheels[0] for folder, wheels in _folders("cv2", _OPENCV) if folder in here]
        names = " ".join(f"{_name(each)}=={each.version}" for each in left)
        raise ImportError(
            "dbloss needs OpenCV, which is broken: cv2 has no functions, as where one of two wheels"
            " that share its folder was uninstalled. Install it again: pip install"
            f" --force-reinstall --no-deps {names or 'opencv-python-headless'}"
        )


def _name(wheel: Distribution) -> str:
    name: str = wheel.metadata["Name"]
    return name


def _folders(module: str, names: Sequence[str]) -> list[tuple[str, list[Distribution]]]:
    """Return those of the named wheels that are installed, by the folder of their module."""
    folders: dict[str, list[Distribution]] = {}
    for name in names:
        with suppress(PackageNotFoundError):
            wheel = distribution(name)
            folders.setdefault(str(wheel.locate_file(module)), []).append(wheel)
    return list(folders.items())


def _sharing(module: str, names: Sequence[str]) -> list[tuple[str, list[Distribution]]]:
    return [(folder, wheels) for folder, wheels in _folders(module, names) if len(wheels) > 1]


def _clash_text(folder: str, wheels: Sequence[Distribution]) -> str:
    found = (f"{_name(wheel)} {wheel.version}" for wheel in wheels)
    return (
        f"{' and '.join(found)} are {'both' if len(wheels) == 2 else 'all'} installed in {folder},"
        " and one has written over files of the other. Uninstalling one takes files from both, so"
        f" uninstall both:\n  pip uninstall -y {' '.join(map(_name, wheels))}\n"
    )


@contextmanager
def _without_ccache() -> Iterator[None]:
    """Hide the warning that Paddle finds no ccache, which only matters for compiling C++.

    Afterwards the warning filters are as before, apart from those that an import has added.
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
