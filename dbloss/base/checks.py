"""What several modules check.

Every message says what was expected, what came and what to do. One about an argument of a single
module stands in that module.
"""

import inspect
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib.util import find_spec
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dbloss.base import help as _help

if TYPE_CHECKING or not _help.ALONE:
    import paddle

    from dbloss.base.wheels import check_opencv

# A slip of one letter in a name of five or more, two swapped ones included, is as close as this.
# `bbce_loss`, which another DB loss reads, is not as close to `balance_loss`, and is no slip.
_CLOSE = 0.8

# Beyond this float32 does not tell one pixel from the next.
FARTHEST = 2.0**24

# For what a user must see though PaddleOCR's data code has Python's warnings ignored.
LOGGER = logging.getLogger("dbloss")


# Messages


def wrong(name: str, expected: str, got: Any, advice: str) -> ValueError:
    """Return the error for an argument whose type is right and whose value is not.

    A message too long for one line of code is clearer written out as a single text, in this form.
    """
    return ValueError(f"{name}: expected {expected}, got {got}. {advice}")


def wrong_type(name: str, expected: str, value: Any, advice: str) -> TypeError:
    """Return the error for an argument of the wrong type."""
    return TypeError(f"{name}: expected {expected}, got {describe(value)}. {advice}")


def describe(value: Any) -> str:
    """Return what a message says of a value: its type, and as much of it as is short."""
    if value is None:
        return "None"
    if paddle.is_tensor(value):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, bool | int | float | str):
        return f"{type(value).__name__} {value!r}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


# Settings


def number(name: str, value: Any, **bounds: float) -> float:
    """Return `value` as a float if it is finite and within the bounds, raise otherwise.

    The bounds are those of `_within`. A number written as text is read: YAML takes 1e-6 for text.
    """
    return _within(name, value, "finite", **bounds)


def whole(name: str, value: Any, **bounds: float) -> int:
    """Return `value` as an int if it is a whole number within the bounds, raise otherwise."""
    return int(_within(name, value, "whole", **bounds))


