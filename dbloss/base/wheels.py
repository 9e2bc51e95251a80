"""Imports Paddle before anything else does, and says what to install where it cannot.

The wheels of Paddle for a CPU and for a GPU unpack into one folder. Where both were installed,
Paddle may be found broken, or be imported and not be what was asked for. The four wheels of OpenCV
share a folder too.
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
    """Return what pip takes for this package with an extra.

    Pip takes the extras of the package that is installed, wherever that came from. A checkout that
    is not installed has a path alone.
    """
    try:
        distribution("dbloss")
    except PackageNotFoundError:
        return f"{Path(__file__).parents[2]}[{extra}]"
    return f"dbloss[{extra}]"


def two_wheels() -> str:
    """Return what is wrong and what to do where wheels of Paddle share a folder, "" elsewhere."""
    for folder, wheels in _sharing("paddle", _PADDLE):
        return _clash_text(folder, wheels) + (
            "and then install one of the two:\n"
            f'  CPU: pip install "{with_extra("cpu")}"\n'
            "  GPU: the wheel for your CUDA version:"
            " https://www.paddlepaddle.org.cn/en/install/quick\n"
            "Of the extras of dbloss cpu, test and dev bring the CPU wheel, no other any."
        )
    return ""


def opencvs() -> str:
    """Return the wheels of OpenCV that are installed."""
    wheels = (each for _, wheels in _folders("cv2", _OPENCV) for each in wheels)
    return ", ".join(f"{_name(each)} {each.version}" for each in wheels)


def two_opencvs() -> str:
    """Return the same for wheels of OpenCV, where their versions differ.

    Two of one version, as PaddleOCR's requirements bring them, hold the same functions.
    """
    for folder, wheels in _sharing("cv2", _OPENCV):
        if len({wheel.version for wheel in wheels}) > 1:
            again = (f"  pip install {_name(each)}=={each.version}\n" for each in wheels)
            return _clash_text(folder, wheels) + (
                "and then install one of them:\n"
                f"{''.join(again)}"
                "The extras targets, examples, test and dev of dbloss bring opencv-python-headless."
                " Beside another OpenCV install what dbloss lacks by its name: pip install dbloss"
                " numba pyclipper"
            )
    return ""


@functools.cache
def check_opencv() -> None:
    """Warn of two wheels of OpenCV, once, and raise where what is left of them has no function."""
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
    """Return the wheels of these names that are installed, by the folder of their module."""
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
