"""The outlines of the texts of a page, and what the two steps that draw label maps share."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyclipper
from numpy.typing import NDArray

from dbloss.base import checks

Floats = NDArray[np.float64]
Maps = NDArray[np.float32]
Indices = NDArray[np.int64]


class Outlines(NamedTuple):
    """All polygons in one array; polygon i is `points[starts[i] : ends[i]]`."""

    points: NDArray[Any]  # float `[points, 2]`
    starts: Indices  # `[polygons]`
    ends: Indices  # `[polygons]`
    following: Indices  # `[points]`, the index of the next point around the same polygon

    def measure(self) -> tuple[Floats, Floats]:
        """Return the areas, negative for one of the two directions, and the perimeters."""
        points = self.points.astype(np.float64)
        # Relative to the polygon's own first point: far from the origin the area would lose digits.
        points -= np.repeat(points[self.starts], self.ends - self.starts, axis=0)
        x, y = points.T
        next_x, next_y = points[self.following].T
        area = np.add.reduceat(x * next_y - next_x * y, self.starts) / 2
        length = np.sqrt((next_x - x) ** 2 + (next_y - y) ** 2)
        return area, np.add.reduceat(length, self.starts)

    def turned(self, which: NDArray[np.bool_]) -> "Outlines":
        """Return the outlines, those in `which` with their points in the opposite order."""
        points = self.points.copy()
        for i in np.flatnonzero(which):
            points[self.starts[i] : self.ends[i]] = self.points[self.starts[i] : self.ends[i]][::-1]
        return self._replace(points=points)


class Texts(NamedTuple):
    """The texts of a page, before or after one of PaddleOCR's steps."""

    outlines: Outlines
    ignored: NDArray[np.bool_]  # `[polygons]`


class Half(NamedTuple):
    """One of PaddleOCR's two steps, each of which makes half of the label maps."""

    blank: dict[str, float]  # the names of its maps, with their value where there is no text
    draw: Callable[..., Texts]  # draws into the maps, and returns the texts for the next step


def join(arrays: list[NDArray[Any]]) -> Outlines:
    """Return the outlines of polygons, in float32 if that holds all coordinates exactly."""
    counts = np.array([len(array) for array in arrays], np.int64)
    points = np.concatenate(arrays).astype(np.float64, order="C")
    single = points.astype(np.float32)
    ends = np.cumsum(counts)
    starts = ends - counts
    following = np.arange(1, len(points) + 1, dtype=np.int64)
    following[ends - 1] = starts
    return Outlines(single if (single == points).all() else points, starts, ends, following)


def mover(path: list[list[int]]) -> Any:
    """Return pyclipper's object that moves an outline, outwards by a positive distance."""
    moved = pyclipper.PyclipperOffset()
    moved.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return moved


def checked_ratio(value: Any) -> float:
    """Return `value` as a float if it is a shrink ratio, raise otherwise."""
    return checks.number("shrink_ratio", value, least=0.01, below=1)


def checked_size(name: str, value: Any) -> int:
    """Return `value` as an int if it is a whole number of pixels, raise otherwise."""
    try:
        pixels = operator.index(value)
    except TypeError:
        pixels = None
    if pixels is None or isinstance(value, bool):
        advice = "Pass an int, as in image.shape."
        raise checks.wrong_type(name, "a whole number of pixels", value, advice)
    if pixels < 1:
        raise checks.wrong(name, "at least 1 pixel", pixels, "Pass the size of the image.")
    return pixels
