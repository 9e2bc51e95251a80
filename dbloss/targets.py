"""Text polygons to the four label maps that the loss is trained with."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbloss import checks

try:
    import cv2
    import pyclipper
except ModuleNotFoundError as error:
    if error.name not in ("cv2", "pyclipper"):
        raise
    raise ImportError(
        f"dbloss.targets needs {error.name}, which is not installed."
        ' Install it: pip install "dbloss[targets]"'
    ) from error

_Floats = NDArray[np.float64]
_Maps = NDArray[np.float32]
_Indices = NDArray[np.int64]

# Beyond this float32 does not tell one pixel from the next.
_FARTHEST = 2.0**24

# Turns a positive `dot` into a value above every squared distance. A power of two rounds nothing.
_STEEP = np.float32(2**20)

# Pixels in one matrix product: too few for a BLAS to wake its threads.
_BLOCK = 2**16


class Targets(NamedTuple):
    """The four label maps of one image, each float32 `[height, width]`."""

    threshold_map: _Maps
    threshold_mask: _Maps
    shrink_map: _Maps
    shrink_mask: _Maps


def make_targets(
    polygons: Sequence[ArrayLike],
    ignored: Sequence[bool],
    height: int,
    width: int,
    *,
    shrink_ratio: float = 0.4,
    thresh_min: float = 0.3,
    thresh_max: float = 0.7,
    min_text_size: float = 8,
) -> Targets:
    """Return the label maps that PaddleOCR's border-map and shrink-map steps make.

    Both steps move the outline of a polygon by `D = area * (1 - shrink_ratio^2) / perimeter`,
    with round joins and corners on whole pixels.

    Threshold map and mask: the mask is 1 inside each polygon grown by its D. The map is
    `thresh_min + (thresh_max - thresh_min) * max(1 - d / D, 0)`, the greatest over the polygons,
    where d is the least distance of a pixel to an edge: to the edge's line where the pixel sees
    the edge under an angle of 90 degrees or more, to the nearer end otherwise. Ignored polygons
    take no part.

    Shrink map and mask: polygons are clipped to the image first. The map is 1 inside each polygon
    shrunk by its D; where that leaves no piece or several, the ratio is raised in steps of
    `shrink_ratio`. The mask is 1 except inside the polygons that are ignored: the caller's, and
    those narrower or lower than `min_text_size`, of an area under 1, or with nothing left.

    Every polygon has a result. Its direction, and a point given twice, change nothing. One of
    zero area leaves the threshold map and mask alone and counts as ignored. Where one crosses
    itself, lobes of opposite direction subtract from its area, and of several pieces that it
    grows to the first counts. One outside the image reaches into the threshold map as far as it
    grows; clipped, it is a line on the image's border, and ignored there.

    Coordinates that float32 holds exactly are computed in float32, as PaddleOCR's label reader
    makes them, the others in float64. Float32 rounds the length of an edge, and so a pixel within
    a few hundredths of a pixel of that edge can be left out, as PaddleOCR leaves it.

    It runs in a single thread and keeps nothing between calls, so that it may run in a forked
    DataLoader worker.

    Args:
        polygons: one `[k, 2]` array or list of lists per text, k >= 3, its points (x, y) in pixels.
            They are never changed.
        ignored: one bool per polygon, True for text that counts neither way.
        height: of the image, in pixels.
        width: of the image, in pixels.
        shrink_ratio: in [0.01, 1).
        thresh_min: the threshold away from text, in [0, `thresh_max`].
        thresh_max: the threshold on the edge of a text, in [0, 1].
        min_text_size: the least width and height of a text that counts, in pixels.

    Returns:
        `Targets(threshold_map, threshold_mask, shrink_map, shrink_mask)`, each float32
        `[height, width]`. The four share one allocation; copy a map to keep it alone.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a polygon is not `[k, 2]`, a coordinate is not finite or beyond 2^24, the
            number of flags is not that of polygons, or a number is out of range.

    Example:
        >>> from dbloss.targets import make_targets
        >>> box = [(34, 38), (94, 38), (94, 58), (34, 58)]
        >>> targets = make_targets([box], [False], height=96, width=128)
        >>> [int(target.sum()) for target in targets[1:]]
        [2373, 441, 12288]
        >>> [round(float(t), 3) for t in targets.threshold_map[36:41, 64]]
        [0.573, 0.637, 0.7, 0.637, 0.573]

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, section "Label generation"; PaddleOCR `ppocr/data/imaug/make_border_map.py`
        and `make_shrink_map.py`.
    """
    height, width = _size("height", height), _size("width", width)
    checks.number("shrink_ratio", shrink_ratio, least=0.01, below=1)
    checks.number("thresh_max", thresh_max, least=0, most=1)
    checks.number("thresh_min", thresh_min, least=0, most=thresh_max)
    checks.number("min_text_size", min_text_size, least=0)
    arrays = _read_polygons(polygons)
    skipped = _read_flags(ignored, len(arrays))

    # One allocation for all four: a large one comes in large pages, which are far fewer.
    targets = Targets(*np.empty((4, height, width), np.float32))
    for target, value in zip(targets, (thresh_min, 0, 0, 1)):
        target.fill(value)
    if arrays:
        outlines = _join(arrays)
        _draw_border(targets, outlines, skipped, shrink_ratio, thresh_min, thresh_max)
        _draw_shrunk(targets, outlines, skipped, shrink_ratio, min_text_size)
    return targets


class _Outlines(NamedTuple):
    """All polygons end to end; polygon i has the points `starts[i]` up to `ends[i]`."""

    points: NDArray[Any]  # float `[points, 2]`
    starts: _Indices  # `[polygons]`
    ends: _Indices  # `[polygons]`
    following: _Indices  # `[points]`, the next point around the same polygon

    def measure(self) -> tuple[_Floats, _Floats]:
        """Return area, negative where a polygon runs the other way, and perimeter."""
        points = self.points.astype(np.float64)
        # Relative to a point of its own, the area of a polygon far out does not cancel away.
        points -= np.repeat(points[self.starts], self.ends - self.starts, axis=0)
        x, y = points.T
        next_x, next_y = points[self.following].T
        area = np.add.reduceat(x * next_y - next_x * y, self.starts) / 2
        length = np.sqrt((next_x - x) ** 2 + (next_y - y) ** 2)
        return area, np.add.reduceat(length, self.starts)


class _Strips(NamedTuple):
    """Around each edge the part of its polygon's window that is within reach, as sums to make.

    At column x and row y of a strip, `columns[i, 1, x] + rows[i, y, 0]` is the signed distance to
    the edge's line (i = 0), the squared distance to its start (1), and `_STEEP` times the product
    of the vectors to its two ends (2). The ones beside make each sum a matrix product, two to
    three times as fast as adding a row to a column.
    """

    columns: _Maps  # `[3, 2, n]`, the strips end to end
    rows: _Maps  # `[3, n, 2]`
    bounds: list[list[int]]  # per edge: first column, first row, end; left, top, right
    errors: list[float] | None  # per edge, see `_cut_strips`; None where all are 0


def _join(arrays: list[NDArray[Any]]) -> _Outlines:
    counts = np.array([len(array) for array in arrays])
    points = np.concatenate(arrays).astype(np.float64)
    single = points.astype(np.float32)
    ends = np.cumsum(counts)
    starts = ends - counts
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    return _Outlines(single if (single == points).all() else points, starts, ends, following)


def _draw_border(
    targets: Targets,
    outlines: _Outlines,
    skipped: NDArray[np.bool_],
    shrink_ratio: float,
    thresh_min: float,
    thresh_max: float,
) -> None:
    area, perimeter = outlines.measure()
    area = np.abs(area)
    reach = area * (1 - shrink_ratio**2) / np.where(area > 0, perimeter, 1)
    paths = outlines.points.astype(np.int64).tolist()
    spans = list(zip(outlines.starts.tolist(), outlines.ends.tolist()))
    boxes = np.zeros((len(spans), 2, 2), np.int64)
    for i in np.flatnonzero((area > 0) & ~skipped).tolist():
        grown = _offset(paths[slice(*spans[i])]).Execute(reach[i])
        if grown:  # nothing, where all corners fall on one pixel
            outline = np.array(grown[0], np.int32)
            cv2.fillPoly(targets.threshold_mask, [outline], 1)
            x, y, w, h = cv2.boundingRect(outline)
            boxes[i] = (x, y), (x + w, y + h)

    windows = boxes.clip(0, targets.threshold_map.shape[::-1])
    strips = _cut_strips(outlines, reach, boxes[:, 0], windows)
    # The root of a negative is NaN here, and fmax passes over NaN: see `_cut_strips`.
    with np.errstate(invalid="ignore"):
        for i in np.flatnonzero((windows[:, 0] < windows[:, 1]).all(axis=1)).tolist():
            (left, top), (right, bottom) = windows[i].tolist()
            value = np.full((bottom - top, right - left), np.inf, np.float32)
            for edge in range(*spans[i]):
                _sweep(strips, edge, value)
            np.sqrt(value, out=value)
            value *= float(thresh_min - thresh_max) / reach[i].item()
            value += float(thresh_max)
            part = targets.threshold_map[top:bottom, left:right]
            np.fmax(part, value, out=part)


def _sweep(strips: _Strips, edge: int, nearest: _Maps) -> None:
    """Lower `nearest`, squared distances in a polygon's window, to those of an edge."""
    column, row, end, left, top, right = strips.bounds[edge]
    if column == row:
        return
    columns = strips.columns[:, :, column:row]
    block = _BLOCK // (row - column) + 1
    for first in range(row, end, block):
        planes = np.matmul(strips.rows[:, first : min(first + block, end)], columns)
        squared, to_start, dot = planes[0], planes[1], planes[2]
        np.multiply(squared, squared, out=squared)
        if strips.errors:
            cv2.scaleAdd(dot, strips.errors[edge], squared, squared)
        # A positive dot is an acute angle, so the line does not count. Of the two ends only the
        # start is looked at: the end is the start of the edge after.
        np.maximum(squared, dot, out=squared)
        np.minimum(squared, to_start, out=squared)
        part = nearest[top : top + len(squared), left:right]
        cv2.min(part, squared, part)
        top += block


