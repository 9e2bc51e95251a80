"""From a probability map to the polygons of its words and their scores."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import paddle
from numpy.typing import NDArray

from dbloss.base import checks
from dbloss.base.tensors import to_array

with checks.needing("dbloss.boxes", "cv2", "pyclipper"):
    import cv2
    import pyclipper

ScoreMode = Literal["fast", "slow"]
BoxType = Literal["quad", "poly"]
_Floats = NDArray[np.float64]
_Map = NDArray[Any]  # `[H, W]`, float32 or float64
_Points = NDArray[Any]  # `[k, 2]`, or `[n, k, 2]`
_Window = Sequence[int]  # left, top, right and bottom, the last two exclusive


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
    score_mode: ScoreMode = "fast",
    box_type: BoxType = "quad",
    height: Any = None,
    width: Any = None,
) -> Any:
    """Return the boxes that PaddleOCR's `DBPostProcess` finds, to the pixel and in its order.

    Pixels above `thresh` are text. The outline of each region of text, and that of each hole in
    one, gives a box: the rectangle of least area around it, at any angle, or, for
    `box_type="poly"`, the outline itself, simplified. Its score is the mean of the map inside the
    box. A box whose score is at least `box_thresh` grows by `D = area * unclip_ratio / length` on
    all sides, since a DB detector learns shrunk text, and is scaled from the map to the image.
    OpenCV finds the outlines, and its versions differ by a pixel here and there; so the boxes
    differ too, as PaddleOCR's do.

    With `box_type="poly"` a region that has several outlines after it has grown is dropped, as in
    PaddleOCR. So a ring of text with a gap gives no polygon where the gap is narrower than 2 D: its
    ends meet, and it has an outer and an inner outline. Simplifying a polygon and rounding it to
    pixels can make it cross itself; `dbloss.score` leaves such polygons out, as PaddleOCR's score
    does.

    The score is taken before a box grows, and `box_thresh` only drops boxes with a lower one. So to
    try several values of `box_thresh`, find the boxes once with `box_thresh=0`, and for each value
    take those with `scores >= box_thresh`: they are the same boxes in the same order, whatever
    `max_candidates` is, which limits outlines and not boxes. Each value of `thresh` needs a search
    of its own.

    Args:
        probability: one map, float `[H, W]`, or those of a batch, `[N, 1, H, W]` or
            `[N, 3, H, W]` with the probability map as channel 0, as a DB head returns it: an array
            or a Paddle tensor of any float width, values in [0, 1]. It is never changed.
        thresh: the probability above which a pixel is text, in [0, 1].
        box_thresh: the least score of a box, in [0, 1].
        unclip_ratio: how far a box grows, in [0, 100].
        max_candidates: how many outlines are looked at, the first ones in OpenCV's order.
        min_size: the least length of the shorter side of a box before it grows, in pixels of the
            map; after it has grown its shorter side must be at least `min_size + 2`. A polygon has
            to pass only the second.
        use_dilation: whether regions of text are first dilated by one pixel to the right and
            downwards, which joins broken ones.
        score_mode: `"fast"`, the mean over the box, or `"slow"`, the mean inside the outline of the
            region, which is higher for ragged regions and takes longer. With `box_type="poly"` both
            are the mean inside the polygon.
        box_type: `"quad"`, or `"poly"` for curved text.
        height: height of the image, in whose pixels the polygons are returned; None if it is that
            of the map. For a batch one number, or one for each image. With PaddleOCR's
            `shape_list`, rows of (src_h, src_w, ratio_h, ratio_w), pass `shape_list[:, 0]`.
        width: width of the image, likewise; `shape_list[:, 1]`.

    Returns:
        `Boxes(polygons, scores)` for one map, a list of them for a batch. `polygons` is a list of
        int32 arrays `[k, 2]`, points (x, y) with 0 <= x <= `width` and 0 <= y <= `height`. A quad
        has 4, clockwise from the upper one of its two leftmost points, as PaddleOCR orders them.
        That is the upper left corner of the text, except where upright text leans by more than its
        width: then both leftmost points are at the same end of it. `scores` is float64 `[boxes]`.

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
    found, _, single = _search(
        probability,
        height,
        width,
        thresh=thresh,
        box_thresh=box_thresh,
        unclip_ratio=unclip_ratio,
        max_candidates=max_candidates,
        min_size=min_size,
        use_dilation=use_dilation,
        score_mode=score_mode,
        box_type=box_type,
    )
    boxes = [each.boxes for each in found]
    return boxes[0] if single else boxes


