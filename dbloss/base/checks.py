"""What several modules check, and the errors that they raise.

Every message says what was expected, what was given and what to do: "expected ..., got ...: do
...". A check of one module's arguments is in that module.
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

# Names are taken for a typing error of each other from this similarity on: one wrong letter, or two
# swapped, in a name of five or more letters. `bbce_loss`, a setting of another DB loss, is less
# similar to `balance_loss`.
_CLOSE = 0.8

# Beyond this coordinate float32 cannot tell one pixel from the next.
FARTHEST = 2.0**24

# A logger, since PaddleOCR's data code switches Python's warnings off.
LOGGER = logging.getLogger("dbloss")


# Messages


def wrong(
    name: Any, expected: str, got: Any, advice: str, error: type[Exception] = ValueError
) -> Exception:
    """Return the error for a wrong argument: what was expected, what was given, what to do."""
    return error(f"{name}: expected {expected}, got {got}. {advice}")


def wrong_type(name: str, expected: str, value: Any, advice: str) -> Exception:
    """Return the error for an argument of the wrong type."""
    return wrong(name, expected, describe(value), advice, TypeError)


def describe(value: Any) -> str:
    """Return what a message says about a value: its type, and the value itself if it is short."""
    if value is None:
        return "None"
    if paddle.is_tensor(value):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, bool | int | float | str):
        return f"{type(value).__name__} {value!r}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


# Settings


def number(name: str, value: Any, **bounds: float) -> float:
    """Return `value` as a float if it is finite and within the bounds of `_within`, or raise.

    Text is read as a number, since YAML takes 1e-6 for text.
    """
    return _within(name, value, "finite", **bounds)


def whole(name: str, value: Any, **bounds: float) -> int:
    """Return `value` as an int if it is a whole number within the bounds of `_within`, or raise."""
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
        expected = f"one of {', '.join(map(repr, allowed))}"
        raise wrong(name, expected, repr(value), advice or f"{hint} Upper and lower case count.")
    return str(value)


def group(value: Any, asked_for: bool, option: str = "global_batch") -> Any:
    """Return `value` if it is None, or a group where the option asks for one, raise otherwise."""
    if value is None:
        return None
    if not hasattr(value, "nranks"):
        advice = "Pass what paddle.distributed.new_group returns, or None for all processes."
        raise wrong_type("group", "a group of processes or None", value, advice)
    if not asked_for:
        advice = f"Add {option}=True, or leave the group out."
        raise wrong("group", f"None with {option}=False, which does not use it", "a group", advice)
    return value


def unknown(
    layer: type, kwargs: Mapping[str, Any], reported: Collection[str] | None = None
) -> None:
    """Log keyword arguments that `layer` does not know, raise if one looks like a typing error.

    `name` is PaddleOCR's own and passes. So does a known name after a word and an underscore, such
    as `det_box_type`, a setting of another part. `reported` are those to log, None for all.
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


def engine_name(variable: str, value: str, engines: Collection[str]) -> str:
    """Return the value of the environment variable if it names an engine, raise otherwise."""
    if value not in ("auto", *engines):
        advice = "Change the environment variable, or delete it for 'auto'."
        raise wrong(variable, f"{', '.join(map(repr, engines))} or 'auto'", repr(value), advice)
    return value


def refuse_engine(variable: str, name: str, reason: str) -> NoReturn:
    """Raise because the environment variable asks for an engine that cannot run."""
    raise RuntimeError(
        f"{variable}={name}: the {name} engine cannot run, because {reason}."
        " Delete the environment variable, and the operators engine runs in its place."
    )


def eager(name: str, advice: str = "Call it outside the graph, on the batch that goes in.") -> None:
    """Raise in a static graph, where tensors have no values yet."""
    if not paddle.in_dynamic_mode():
        got = "a static graph, whose tensors have no values yet"
        raise wrong(name, "eager mode", got, advice, RuntimeError)


# The names that pip knows libraries by, if they are imported under other names.
_PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow"}


@contextmanager
def needing(module: str, *libraries: str) -> Iterator[None]:
    """Raise an error that names the libraries to install if one of them cannot be imported.

    It names no extra of dbloss, which would install a second OpenCV next to another one.
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
    """Return polygons as arrays `[k, 2]` if all have 3 or more finite points, raise otherwise."""
    try:
        listed = list(values)
    except TypeError:
        advice = "Pass a list, [] for an image without text."
        raise wrong_type(name, "a sequence of [k, 2] arrays", values, advice) from None
    arrays = []
    for i, polygon in enumerate(listed):
        try:
            array = np.asarray(polygon)
        except ValueError:
            got = "rows of different lengths"
            raise wrong(f"{name}[{i}]", "points (x, y)", got, "Correct this polygon.") from None
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3:
            expected = "the shape [k, 2] with k >= 3 points (x, y)"
            advice = "Pass one array per text; leave out what has fewer points."
            raise wrong(f"{name}[{i}]", expected, list(array.shape), advice)
        if array.dtype.kind not in "fiu":
            expected, got = "coordinates that are numbers", f"the dtype {array.dtype}"
            raise wrong(f"{name}[{i}]", expected, got, "Convert it to float.", TypeError)
        arrays.append(array)
    if arrays:
        points = np.concatenate(arrays, dtype=np.float64)
        far = np.flatnonzero(~(np.abs(points) <= FARTHEST).all(axis=1))  # NaN too
        if far.size:
            starts = np.cumsum([0, *map(len, arrays)])
            i = int(np.searchsorted(starts, far[0], side="right")) - 1
            j = far[0] - starts[i]
            expected = f"finite coordinates in pixels, none beyond {FARTHEST:.0f}"
            advice = "Correct or leave out this polygon."
            raise wrong(f"{name}[{i}]", expected, f"{arrays[i][j].tolist()} as point {j}", advice)
    return arrays


def ignored(name: str, values: Any, count: int) -> NDArray[np.bool_]:
    """Return flags as an array of bool if there is one per polygon, raise otherwise."""
    flags = np.asarray(values)
    if flags.ndim != 1 or (flags.size and flags.dtype != bool):
        got = f"the dtype {flags.dtype}" if flags.ndim == 1 else type(values).__name__
        raise wrong(name, "a sequence of bool", got, "Pass True or False per polygon.", TypeError)
    if len(flags) != count:
        raise wrong(
            name, f"one bool per polygon, {count}", len(flags), "Pass as many flags as polygons."
        )
    return flags.astype(bool)


# What these share


def _read_number(text: str) -> Any:
    """Return the number that a text holds, or the text itself if it holds none."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