def _cut_strips(
    outlines: _Outlines, reach: _Floats, origins: _Indices, windows: _Indices
) -> _Strips:
    points, starts, ends, following = outlines
    counts = ends - starts
    origin, window, margin = (
        np.repeat(array, counts, axis=0) for array in (origins, windows, reach[:, None])
    )

    # PaddleOCR makes the distance to a line from the three sides of the triangle that a pixel
    # makes with the edge. Its squared edge `l'` is rounded to the dtype of the points, which adds
    # (l' - l) * dot / l' to the squared distance. On the edge dot is negative, the sum may be so
    # too, and its root is NaN.
    local = (points - origin).astype(points.dtype)
    rounded = np.square(local[following] - local).sum(axis=1).astype(np.float64)
    start = local.astype(np.float64)
    stop = start[following]
    exact = np.square(stop - start).sum(axis=1)
    point = rounded == 0  # a point given twice: no line, whatever the length
    rounded[point] = exact[point] = 1
    normal = (stop - start)[:, ::-1] * (1, -1) / np.sqrt(rounded)[:, None]
    error = (rounded - exact) / rounded / _STEEP

    shift = (origin - window[:, 0]).astype(np.float64)
    start += shift
    stop += shift
    size = window[:, 1] - window[:, 0]
    low = (np.minimum(start, stop) - margin).clip(0, size).astype(np.int64)
    high = (np.maximum(start, stop) + margin + 2).clip(low, size).astype(np.int64)

    # All strips at once: first the columns, then the rows of each edge.
    counts = (high - low).ravel()
    lasts = np.cumsum(counts)
    firsts = lasts - counts
    lines = np.stack((start - low, stop - low, normal), axis=2).reshape(-1, 3).astype(np.float32)
    from_start, from_stop, normals = np.repeat(lines, counts, axis=0).T
    pixel = (np.arange(len(normals)) - np.repeat(firsts, counts)).astype(np.float32)
    from_start = pixel - from_start
    from_stop = pixel - from_stop
    sums = np.ones((3, 3, len(pixel)), np.float32)
    np.multiply(from_start, normals, out=sums[0, 1])
    np.multiply(from_start, from_start, out=sums[1, 1])
    np.multiply(from_start, from_stop * _STEEP, out=sums[2, 1])

    bounds = np.column_stack((firsts[::2], lasts[::2], lasts[1::2], low, high[:, 0])).tolist()
    return _Strips(
        columns=sums[:, :2],
        rows=sums[:, 1:].swapaxes(1, 2),
        bounds=bounds,
        errors=error.tolist() if error.any() else None,
    )


