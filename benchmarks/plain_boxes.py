"""Boxes in the steps that PaddleOCR takes, one after the other: the baseline of the benchmark.

Written from the description in `find_boxes`; `tests/test_benchmarks.py` holds it to the boxes that
PaddleOCR found.
"""

import cv2
import numpy as np
import pyclipper
from shapely.geometry import Polygon


def find_boxes(
    probability: np.ndarray,
    *,
    thresh: float = 0.3,
    box_thresh: float = 0.6,
    unclip_ratio: float = 1.5,
    max_candidates: int = 1000,
    min_size: float = 3,
    use_dilation: bool = False,
    score_mode: str = "fast",
    box_type: str = "quad",
    height: float,
    width: float,
) -> tuple[list[np.ndarray], list[float]]:
    """Return the boxes of one map, and their scores."""
    text = probability > thresh
    if use_dilation:
        text = cv2.dilate(text.astype(np.uint8), np.ones((2, 2), np.uint8))
    image = (text * 255).astype(np.uint8)
    contours, _ = cv2.findContours(image, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes, scores = [], []
    for contour in contours[:max_candidates]:
        if box_type == "poly":
            box = cv2.approxPolyDP(contour, 0.002 * cv2.arcLength(contour, True), True)[:, 0]
            if len(box) < 4:
                continue
        else:
            box, side = rectangle(contour)
            if side < min_size:
                continue
        around = contour[:, 0] if score_mode == "slow" and box_type == "quad" else box
        score = mean_inside(probability, around)
        if score < box_thresh:
            continue
        paths = grow(box, unclip_ratio)
        if len(paths) != 1:
            continue
        grown = np.array(paths[0])
        box, side = rectangle(grown.astype(np.int32))
        if side < min_size + 2:
            continue
        if box_type == "poly":
            box = grown
        rows, columns = probability.shape
        x = np.clip(np.round(box[:, 0] / columns * width), 0, width)
        y = np.clip(np.round(box[:, 1] / rows * height), 0, height)
        boxes.append(np.stack((x, y), axis=1).astype(np.int32))
        scores.append(score)
    return boxes, scores


def rectangle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rectangle of least area, clockwise from the upper left, and its shorter side."""
    found = cv2.minAreaRect(points)
    left, near, far, right = sorted(cv2.boxPoints(found), key=lambda point: point[0])
    first, last = (left, near) if near[1] > left[1] else (near, left)
    second, third = (far, right) if right[1] > far[1] else (right, far)
    return np.array([first, second, third, last]), min(found[1])


def mean_inside(probability: np.ndarray, outline: np.ndarray) -> float:
    """Return the mean of the map inside an outline."""
    height, width = probability.shape
    local = outline.copy()
    left = np.clip(np.floor(local[:, 0].min()).astype(np.int32), 0, width - 1)
    right = np.clip(np.ceil(local[:, 0].max()).astype(np.int32), 0, width - 1)
    top = np.clip(np.floor(local[:, 1].min()).astype(np.int32), 0, height - 1)
    bottom = np.clip(np.ceil(local[:, 1].max()).astype(np.int32), 0, height - 1)
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    local[:, 0] = local[:, 0] - left
    local[:, 1] = local[:, 1] - top
    cv2.fillPoly(mask, [local.astype(np.int32)], 1)
    return cv2.mean(probability[top : bottom + 1, left : right + 1], mask)[0]


def grow(box: np.ndarray, unclip_ratio: float) -> list[list[list[int]]]:
    """Return what a box becomes when all its sides move out."""
    polygon = Polygon(box)
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(box, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset.Execute(polygon.area * unclip_ratio / polygon.length)
