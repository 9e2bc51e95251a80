"""A probability map to the polygons of its words, and their scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray

from dbloss import checks

with checks.extra("dbloss.boxes", "targets", "cv2", "pyclipper"):
    import cv2
    import pyclipper

_Floats = NDArray[np.float64]
_Map = NDArray[Any]  # `[H, W]`, float32 or float64
_Points = NDArray[Any]  # `[k, 2]`, or `[n, k, 2]`

# Beyond this float32 does not tell one pixel from the next.
_LARGEST = 2**24


class Boxes(NamedTuple):
    """What was found in one map, box by box."""

    polygons: list[NDArray[np.int32]]  # each `[k, 2]`, its points (x, y) in pixels
    scores: _Floats  # `[boxes]`


def find_boxes(
    probability: Any,
    *,
    thresh: float = 0.3,
    box_thresh: float = 0.6,
    unclip_ratio: float = 1.5,
    max_candidates: int = 1000,
    min_size: float = 3,
    use_dilation: bool = False,
    score_mode: str = "fast",
    box_type: str = "quad",
    height: Any = None,
    width: Any = None,
) -> Any:
    """Return the boxes that PaddleOCR's `DBPostProcess` finds, to the pixel and in its order.

    Pixels above `thresh` are text. The outline of each region of text, and that of each hole in
    one, gives a box: the rectangle of least area around it, which may be turned, or, for
    `box_type="poly"`, the outline itself, simplified. Its score is the mean of the map inside the
    box. A box whose score is not below `box_thresh` grows by `D = area * unclip_ratio / length` on
    all sides, since a DB detector learns shrunk text, and is scaled from the map to the image.

    The score is that of the box before it grows, and `box_thresh` does nothing but drop boxes by
    it. So to try several values of `box_thresh`, find the boxes once with `box_thresh=0`, and for
    each value take those with `scores >= box_thresh`: the same boxes in the same order, whatever
    `max_candidates` is, which counts outlines and not boxes. `thresh` has no such way.

    Args:
        probability: one map, float `[H, W]`, or those of a batch, `[N, 1, H, W]` or
            `[N, 3, H, W]` with the probability map as channel 0, as a DB head returns it: an array
            or a Paddle tensor of any float width, values in [0, 1]. It is never changed.
        thresh: the probability above which a pixel is text, in [0, 1].
        box_thresh: the least score of a box, in [0, 1].
        unclip_ratio: how far a box grows, in [0, 100].
        max_candidates: how many outlines are looked at, the first that OpenCV gives.
        min_size: the least length of the shorter side of a box in pixels of the map, before it
            grows; after that it is `min_size + 2`. A polygon is measured after it has grown only.
        use_dilation: whether regions of text grow by a pixel to the right and below first, which
            joins what is broken.
        score_mode: `"fast"`, the mean over the box, or `"slow"`, over the inside of the outline,
            which is higher and takes longer for ragged outlines. `"poly"` boxes have the mean over
            their own polygon in both.
        box_type: `"quad"`, or `"poly"` for curved text.
        height: of the image whose pixels the polygons shall be in, the map's where it is None. For
            a batch one number, or one for each image. With PaddleOCR's `shape_list`, whose rows
            are (src_h, src_w, ratio_h, ratio_w), pass `shape_list[:, 0]`.
        width: the same; `shape_list[:, 1]`.

    Returns:
        `Boxes(polygons, scores)` for one map, a list of them for a batch. `polygons` is a list of
        int32 arrays `[k, 2]`, points (x, y) with 0 <= x <= `width` and 0 <= y <= `height`. A quad
        has 4, its upper left corner first, then clockwise. `scores` is float64 `[boxes]`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the map has another shape, is empty, or holds NaN or infinity; a number is out
            of range, a name unknown, or there are not as many sizes as images.

    Example:
        >>> import numpy as np
        >>> from dbloss.boxes import find_boxes
        >>> probability = np.zeros((64, 96), np.float32)
        >>> probability[20:31, 10:61] = 0.9
        >>> polygons, scores = find_boxes(probability, height=128, width=192)
        >>> polygons[0].tolist(), [round(float(score), 3) for score in scores]
        ([[8, 28], [132, 28], [132, 72], [8, 72]], [0.9])

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, section "Inference"; PaddleOCR `ppocr/postprocess/db_postprocess.py`.
    """
    settings = _Settings(
        thresh=checks.number("thresh", thresh, least=0, most=1),
        box_thresh=checks.number("box_thresh", box_thresh, least=0, most=1),
        unclip_ratio=checks.number("unclip_ratio", unclip_ratio, least=0, most=100),
        max_candidates=checks.number("max_candidates", max_candidates, least=1, whole=True),
        min_size=checks.number("min_size", min_size, least=0),
        use_dilation=checks.flag("use_dilation", use_dilation),
        slow=checks.choice("score_mode", score_mode, ("fast", "slow")) == "slow",
        poly=checks.choice("box_type", box_type, ("quad", "poly")) == "poly",
    )
    maps, single = _checked_maps(probability)
    count, *size = maps.shape
    heights = _checked_sizes("height", height, size[0], count)
    widths = _checked_sizes("width", width, size[1], count)
    found = [_find(*each, settings) for each in zip(maps, heights, widths)]
    return found[0] if single else found


class _Settings(NamedTuple):
    thresh: float
    box_thresh: float
    unclip_ratio: float
    max_candidates: int
    min_size: float
    use_dilation: bool
    slow: bool
    poly: bool


def _checked_maps(value: Any) -> tuple[NDArray[Any], bool]:
    """Return the probability maps `[N, H, W]`, and whether it was one map without N."""
    shape = list(value.shape if paddle.is_tensor(value) else np.shape(value))
    single = len(shape) == 2
    if not single and (len(shape) != 4 or shape[1] not in (1, 3)):
        raise ValueError(
            "probability: expected the shape [H, W], [N, 1, H, W] or [N, 3, H, W], got"
            f' {shape}. Pass predicts["maps"] of a DB head; .unsqueeze(1) or [:, None] adds the'
            " axis of a single channel."
        )
    if 0 in shape:
        raise ValueError(
            f"probability: expected at least one image and one pixel, got {shape}."
            " Leave out empty batches."
        )
    chosen = value[None] if single else value[:, 0]
    if paddle.is_tensor(value):
        halves = (paddle.float16, paddle.bfloat16)
        chosen = (chosen.astype("float32") if chosen.dtype in halves else chosen).numpy()
    if chosen.dtype.kind != "f":
        raise TypeError(
            f"probability: expected a float dtype, got {chosen.dtype}. Pass probabilities in"
            " [0, 1]; convert a map of 0 and 1 with .astype('float32'), divide one of 0 to 255"
            " by 255."
        )
    # OpenCV takes these two.
    dtype = np.float32 if chosen.dtype.itemsize <= 4 else np.float64
    maps = np.ascontiguousarray(chosen, dtype)
    # Least and greatest are NaN if one value is, and cost less than a look at every value.
    if not (np.isfinite(maps.min()) and np.isfinite(maps.max())):
        image, y, x = np.argwhere(~np.isfinite(maps))[0].tolist()
        raise ValueError(
            f"probability: expected finite numbers, got {maps[image, y, x]} in image {image} at"
            f" (y, x) = ({y}, {x}). The training has diverged, or the input image holds NaN."
        )
    return maps, single


def _checked_sizes(name: str, value: Any, default: int, count: int) -> list[Any]:
    """Return the height or width of each image, raise where it is none."""
    if value is None:
        return [default] * count
    if paddle.is_tensor(value):
        value = value.numpy()
    if np.ndim(value) == 0:
        return [_checked_size(name, value)] * count
    if len(value) != count:
        raise ValueError(
            f"{name}: expected a number, or one for each image, {count}, got {len(value)}."
            f" With PaddleOCR's shape_list pass shape_list[:, {0 if name == 'height' else 1}]."
        )
    return [_checked_size(f"{name}[{i}]", each) for i, each in enumerate(value)]


def _checked_size(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    number = checks.number(name, value, above=0, most=_LARGEST)
    # Scaling by a float64 of NumPy is in float64, where NumPy has it so: PaddleOCR's shape_list.
    return value if isinstance(value, np.generic) else number


def _find(probability: _Map, height: Any, width: Any, settings: _Settings) -> Boxes:
    """Return the boxes of one map."""
    text = (probability > settings.thresh).view(np.uint8)
    if settings.use_dilation:
        text = cv2.dilate(text, np.ones((2, 2), np.uint8))
    contours = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    contours = contours[: settings.max_candidates]
    outlines: Any
    if settings.poly:
        outlines = [cv2.approxPolyDP(c, 0.002 * cv2.arcLength(c, True), True) for c in contours]
        outlines = [outline[:, 0] for outline in outlines if len(outline) >= 4]
        scores = _means_inside(probability, outlines, _windows_of_pixels(outlines))
    else:
        rectangles = [cv2.minAreaRect(contour) for contour in contours]
        large = [i for i, (_, sides, _) in enumerate(rectangles) if min(sides) >= settings.min_size]
        outlines = _corners([rectangles[i] for i in large])
        if settings.slow:
            contours = [contours[i] for i in large]
            scores = _means_inside(probability, contours, _windows_of_pixels(contours))
        else:
            windows = _windows(outlines, probability.shape)
            scores = _means_inside(probability, outlines.astype(np.int32), windows)

    kept = np.flatnonzero(scores >= settings.box_thresh)
    if settings.poly:
        outlines = [outlines[i] for i in kept]
        distances = [_distance(outline, settings.unclip_ratio) for outline in outlines]
    else:
        outlines = outlines[kept]
        distances = _distance(outlines, settings.unclip_ratio).tolist()
        outlines = outlines.astype(np.int64)

    grown, large = [], []
    for i, outline, distance in zip(kept, outlines, distances):
        paths = _grow(outline.tolist(), distance)
        if len(paths) != 1:
            continue
        path = np.array(paths[0], np.int32)
        rectangle = cv2.minAreaRect(path)
        if min(rectangle[1]) >= settings.min_size + 2:
            grown.append(path if settings.poly else rectangle)
            large.append(i)
    sizes = probability.shape[::-1], (width, height)
    polygons = (
        [_scaled(path, *sizes) for path in grown]
        if settings.poly
        else list(_scaled(_corners(grown), *sizes))
    )
    return Boxes(polygons, scores[large])


def _corners(rectangles: list[Any]) -> _Points:
    """Return the corners of OpenCV's rectangles, `[n, 4, 2]`, clockwise from the upper left."""
    points = np.array([cv2.boxPoints(each) for each in rectangles], np.float32).reshape(-1, 4, 2)
    order = np.argsort(points[..., 0], axis=1, kind="stable")
    y = np.take_along_axis(points[..., 1], order, axis=1)
    # Of the two on the left the upper is the first and the lower the last.
    left, right = y[:, 1] <= y[:, 0], y[:, 3] <= y[:, 2]
    clockwise = np.stack((left, 2 + right, 3 - right, 1 - left), axis=1)
    order = np.take_along_axis(order, clockwise, axis=1)
    return np.take_along_axis(points, order[..., None], axis=1)