def _draw_shrunk(
    targets: Targets,
    outlines: _Outlines,
    skipped: NDArray[np.bool_],
    shrink_ratio: float,
    min_text_size: float,
) -> None:
    height, width = targets.shrink_map.shape
    _, starts, ends, _ = outlines
    points = outlines.points.clip(0, np.array((width - 1, height - 1), outlines.points.dtype))
    area, perimeter = outlines._replace(points=points).measure()
    size = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)
    forward, area = area > 0, np.abs(area)
    dropped = skipped | (area < 1) | (size.min(axis=1) < min_text_size)
    pixels = points.astype(np.int32)
    paths = pixels.tolist()
    ratios = np.arange(shrink_ratio, 1, shrink_ratio).tolist()
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        pieces = []
        if not dropped[i]:
            # Where an outline crosses itself, be it by the clipping, its direction decides what is
            # left.
            offset = _offset(paths[start:end][:: 1 if forward[i] else -1])
            for ratio in ratios:
                pieces = offset.Execute(-area[i] * (1 - ratio**2) / perimeter[i])
                if len(pieces) == 1:
                    break
        for piece in pieces:
            cv2.fillPoly(targets.shrink_map, [np.array(piece, np.int32)], 1)
        if not pieces:
            cv2.fillPoly(targets.shrink_mask, [pixels[start:end]], 0)


