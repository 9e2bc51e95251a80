"""Label maps in plain NumPy, in the steps that PaddleOCR takes: the baseline of the benchmark.

One polygon after the other, and each edge over the whole box around the grown polygon. Written
from the description in `make_targets`; `tests/test_benchmarks.py` holds it to PaddleOCR's own maps.
"""

import cv2
import numpy as np
import pyclipper


def make_targets(
    polygons: list[np.ndarray],
    ignored: list[bool],
    height: int,
    width: int,
    *,
    shrink_ratio: float = 0.4,
    thresh_min: float = 0.3,
    thresh_max: float = 0.7,
    min_text_size: float = 8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the threshold map, its mask, the shrink map and its mask."""
    threshold_map, threshold_mask, shrink_map = np.zeros((3, height, width), np.float32)
    shrink_mask = np.ones((height, width), np.float32)
    for polygon, skip in zip(polygons, ignored):
        if not skip:
            draw_border(threshold_map, threshold_mask, polygon, shrink_ratio)
        clipped = np.stack(
            (np.clip(polygon[:, 0], 0, width - 1), np.clip(polygon[:, 1], 0, height - 1)), axis=1
        )
        small = min(np.ptp(clipped, axis=0)) < min_text_size
        if skip or small or not draw_shrunk(shrink_map, clipped, shrink_ratio):
            cv2.fillPoly(shrink_mask, [clipped.astype(np.int32)], 0)
    threshold_map = threshold_map * (thresh_max - thresh_min) + thresh_min
    return threshold_map, threshold_mask, shrink_map, shrink_mask


def draw_border(
    canvas: np.ndarray, mask: np.ndarray, polygon: np.ndarray, shrink_ratio: float
) -> None:
    """Draw 1 - distance / reach around the outline of a polygon, and the grown polygon."""
    area, perimeter = measure(polygon)
    if area == 0:
        return
    reach = area * (1 - shrink_ratio**2) / perimeter
    grown = np.array(move(polygon, reach)[0])
    cv2.fillPoly(mask, [grown.astype(np.int32)], 1)

    left, top = grown.min(axis=0)
    right, bottom = grown.max(axis=0)
    x, y = np.arange(right - left + 1)[None], np.arange(bottom - top + 1)[:, None]
    local = polygon - np.array((left, top), polygon.dtype)
    distances = np.empty((len(polygon), y.size, x.size), np.float32)
    for edge, (start, end) in enumerate(zip(local, np.roll(local, -1, axis=0))):
        distances[edge] = np.clip(distance(x, y, start, end) / reach, 0, 1)
    nearest = distances.min(axis=0)

    height, width = canvas.shape
    rows = slice(max(0, -top), max(0, height - top))
    columns = slice(max(0, -left), max(0, width - left))
    part = canvas[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)]
    np.fmax(part, 1 - nearest[rows, columns], out=part)


def distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel to an edge by the triangle that it makes with it."""
    to_start = np.square(x - start[0]) + np.square(y - start[1])
    to_end = np.square(x - end[0]) + np.square(y - end[1])
    length = np.square(start - end).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (to_start + to_end - length) / (2 * np.sqrt(to_start * to_end))
        sine = np.nan_to_num(1 - np.square(cosine))
        to_line = np.sqrt(to_start * to_end * sine / length)
    return np.where(cosine > 0, np.sqrt(np.minimum(to_start, to_end)), to_line)


def draw_shrunk(canvas: np.ndarray, polygon: np.ndarray, shrink_ratio: float) -> bool:
    """Draw the shrunk polygon, and return False where nothing is left of it."""
    area, perimeter = measure(polygon)
    if area < 1:
        return False
    pieces = []
    for ratio in np.arange(shrink_ratio, 1, shrink_ratio):
        pieces = move(polygon, -area * (1 - ratio**2) / perimeter)
        if len(pieces) == 1:
            break
    for piece in pieces:
        cv2.fillPoly(canvas, [np.array(piece, np.int32)], 1)
    return bool(pieces)


def measure(polygon: np.ndarray) -> tuple[float, float]:
    """Return area and perimeter."""
    x, y = polygon.astype(np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    return abs(x @ next_y - next_x @ y) / 2, np.hypot(next_x - x, next_y - y).sum()


def move(polygon: np.ndarray, reach: float) -> list[list[list[int]]]:
    """Return the polygon grown by a distance, or shrunk where it is negative."""
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(
        [tuple(point) for point in polygon], pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON
    )
    return offset.Execute(reach)