def _within(
    name: str,
    value: Any,
    kind: str,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    bounds = {"above": above, "below": below, "at least": least, "at most": most}
    limits = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
    expected = f"a {kind} number {' and '.join(limits)}".strip()
    if isinstance(value, str):
        value = _read_number(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_type(name, expected, value, "Pass a Python number.")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    fits = above < as_float < below and least <= as_float <= most and math.isfinite(as_float)
    if not fits or (kind == "whole" and not as_float.is_integer()):
        raise wrong(name, expected, value, f"Change {name}.")
    return as_float


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is True, False, 1 or 0, raise otherwise."""
    if not isinstance(value, np.bool_ | Real) or value not in (0, 1):
        raise wrong_type(name, "True or False", value, "Pass a Python bool.")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str], advice: str = "") -> str:
    """Return `value` if it is one of the allowed names, raise otherwise."""
    if value not in allowed:
        small = {each.lower(): each for each in allowed}
        close = get_close_matches(str(value).lower(), small, n=1)
        hint = f"Did you mean {small[close[0]]!r}?" if close else "Correct the spelling."
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}."
            f" {advice or f'{hint} Upper and lower case count.'}"
        )
    return str(value)


def group(value: Any, asked_for: bool, option: str = "global_batch") -> Any:
    """Return `value` if it is None, or a group where the option asks for one, raise otherwise."""
    if value is None:
        return None
    if not hasattr(value, "nranks"):
        raise TypeError(
            f"group: expected a group of processes or None, got {describe(value)}."
            " Pass what paddle.distributed.new_group returns, or None for all processes."
        )
    if not asked_for:
        raise ValueError(
            f"group: expected None with {option}=False, where nothing reads it, got a group."
            f" Add {option}=True, or leave the group out."
        )
    return value


def unknown(
    layer: type, kwargs: Mapping[str, Any], reported: Collection[str] | None = None
) -> None:
    """Report keyword arguments that `layer` does not know, raise if one is close to what it knows.

    `name` is PaddleOCR's own and passes. So does a known name after a word and an underscore, which
    is the setting of another part, as `det_box_type`. `reported` are those to report, None for all.
    """
    parameters = inspect.signature(layer).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    for name in sorted(set(kwargs) - {"name"}):
        for meant in get_close_matches(name.lower(), known, n=1, cutoff=_CLOSE):
            if not name.endswith(f"_{meant}"):
                raise TypeError(
                    f"{layer.__name__} does not know {name!r}. Did you mean {meant!r}? Correct the"
                    " spelling, or delete it."
                )
    names = sorted({*(kwargs if reported is None else reported)} - {"name"})
    if names:
        LOGGER.warning(
            "%s does not know %s and leaves it unused. Correct the spelling, or delete it.",
            layer.__name__,
            ", ".join(map(repr, names)),
            stacklevel=3,
        )


def engine_name(variable: str, value: str, engines: Sequence[str]) -> str:
    """Return what the environment asks for if it is the name of an engine, raise otherwise."""
    if value not in ("auto", *engines):
        raise ValueError(
            f"{variable}: expected {', '.join(map(repr, engines))} or 'auto', got {value!r}."
            " Change the environment variable, or delete it for 'auto'."
        )
    return value


def refuse_engine(variable: str, name: str, reason: str) -> NoReturn:
    """Raise because the environment asks for an engine which cannot run."""
    raise RuntimeError(
        f"{variable}={name}: the {name} engine cannot run, because {reason}."
        " Delete the environment variable, and the operators engine runs in its place."
    )


def eager(name: str, advice: str = "Call it outside the graph, on the batch that goes in.") -> None:
    """Raise where tensors have no values yet."""
    if not paddle.in_dynamic_mode():
        raise RuntimeError(
            f"{name}: expected eager mode, got a static graph, whose tensors have no values yet."
            f" {advice}"
        )


# What pip calls a library that is imported under another name.
_PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow"}


@contextmanager
def needing(module: str, *libraries: str) -> Iterator[None]:
    """Name those of the libraries that are missing, where one of them cannot be imported.

    No extra is named: it would bring a second OpenCV where there is another one already.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in libraries:
            raise
        missing = [name for name in libraries if find_spec(name) is None]
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise ImportError(
            f"{module} needs {' and '.join(missing)}, which"
            f" {'is' if len(missing) == 1 else 'are'} not installed. Install what is missing:"
            f" pip install {packages}"
        ) from error
    if "cv2" in libraries:
        check_opencv()


# Polygons


def polygons(name: str, values: Any) -> list[NDArray[Any]]:
    """Return polygons as arrays `[k, 2]` if each is one of finite points, raise otherwise."""
    try:
        listed = list(values)
    except TypeError:
        raise TypeError(
            f"{name}: expected a sequence of [k, 2] arrays, got {type(values).__name__}."
            " Pass a list, [] for an image without text."
        ) from None
    arrays = []
    for i, polygon in enumerate(listed):
        try:
            array = np.asarray(polygon)
        except ValueError:
            raise ValueError(
                f"{name}[{i}]: expected points of two coordinates (x, y) each, got rows of"
                " different lengths. Correct this polygon."
            ) from None
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3:
            raise ValueError(
                f"{name}[{i}]: expected the shape [k, 2] with k >= 3 points (x, y),"
                f" got {list(array.shape)}. Pass one array per text; leave out what has fewer"
                " points."
            )
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"{name}[{i}]: expected coordinates that are numbers, got the dtype"
                f" {array.dtype}. Convert it to float."
            )
        arrays.append(array)
    if arrays:
        points = np.concatenate(arrays, dtype=np.float64)
        far = np.flatnonzero(~(np.abs(points) <= FARTHEST).all(axis=1))  # NaN too
        if far.size:
            starts = np.cumsum([0, *map(len, arrays)])
            i = int(np.searchsorted(starts, far[0], side="right")) - 1
            j = far[0] - starts[i]
            raise ValueError(
                f"{name}[{i}]: expected finite coordinates in pixels, none beyond"
                f" {FARTHEST:.0f}, got {arrays[i][j].tolist()} as point {j}."
                " Correct or leave out this polygon."
            )
    return arrays


def ignored(name: str, values: Any, count: int) -> NDArray[np.bool_]:
    """Return one flag per polygon as an array of bool, raise if they are anything else."""
    flags = np.asarray(values)
    if flags.ndim != 1 or (flags.size and flags.dtype != bool):
        got = f"the dtype {flags.dtype}" if flags.ndim == 1 else type(values).__name__
        raise TypeError(
            f"{name}: expected a sequence of bool, got {got}. Pass True or False per polygon."
        )
    if len(flags) != count:
        raise wrong(
            name, f"one bool per polygon, {count}", len(flags), "Pass as many flags as polygons."
        )
    return flags.astype(bool)


# What these share


def _read_number(text: str) -> Any:
    """Return the number that a text writes, or the text where it writes none."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