def boxes_with_pixels(probability: Any, **settings: Any) -> tuple[Boxes, list[NDArray[Any]]]:
    """Return `find_boxes` of one map, and for each box the pixels whose mean is its score.

    A change of the map that leaves its outlines where they are needs no new search: the scores are
    the means of the changed pixels.
    """
    asked = signature(find_boxes).bind(probability, **settings)
    asked.apply_defaults()
    (found, *_), (one, *_), single = _search(**asked.arguments)
    if not single:
        raise checks.wrong(
            "maps", "one map [H, W] per image", "a batch", "Pass maps[i, 0] for each image i."
        )
    return found.boxes, [_inside(one, *each) for each in zip(found.outlines, found.windows)]


def _search(
    probability: Any,
    height: Any,
    width: Any,
    *,
    thresh: Any,
    box_thresh: Any,
    unclip_ratio: Any,
    max_candidates: Any,
    min_size: Any,
    use_dilation: Any,
    score_mode: Any,
    box_type: Any,
) -> tuple[list["_Found"], NDArray[Any], bool]:
    """Return what is found in each map, the maps, and whether one map without axis N was given."""
    settings = _Settings(
        thresh=checks.number("thresh", thresh, least=0, most=1),
        box_thresh=checks.number("box_thresh", box_thresh, least=0, most=1),
        unclip_ratio=checks.number("unclip_ratio", unclip_ratio, least=0, most=100),
        max_candidates=checks.whole("max_candidates", max_candidates, least=1),
        min_size=checks.number("min_size", min_size, least=0),
        use_dilation=checks.flag("use_dilation", use_dilation),
        slow=checks.choice("score_mode", score_mode, get_args(ScoreMode)) == "slow",
        poly=checks.choice("box_type", box_type, get_args(BoxType)) == "poly",
    )
    maps, single = _checked_maps(probability)
    count, *size = maps.shape
    heights = _checked_sizes("height", height, size[0], count)
    widths = _checked_sizes("width", width, size[1], count)
    found = [_find(*each, settings) for each in zip(maps, heights, widths)]
    return found, maps, single


class _Settings(NamedTuple):
    thresh: float
    box_thresh: float
    unclip_ratio: float
    max_candidates: int
    min_size: float
    use_dilation: bool
    slow: bool
    poly: bool


class _Found(NamedTuple):
    """The boxes of one map, and the outlines inside which their scores were taken."""

    boxes: Boxes
    outlines: list[_Points]  # each int32 `[k, 2]`, on the map
    windows: list[_Window]  # one around each outline


def _checked_maps(value: Any) -> tuple[NDArray[Any], bool]:
    """Return the probability maps `[N, H, W]`, and whether one map without axis N was given."""
    if not paddle.is_tensor(value):
        try:
            value = np.asarray(value)
        except ValueError:
            got = "rows of different lengths"
            advice = "Pass maps of one size, or one map at a time."
            raise checks.wrong("probability", "an array or a tensor", got, advice) from None
    shape = list(value.shape)
    single = len(shape) == 2
    if not single and (len(shape) != 4 or shape[1] not in (1, 3)):
        expected = "the shape [H, W], [N, 1, H, W] or [N, 3, H, W]"
        advice = 'Pass predicts["maps"] of a DB head; [:, None] adds the axis of a channel.'
        raise checks.wrong("probability", expected, shape, advice)
    if 0 in shape:
        raise checks.wrong(
            "probability", "at least one image and one pixel", shape, "Leave out empty batches."
        )
    chosen = value[None] if single else value[:, 0]
    if paddle.is_tensor(value):
        chosen = to_array(chosen)
    if chosen.dtype.kind != "f":
        advice = "Convert 0 and 1 with .astype('float32'), divide 0 to 255 by 255."
        raise checks.wrong("probability", "a float dtype", chosen.dtype, advice, TypeError)
    # OpenCV takes float32 and float64 only.
    dtype = np.float32 if chosen.dtype.itemsize <= 4 else np.float64
    maps = np.ascontiguousarray(chosen, dtype)
    for image, probability in enumerate(maps):
        finite = np.isfinite(probability)
        if not finite.all():
            y, x = np.argwhere(~finite)[0].tolist()
            got = f"{probability[y, x]} in image {image} at (y, x) = ({y}, {x})"
            advice = "The training has diverged, or the input image holds NaN."
            raise checks.wrong("probability", "finite numbers", got, advice)
    return maps, single