def _offset(path: list[list[int]]) -> Any:
    """Return what moves an outline by a distance, outwards where it is positive."""
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset


def _size(name: str, value: Any) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        size = None
    if size is None or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number of pixels, got {type(value).__name__} {value!r}."
            f" Pass an int, as in image.shape."
        )
    if size < 1:
        raise ValueError(
            f"{name}: expected at least 1 pixel, got {size}. Pass the size of the image."
        )
    return size


def _read_polygons(polygons: Any) -> list[NDArray[Any]]:
    try:
        listed = list(polygons)
    except TypeError:
        raise TypeError(
            f"polygons: expected a sequence of [k, 2] arrays, got {type(polygons).__name__}."
            " Pass a list, [] for an image without text."
        ) from None
    arrays = []
    for i, polygon in enumerate(listed):
        try:
            array = np.asarray(polygon)
        except ValueError:
            raise ValueError(
                f"polygons[{i}]: expected points of two coordinates (x, y) each, got rows of"
                " different lengths. Correct this polygon."
            ) from None
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3:
            raise ValueError(
                f"polygons[{i}]: expected the shape [k, 2] with k >= 3 points (x, y),"
                f" got {list(array.shape)}. Pass one array per text; leave out what has fewer"
                " points."
            )
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"polygons[{i}]: expected coordinates that are numbers, got the dtype"
                f" {array.dtype}. Convert it to float."
            )
        # NaN fails this as well. Not by abs: of the least int64 it is negative.
        if not (float(array.max()) <= _FARTHEST and float(array.min()) >= -_FARTHEST):
            wrong = np.flatnonzero(~(np.abs(array.astype(np.float64)) <= _FARTHEST).all(axis=1))[0]
            raise ValueError(
                f"polygons[{i}]: expected finite coordinates in pixels, none beyond"
                f" {_FARTHEST:.0f}, got {array[wrong].tolist()} as point {wrong}."
                " Correct or leave out this polygon."
            )
        arrays.append(array)
    return arrays


def _read_flags(ignored: Any, count: int) -> NDArray[np.bool_]:
    flags = np.asarray(ignored)
    if flags.ndim != 1 or (flags.size and flags.dtype != bool):
        got = f"the dtype {flags.dtype}" if flags.ndim == 1 else type(ignored).__name__
        raise TypeError(
            f"ignored: expected a sequence of bool, got {got}. Pass True or False per polygon."
        )
    if len(flags) != count:
        raise ValueError(
            f"ignored: expected one bool per polygon, {count}, got {len(flags)}."
            " Pass as many flags as polygons."
        )
    return flags.astype(bool)
