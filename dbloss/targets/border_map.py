"""Draws the threshold map and its mask."""

from functools import partial
from typing import Any

import cv2
import numpy as np
from numba import njit

from dbloss.base import checks
from dbloss.base.compiled import compiled, options
from dbloss.targets.outlines import Half, Maps, Texts, checked_ratio, mover


def border_half(shrink_ratio: Any, thresh_min: Any, thresh_max: Any) -> Half:
    """Return the step that draws the threshold map and its mask."""
    ratio = checked_ratio(shrink_ratio)
    most = checks.number("thresh_max", thresh_max, least=0, most=1)
    least = checks.number("thresh_min", thresh_min, least=0, most=most)
    draw = partial(_draw_border, shrink_ratio=ratio, thresh_min=least, thresh_max=most)
    return Half({"threshold_map": least, "threshold_mask": 0}, draw)


def _draw_border(
    texts: Texts,
    threshold_map: Maps,
    threshold_mask: Maps,
    shrink_ratio: float,
    thresh_min: float,
    thresh_max: float,
) -> Texts:
    outlines, skipped = texts
    area, perimeter = outlines.measure()
    area = np.abs(area)
    reach = area * (1 - shrink_ratio**2) / np.where(area > 0, perimeter, 1)
    paths = outlines.points.astype(np.int64).tolist()
    spans = list(zip(outlines.starts.tolist(), outlines.ends.tolist()))
    boxes = np.zeros((len(spans), 2, 2), np.int64)
    for i in np.flatnonzero((area > 0) & ~skipped).tolist():
        grown = mover(paths[slice(*spans[i])]).Execute(reach[i])
        if grown:  # empty if all corners fall on one pixel
            outline = np.array(grown[0], np.int32)
            cv2.fillPoly(threshold_mask, [outline], 1)
            x, y, w, h = cv2.boundingRect(outline)
            boxes[i] = (x, y), (x + w, y + h)

    windows = boxes.clip(0, threshold_map.shape[::-1])
    counts = outlines.ends - outlines.starts
    origin, left_top = (np.repeat(at[:, 0], counts, axis=0) for at in (boxes, windows))
    # PaddleOCR computes the distance to a line from the three sides of the triangle of a pixel and
    # an edge, and squares the length of the edge in the dtype of the points.
    local = (outlines.points - origin).astype(outlines.points.dtype)
    squares = np.square(local[outlines.following] - local).sum(axis=1).astype(np.float64)
    _draw_thresholds(
        threshold_map,
        local + (origin - left_top).astype(np.float64),
        squares,
        outlines.starts,
        outlines.ends,
        outlines.following,
        windows,
        reach,
        thresh_min,
        thresh_max,
    )
    return texts


@njit(**options({"contract"}))
def _approach(nearest, start, stop, square, reach):  # type: ignore[no-untyped-def]
    """Lower `nearest`, the squared distances in a polygon's window, to those from one edge."""
    height, width = nearest.shape
    left = max(int(min(start[0], stop[0]) - reach), 0)
    top = max(int(min(start[1], stop[1]) - reach), 0)
    right = max(min(int(max(start[0], stop[0]) + reach) + 2, width), left)
    bottom = min(int(max(start[1], stop[1]) + reach) + 2, height)

    along_x, along_y = stop - start
    exact = along_x**2 + along_y**2
    if square == 0:  # a point given twice makes no line: any length will do
        square = exact = 1.0
    # PaddleOCR's squared distance is off, since `square` is rounded, by this error times `dot`. On
    # the edge `dot` is negative; if the sum is negative too its root is NaN, as in PaddleOCR.
    error = np.float32((square - exact) / square)
    acute = np.float32((square - exact) / 2)  # the `dot` at which PaddleOCR sees a right angle
    normal_x, normal_y = along_y / np.sqrt(square), -along_x / np.sqrt(square)
    slope = np.float32(normal_x)
    start_x, stop_x = np.float32(start[0] - left), np.float32(stop[0] - left)
    for y in range(top, bottom):
        start_y, stop_y = y - start[1], y - stop[1]
        offset = np.float32(start_y * normal_y - (start[0] - left) * normal_x)
        square_y, dot_y = np.float32(start_y * start_y), np.float32(start_y * stop_y)
        row = nearest[y, left:right]
        for i in range(row.size):
            x = np.float32(i)
            to_line = x * slope + offset
            dot = (x - start_x) * (x - stop_x) + dot_y
            squared = to_line * to_line + error * dot
            # A positive `dot` means an acute angle: then the distance is that to an end of the
            # edge. Only its start is looked at, since its end is the start of the next edge.
            if dot > acute:
                squared = (x - start_x) * (x - start_x) + square_y
            row[i] = min(row[i], squared)


# Compiled at import, so that a forked worker has nothing left to compile.
@compiled(
    "f4[:,::1], f8[:,::1], f8[::1], i8[::1], i8[::1], i8[::1], i8[:,:,::1], f8[::1], f8, f8",
    fastmath={"contract"},
)
def _draw_thresholds(  # type: ignore[no-untyped-def]
    canvas, points, squares, starts, ends, following, windows, reach, least, greatest
):
    """Raise the canvas to the thresholds around each polygon.

    `points` are relative to the window of their polygon; `squares` are squared lengths of edges.
    """
    for i in range(len(starts)):
        (left, top), (right, bottom) = windows[i]
        nearest = np.full((bottom - top, right - left), np.float32(np.inf))
        for edge in range(starts[i], ends[i]):
            _approach(nearest, points[edge], points[following[edge]], squares[edge], reach[i])
        slope, offset = np.float32((least - greatest) / reach[i]), np.float32(greatest)
        for y in range(bottom - top):
            row = canvas[top + y, left:right]
            for x in range(row.size):
                value = np.sqrt(nearest[y, x]) * slope + offset
                if value > row[x]:  # NaN is above nothing
                    row[x] = value