def _checked_sizes(name: str, value: Any, default: int, count: int) -> list[Any]:
    """Return the height or width of each image, raise if one is not a size."""
    if value is None:
        return [default] * count
    if paddle.is_tensor(value):
        value = value.numpy()
    if np.ndim(value) == 0:
        return [_checked_size(name, value)] * count
    if len(value) != count:
        column = 0 if name == "height" else 1
        advice = f"With PaddleOCR's shape_list pass shape_list[:, {column}]."
        raise checks.wrong(name, f"a number, or {count}, one for each image", len(value), advice)
    return [_checked_size(f"{name}[{i}]", each) for i, each in enumerate(value)]


def _checked_size(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    number = checks.number(name, value, above=0, most=checks.FARTHEST)
    # PaddleOCR's shape_list holds NumPy's float64. In NumPy 2 a float32 coordinate times one of
    # these gives a float64, and times a Python float a float32: so the number keeps its type.
    return value if isinstance(value, np.generic) else number


def _find(probability: _Map, height: Any, width: Any, settings: _Settings) -> _Found:
    """Return the boxes of one map."""
    text = (probability > settings.thresh).view(np.uint8)
    if settings.use_dilation:
        text = cv2.dilate(text, np.ones((2, 2), np.uint8))
    contours = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    contours = contours[: settings.max_candidates]
    outlines: Any
    if settings.poly:
        outlines = scored = _simplified(contours)
        windows = _windows_of_pixels(scored)
    else:
        outlines, contours = _rectangles(contours, settings.min_size)
        scored = contours if settings.slow else outlines.astype(np.int32)
        windows = _windows_of_pixels(scored) if settings.slow else _windows(outlines, text.shape)
    scores = np.array(
        [_mean_inside(probability, *each) for each in zip(scored, windows)], np.float64
    )

    kept = np.flatnonzero(scores >= settings.box_thresh).tolist()
    if settings.poly:
        outlines = [outlines[i] for i in kept]
        distances = [_distance(outline, settings.unclip_ratio) for outline in outlines]
    else:
        outlines = outlines[kept]
        distances = _distance(outlines, settings.unclip_ratio).tolist()

    grown: Any = []
    large: list[int] = []
    for i, outline, distance in zip(kept, outlines, distances):
        paths = _grow(outline, distance)
        if len(paths) != 1:
            continue
        path = np.array(paths[0], np.int32)
        rectangle = cv2.minAreaRect(path)
        if min(rectangle[1]) >= settings.min_size + 2:
            grown.append(path if settings.poly else rectangle)
            large.append(i)
    outlines = grown if settings.poly else _corners(grown)
    polygons = _scaled(outlines, probability.shape[::-1], (width, height))
    boxes = Boxes(polygons, scores[large])
    return _Found(boxes, [scored[i] for i in large], [windows[i] for i in large])


def _rectangles(contours: Sequence[_Points], min_size: float) -> tuple[_Points, list[_Points]]:
    """Return the rectangles that are large enough, `[n, 4, 2]`, and the contours inside them."""
    rectangles, around = [], []
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        if min(rectangle[1]) >= min_size:
            rectangles.append(rectangle)
            around.append(contour)
    return _corners(rectangles), around


def _simplified(contours: Sequence[_Points]) -> list[_Points]:
    """Return the contours with fewer points, each `[k, 2]`, k >= 4."""
    simple = [cv2.approxPolyDP(each, 0.002 * cv2.arcLength(each, True), True) for each in contours]
    return [points[:, 0] for points in simple if len(points) >= 4]


def _corners(rectangles: list[Any]) -> _Points:
    """Return the corners of OpenCV's rectangles, `[n, 4, 2]`, in PaddleOCR's order."""
    points = np.array([cv2.boxPoints(each) for each in rectangles], np.float32).reshape(-1, 4, 2)
    each = np.arange(len(points))[:, None]
    points = points[each, points[..., 0].argsort(axis=1, kind="stable")]
    # Of the two leftmost points the upper one comes first and the lower one last.
    left, right = points[:, 1, 1] <= points[:, 0, 1], points[:, 3, 1] <= points[:, 2, 1]
    clockwise = np.array((left, 2 + right, 3 - right, 1 - left), int).T
    corners: _Points = points[each, clockwise]
    return corners


def _windows(outlines: _Points, shape: tuple[int, ...]) -> list[_Window]:
    """Return the smallest window around each outline, cut off at the border of the map."""
    last = np.array(shape[::-1]) - 1
    low = np.floor(outlines.min(axis=1)).clip(0, last)
    high = np.ceil(outlines.max(axis=1)).clip(0, last)
    windows: list[_Window] = np.concatenate((low, high + 1), axis=1).astype(int).tolist()
    return windows


def _windows_of_pixels(outlines: Sequence[_Points]) -> list[_Window]:
    """Return the smallest window around each outline, whose points are pixels of the map."""
    boxes = map(cv2.boundingRect, outlines)
    return [(x, y, x + w, y + h) for x, y, w, h in boxes]


def _mask(outline: _Points, window: _Window) -> NDArray[np.uint8]:
    """Return the window with 1 inside an outline of whole pixels, and 0 outside."""
    left, top, right, bottom = window
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [outline], 1, offset=(-left, -top))
    return mask


