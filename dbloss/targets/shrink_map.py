"""Draws the shrink map and its mask, and the text weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbloss.base import checks
from dbloss.targets.outlines import (
    Half,
    Maps,
    Outlines,
    Texts,
    checked_ratio,
    checked_size,
    join,
    mover,
)

# Text weights: the number of pixels of a shrunk text of weight 1, the least number that is assumed,
# the least and the greatest weight, and the greatest exponent `text_balance`.
_USUAL, _FEWEST, _LIGHTEST, _HEAVIEST, _STEEPEST = 200, 20, 0.25, 6.0, 2


class Shrunk(NamedTuple):
    """What is left of one polygon in the shrink map: its pieces, none if it does not count."""

    side: float  # the lesser of width and height, in pixels, of the part inside the image
    too_small: bool  # narrower or lower than `min_text_size`, or with an area below 1
    pieces: list[NDArray[np.int32]]  # each `[k, 2]`, the corners (x, y) of what is drawn as text


def shrink_half(shrink_ratio: Any, min_text_size: Any, text_balance: Any) -> Half:
    """Return the step that draws the shrink map, its mask and, given a balance, text weights."""
    ratio = checked_ratio(shrink_ratio)
    least = checks.number("min_text_size", min_text_size, least=0)
    draw = partial(_draw_shrunk, shrink_ratio=ratio, min_text_size=least)
    blank = {"shrink_map": 0.0, "shrink_mask": 1.0}
    if text_balance is not None:
        draw = partial(draw, text_balance=checked_balance(text_balance))
        blank["text_weights"] = 1.0
    return Half(blank, draw)


def checked_balance(value: Any) -> float:
    """Return `value` as a float if it is an exponent of text weights, raise otherwise."""
    return checks.number("text_balance", value, least=0, most=_STEEPEST)


def shrink(
    polygons: Sequence[ArrayLike],
    height: int,
    width: int,
    *,
    shrink_ratio: float = 0.4,
    min_text_size: float = 8,
) -> list[Shrunk]:
    """Return what `make_targets` would draw of each polygon in the shrink map, without drawing it.

    That is the polygon, clipped to the image, with its outline moved inwards by
    `D = area * (1 - shrink_ratio^2) / perimeter`. A polygon that is too small has no pieces.

    Args:
        polygons: as for `make_targets`.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        shrink_ratio: as for `make_targets`.
        min_text_size: as for `make_targets`.

    Returns:
        A `Shrunk` for each polygon.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a polygon or a number is not what `make_targets` takes.

    Example:
        >>> from dbloss.targets import shrink
        >>> box = [(34, 38), (94, 38), (94, 58), (34, 58)]
        >>> (shrunk,) = shrink([box], height=96, width=128)
        >>> shrunk.side, shrunk.too_small, shrunk.pieces[0].min(axis=0).tolist()
        (20.0, False, [40, 44])

    Source:
        PaddleOCR `ppocr/data/imaug/make_shrink_map.py`.
    """
    height, width = checked_size("height", height), checked_size("width", width)
    shrink_ratio = checked_ratio(shrink_ratio)
    min_text_size = checks.number("min_text_size", min_text_size, least=0)
    arrays = checks.polygons("polygons", polygons)
    if not arrays:
        return []
    texts = Texts(join(arrays), np.zeros(len(arrays), bool))
    shrunk, _ = _shrink_all(texts, height, width, shrink_ratio, min_text_size)
    return shrunk


def _draw_shrunk(
    texts: Texts,
    shrink_map: Maps,
    shrink_mask: Maps,
    shrink_ratio: float,
    min_text_size: float,
    text_balance: float = 0,
    text_weights: Maps | None = None,
) -> Texts:
    """Draw the shrink map and its mask, and the text weights if there are any.

    As PaddleOCR's step leaves them, the texts that are returned are clipped to the image and all
    run in one direction, and those without a piece are ignored.
    """
    height, width = shrink_map.shape
    shrunk, outlines = _shrink_all(texts, height, width, shrink_ratio, min_text_size)
    pixels = outlines.points.astype(np.int32)
    if text_weights is not None:
        text_weights.fill(0)  # so that while drawing the greater of two weights stays
    for (_, _, pieces), start, end in zip(shrunk, outlines.starts, outlines.ends):
        for piece in pieces:
            cv2.fillPoly(shrink_map, [piece], 1)
        if pieces and text_weights is not None:
            _weigh(text_weights, pieces, text_balance)
        if not pieces:
            cv2.fillPoly(shrink_mask, [pixels[start:end]], 0)
    if text_weights is not None:
        np.copyto(text_weights, 1, where=text_weights == 0)
    return Texts(outlines, np.array([not each.pieces for each in shrunk]))


def _weigh(weights: Maps, pieces: list[NDArray[np.int32]], text_balance: float) -> None:
    """Raise the weights of the pixels of one shrunk text to its weight."""
    x, y, w, h = cv2.boundingRect(np.concatenate(pieces))
    inside = np.zeros((h, w), np.uint8)
    for piece in pieces:
        cv2.fillPoly(inside, [piece - (x, y)], 1)
    pixels = max(cv2.countNonZero(inside), _FEWEST)
    weight = min(max((_USUAL / pixels) ** text_balance, _LIGHTEST), _HEAVIEST)
    window = weights[y : y + h, x : x + w]
    np.maximum(window, np.float32(weight), out=window, where=inside != 0)


def _shrink_all(
    texts: Texts, height: int, width: int, shrink_ratio: float, min_text_size: float
) -> tuple[list[Shrunk], Outlines]:
    """Return what is left of each text, nothing if it is ignored, and the clipped outlines."""
    outlines = texts.outlines
    most = np.array((width - 1, height - 1), outlines.points.dtype)
    outlines = outlines._replace(points=outlines.points.clip(0, most))
    area, perimeter = outlines.measure()
    # If an outline crosses itself, as clipping may cause, its direction decides what is left.
    outlines = outlines.turned(area < 0)
    area = np.abs(area)
    points, starts, ends, _ = outlines
    size = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)
    side = size.min(axis=1)
    small = (area < 1) | (side < min_text_size)
    paths = points.astype(np.int32).tolist()
    ratios = np.arange(shrink_ratio, 1, shrink_ratio).tolist()
    shrunk = []
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        pieces = []
        if not (texts.ignored[i] or small[i]):
            inwards = mover(paths[start:end])
            for ratio in ratios:
                pieces = inwards.Execute(-area[i] * (1 - ratio**2) / perimeter[i])
                if len(pieces) == 1:
                    break
        arrays = [np.array(piece, np.int32) for piece in pieces]
        shrunk.append(Shrunk(float(side[i]), bool(small[i]), arrays))
    return shrunk, outlines