def _windows(outlines: _Points, shape: tuple[int, ...]) -> Any:
    """Return left, top, right and bottom of the pixels around each outline."""
    last = np.array(shape[::-1]) - 1
    low = np.floor(outlines.min(axis=1)).clip(0, last)
    high = np.ceil(outlines.max(axis=1)).clip(0, last)
    return np.concatenate((low, high + 1), axis=1).astype(int).tolist()


def _windows_of_pixels(outlines: Sequence[_Points]) -> Any:
    """Return the same for outlines of pixels of the map."""
    boxes = map(cv2.boundingRect, outlines)
    return [(x, y, x + w, y + h) for x, y, w, h in boxes]


def _means_inside(probability: _Map, outlines: Any, windows: Any) -> _Floats:
    """Return the mean of the map inside each outline of whole pixels."""
    means = np.empty(len(outlines))
    for i, (outline, (left, top, right, bottom)) in enumerate(zip(outlines, windows)):
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [outline], 1, offset=(-left, -top))
        means[i] = cv2.mean(probability[top:bottom, left:right], mask)[0]
    return means


def _distance(points: _Points, unclip_ratio: float) -> Any:
    """Return how far outlines grow, from `[k, 2]` or `[n, k, 2]`."""
    x, y = np.moveaxis(points.astype(np.float64), -1, 0)
    next_x, next_y = np.roll(x, -1, axis=-1), np.roll(y, -1, axis=-1)
    # The sums one after the other, and the area by these products, as GEOS has them under shapely:
    # to the last bit, since the points of what grows are rounded to pixels.
    sides = np.sqrt((next_x - x) ** 2 + (next_y - y) ** 2)
    length = np.cumsum(sides, axis=-1)[..., -1]
    products = (x[..., 1:] - x[..., :1]) * (y[..., :-1] - next_y[..., 1:])
    area = np.abs(np.cumsum(products, axis=-1)[..., -1] / 2)
    return area * unclip_ratio / np.where(length > 0, length, 1)


def _grow(path: list[list[int]], distance: float) -> Any:
    """Return the outlines of a polygon that has grown by a distance, with round joins."""
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset.Execute(distance)


def _scaled(points: _Points, size: tuple[int, ...], target: tuple[Any, Any]) -> NDArray[np.int32]:
    """Return points of a map, given with its width and height, as pixels of the image."""
    # Each axis alone: the dtype in which it is rounded is that of its own target.
    axes = (
        np.clip(np.round(points[..., i] / size[i] * target[i]), 0, target[i]) for i in range(2)
    )
    return np.stack(tuple(axes), axis=-1).astype(np.int32)