def _mean_inside(values: _Map, outline: _Points, window: _Window) -> float:
    left, top, right, bottom = window
    mean: float = cv2.mean(values[top:bottom, left:right], _mask(outline, window))[0]
    return mean


def _inside(values: _Map, outline: _Points, window: _Window) -> NDArray[Any]:
    """Return the pixels that `_mean_inside` takes the mean of."""
    left, top, right, bottom = window
    inside: NDArray[Any] = values[top:bottom, left:right][_mask(outline, window) != 0]
    return inside


def share_inside(marked: NDArray[np.bool_], polygon: NDArray[np.int32]) -> float:
    """Return which share of the pixels inside both the polygon and the map is marked."""
    (window,) = _windows(polygon[None], marked.shape)
    return _mean_inside(marked.view(np.uint8), polygon, window)


def _distance(outlines: _Points, unclip_ratio: float) -> Any:
    """Return how far an outline `[k, 2]` grows, or each of several, `[n, k, 2]`."""
    closed = np.concatenate((outlines, outlines[..., :1, :]), axis=-2, dtype=np.float64)
    x, y = closed[..., 0], closed[..., 1]
    # PaddleOCR asks shapely, and so GEOS. The terms here are those of GEOS, added up in its order:
    # an area that differs in its last bit can round a corner of the grown box to another pixel.
    sides = np.sqrt((x[..., 1:] - x[..., :-1]) ** 2 + (y[..., 1:] - y[..., :-1]) ** 2)
    products = (x[..., 1:-1] - x[..., :1]) * (y[..., :-2] - y[..., 2:])
    length, twice_area = (terms.cumsum(axis=-1)[..., -1] for terms in (sides, products))
    return np.abs(twice_area / 2) * unclip_ratio / np.where(length > 0, length, 1)


def _grow(outline: _Points, distance: float) -> Any:
    """Return the outlines of a polygon that has grown by a distance, with round joins."""
    path = outline.astype(
        np.int64
    ).tolist()  # pyclipper would cut off the decimals too, more slowly
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset.Execute(distance)


def _scaled(
    outlines: Sequence[_Points], size: tuple[int, ...], target: tuple[Any, Any]
) -> list[NDArray[np.int32]]:
    """Scale outlines from a map of (width, height) `size` to the pixels of an image."""
    if not len(outlines):
        return []
    points = np.concatenate(outlines)
    pixels = np.empty(points.shape, np.int32)
    for i in range(2):
        pixels[:, i] = (points[:, i] / size[i] * target[i]).round().clip(0, target[i])
    ends = np.cumsum([len(outline) for outline in outlines])
    return np.split(pixels, ends[:-1])
