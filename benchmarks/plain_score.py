"""The match of boxes with texts as PaddleOCR takes it, pair by pair: the baseline of the benchmark.

Every box is intersected with every text, and each time both polygons are made anew. Written from
the description in `match`; `tests/test_benchmarks.py` holds it to PaddleOCR's own counts.
"""

import numpy as np
from shapely.geometry import Polygon


def match(
    found: list[np.ndarray], truth: list[np.ndarray], ignored: list[bool], iou: float = 0.5
) -> tuple[int, int, int]:
    """Return how many boxes are hits, how many count, and how many texts do."""
    texts = [(text, skip) for text, skip in zip(truth, ignored) if is_sound(text)]
    boxes = [box for box in found if is_sound(box)]
    outside = [not any(skip and lies_in(box, text) for text, skip in texts) for box in boxes]
    overlaps = [[overlap(box, text) for box in boxes] for text, _ in texts]

    free, hits = list(outside), 0
    for row, (_, skip) in zip(overlaps, texts):
        for i, value in enumerate(row):
            if not skip and free[i] and value > iou:
                free[i] = False
                hits += 1
                break
    return hits, sum(outside), sum(not skip for _, skip in texts)


def is_sound(points: np.ndarray) -> bool:
    """Tell whether an outline does not cross itself."""
    return Polygon(points).is_valid and Polygon(points).is_simple


def lies_in(box: np.ndarray, text: np.ndarray) -> bool:
    """Tell whether more than half of a box lies in a text."""
    area = Polygon(box).area
    return area > 0 and Polygon(text).intersection(Polygon(box)).area / area > 0.5


def overlap(box: np.ndarray, text: np.ndarray) -> float:
    """Return the intersection over the union."""
    return common(box, text) / Polygon(box).union(Polygon(text)).area


def common(box: np.ndarray, text: np.ndarray) -> float:
    """Return the area of the intersection."""
    return Polygon(box).intersection(Polygon(text)).area
