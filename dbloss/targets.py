"""Text polygons to the four label maps that the loss is trained with."""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import ArrayLike, NDArray

from dbloss import checks

with checks.needing("dbloss.targets", "cv2", "pyclipper", "numba"):
    import cv2
    import pyclipper
    from numba import njit

    from dbloss._compiled import compiled, options

_Floats = NDArray[np.float64]
_Maps = NDArray[np.float32]
_Indices = NDArray[np.int64]

# With `text_balance`: the pixels of a shrunk text of weight 1, the fewest that one is taken for,
# the least and the greatest weight, and the exponent up to which this is a balance.
_USUAL, _FEWEST, _LIGHTEST, _HEAVIEST, _STEEPEST = 200, 20, 0.25, 6.0, 2


class Targets(NamedTuple):
    """The four label maps of one image, each float32 `[height, width]`."""

    threshold_map: _Maps
    threshold_mask: _Maps
    shrink_map: _Maps
    shrink_mask: _Maps


class WeightedTargets(NamedTuple):
    """The label maps of one image with the weights of its pixels, float32 `[height, width]`."""

    threshold_map: _Maps
    threshold_mask: _Maps
    shrink_map: _Maps
    shrink_mask: _Maps
    text_weights: _Maps


class Shrunk(NamedTuple):
    """What the shrink map has of one polygon: its pieces, or none where it does not count."""

    side: float  # the lesser of its width and height, in pixels, of what the image holds of it
    too_small: bool  # narrower or lower than `min_text_size`, or of an area under 1
    pieces: list[NDArray[np.int32]]  # each `[k, 2]`, corners (x, y) of what is drawn as text


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
    text_balance: float = 0,
) -> Targets | WeightedTargets:
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

    Text weights, where `text_balance` is above 0: `(200 / a)^text_balance`, clipped to [0.25, 6],
    on the pixels of a shrunk text that has a of them, a at least 20; 1 elsewhere. So a small word
    weighs more, and with 1 each text as much as any other within the clip. Where two shrunk texts
    share a pixel the greater weight counts. PaddleOCR has no such weights.

    Every polygon has a result, and no polygons give the maps of a page without text. Its
    direction, and a point given twice, change nothing. One of zero area leaves the threshold map
    and mask alone and counts as ignored. Where one crosses itself, lobes of opposite direction
    subtract from its area, and of several pieces that it grows to the first counts. One partly
    outside the image is cut off in the threshold map and clipped in the shrink map. One wholly
    outside reaches into the threshold map as far as it grows; clipped, it is a line on the image's
    border, and ignored there.

    The length of an edge is computed in float32 where float32 holds all coordinates exactly, as
    PaddleOCR's label reader makes them, and in float64 elsewhere. Float32 rounds it, and so a pixel
    within a few hundredths of a pixel of that edge can be left out, as PaddleOCR leaves it.

    It runs in a single thread and keeps nothing between calls, so that it may run in a forked
    DataLoader worker. Its loops are compiled once, when the module is first imported; later
    processes load them.

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
        text_balance: exponent of the text weights, in [0, 2]; 0 makes none.

    Returns:
        `Targets(threshold_map, threshold_mask, shrink_map, shrink_mask)`, each float32
        `[height, width]`, and with `text_balance` above 0 `WeightedTargets`, which ends with
        `text_weights`. They share one allocation; copy a map to keep it alone.

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
    border = _border_half(shrink_ratio, thresh_min, thresh_max)
    balance = _checked_balance(text_balance)
    shrink = _shrink_half(shrink_ratio, min_text_size, balance if balance > 0 else None)
    maps, _ = _draw(polygons, ignored, height, width, border, shrink)
    return WeightedTargets(**maps) if "text_weights" in maps else Targets(**maps)


class _Texts(NamedTuple):
    """The texts of a page as a step finds them."""

    outlines: "_Outlines"
    ignored: NDArray[np.bool_]  # `[polygons]`


class _Half(NamedTuple):
    """What one of PaddleOCR's two steps makes."""

    blank: dict[str, float]  # its maps, and what each holds where there is no text
    draw: Callable[
        ..., _Texts
    ]  # draws into them, and returns the texts as the next step finds them


def _border_half(shrink_ratio: Any, thresh_min: Any, thresh_max: Any) -> _Half:
    ratio = _checked_ratio(shrink_ratio)
    most = checks.number("thresh_max", thresh_max, least=0, most=1)
    least = checks.number("thresh_min", thresh_min, least=0, most=most)
    draw = partial(_draw_border, shrink_ratio=ratio, thresh_min=least, thresh_max=most)
    return _Half({"threshold_map": least, "threshold_mask": 0}, draw)


def _shrink_half(shrink_ratio: Any, min_text_size: Any, text_balance: Any) -> _Half:
    """Return the half that draws the shrink map, without weights where `text_balance` is None."""
    ratio = _checked_ratio(shrink_ratio)
    least = checks.number("min_text_size", min_text_size, least=0)
    settings = {"shrink_ratio": ratio, "min_text_size": least}
    blank = {"shrink_map": 0.0, "shrink_mask": 1.0}
    if text_balance is not None:
        settings["text_balance"] = _checked_balance(text_balance)
        blank["text_weights"] = 1.0
    return _Half(blank, partial(_draw_shrunk, **settings))


def _draw(
    polygons: Any, ignored: Any, height: Any, width: Any, *halves: _Half
) -> tuple[dict[str, _Maps], _Texts | None]:
    """Return the maps of the halves by name, and the texts as they are after the last half."""
    height, width = _checked_size("height", height), _checked_size("width", width)
    arrays = checks.polygons("polygons", polygons)
    skipped = checks.ignored("ignored", ignored, len(arrays))

    blank = {name: value for half in halves for name, value in half.blank.items()}
    # One allocation for all: a large one comes in large pages, which are far fewer.
    maps = dict(zip(blank, np.empty((len(blank), height, width), np.float32)))
    for name, value in blank.items():
        maps[name].fill(value)
    if not arrays:
        return maps, None
    texts = _Texts(_join(arrays), skipped)
    for half in halves:
        texts = half.draw(texts, **{name: maps[name] for name in half.blank})
    return maps, texts


def _checked_ratio(value: Any) -> float:
    ratio: float = checks.number("shrink_ratio", value, least=0.01, below=1)
    return ratio


def _checked_balance(value: Any) -> float:
    balance: float = checks.number("text_balance", value, least=0, most=_STEEPEST)
    return balance


def stack_targets(targets: Sequence[Sequence[_Maps]], image: Any = None) -> list[Any]:
    """Return the labels of a batch, made of the label maps of its images.

    It is for arrays that are at hand. A `paddle.io.DataLoader` needs nothing: a dataset that
    returns `(image, *make_targets(...))` gives batches that `DBLoss` takes as its labels.

    Args:
        targets: what `make_targets` returned for each image, all of one height and width.
        image: the first of the labels, which no loss reads.

    Returns:
        `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`, as `DBLoss` and
        `validate_batch` take them: each but the image a float32 tensor `[N, height, width]`. Of
        `WeightedTargets` there is a sixth, `text_weights`.

    Raises:
        TypeError: `targets` are those of a single image, or not arrays.
        ValueError: there is no image, sizes differ, or not all of them have weights.

    Example:
        >>> from dbloss import validate_batch
        >>> from dbloss.targets import make_targets, stack_targets
        >>> box = [(34, 38), (94, 38), (94, 58), (34, 58)]
        >>> pages = [make_targets([box], [flag], height=96, width=128) for flag in (False, True)]
        >>> labels = stack_targets(pages)
        >>> validate_batch(None, labels).positive
        (441.0, 0.0)

    Source:
        The batch that PaddleOCR's data loader makes with `KeepKeys` of `image`, `threshold_map`,
        `threshold_mask`, `shrink_map` and `shrink_mask`.
    """
    single = isinstance(targets, Targets | WeightedTargets)
    pages = list(targets)
    if single or not all(isinstance(page, Sequence) for page in pages):
        got = "that of a single image" if single else f"{type(pages[0]).__name__} in it"
        raise TypeError(
            f"targets: expected what make_targets returned for each image, in a list, got {got}."
            " Pass [make_targets(...)] for a batch of one image."
        )
    if not pages:
        raise ValueError("targets: expected those of at least one image, got none. Skip the batch.")
    size = np.shape(pages[0][0])
    for i, page in enumerate(pages):
        if len(page) != len(pages[0]):
            raise ValueError(
                f"targets: expected {len(pages[0])} maps of each image, as of the first, got"
                f" {len(page)} of image {i}. Make all of them with text_balance, or none."
            )
        for target in page:
            if np.shape(target) != size:
                raise ValueError(
                    f"targets: expected maps of one size, {list(size)} as the first, got"
                    f" {list(np.shape(target))} of image {i}. Resize or pad the images of a batch"
                    " to one size, and make the targets at that size."
                )
    return [image, *(paddle.to_tensor(np.stack(maps)) for maps in zip(*pages))]


def _checked_size(name: str, value: Any) -> int:
    """Return `value` if it is a whole number of pixels, raise otherwise."""
    try:
        pixels = operator.index(value)
    except TypeError:
        pixels = None
    if pixels is None or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number of pixels, got {type(value).__name__} {value!r}."
            " Pass an int, as in image.shape."
        )
    if pixels < 1:
        raise ValueError(
            f"{name}: expected at least 1 pixel, got {pixels}. Pass the size of the image."
        )
    return pixels


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

    def turned(self, which: NDArray[np.bool_]) -> "_Outlines":
        """Return the outlines, some of them with their points in the other order."""
        points = self.points.copy()
        for i in np.flatnonzero(which):
            points[self.starts[i] : self.ends[i]] = self.points[self.starts[i] : self.ends[i]][::-1]
        return self._replace(points=points)


def _join(arrays: list[NDArray[Any]]) -> _Outlines:
    counts = np.array([len(array) for array in arrays], np.int64)
    points = np.concatenate(arrays).astype(np.float64, order="C")
    single = points.astype(np.float32)
    ends = np.cumsum(counts)
    starts = ends - counts
    following = np.arange(1, len(points) + 1, dtype=np.int64)
    following[ends - 1] = starts
    return _Outlines(single if (single == points).all() else points, starts, ends, following)


def _draw_border(
    texts: _Texts,
    threshold_map: _Maps,
    threshold_mask: _Maps,
    shrink_ratio: float,
    thresh_min: float,
    thresh_max: float,
) -> _Texts:
    outlines, skipped = texts
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
            cv2.fillPoly(threshold_mask, [outline], 1)
            x, y, w, h = cv2.boundingRect(outline)
            boxes[i] = (x, y), (x + w, y + h)

    windows = boxes.clip(0, threshold_map.shape[::-1])
    counts = outlines.ends - outlines.starts
    origin, left_top = (np.repeat(at[:, 0], counts, axis=0) for at in (boxes, windows))
    # PaddleOCR makes the distance to a line from the three sides of the triangle that a pixel
    # makes with the edge, and squares the edge in the dtype of the points.
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
    """Lower `nearest`, squared distances in a polygon's window, to those of an edge."""
    height, width = nearest.shape
    left = max(int(min(start[0], stop[0]) - reach), 0)
    top = max(int(min(start[1], stop[1]) - reach), 0)
    right = max(min(int(max(start[0], stop[0]) + reach) + 2, width), left)
    bottom = min(int(max(start[1], stop[1]) + reach) + 2, height)

    along_x, along_y = stop - start
    exact = along_x**2 + along_y**2
    if square == 0:  # a point given twice: no line, whatever the length
        square = exact = 1.0
    # Adding this times `dot` to the squared distance does what the rounding of `square` does to
    # PaddleOCR's. On the edge `dot` is negative, the sum may be so too, and its root is NaN.
    error = np.float32((square - exact) / square)
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
            # A positive dot is an acute angle, so the line does not count. Of the two ends only
            # the start is looked at: the end is the start of the edge after.
            if dot > 0:
                squared = (x - start_x) * (x - start_x) + square_y
            row[i] = min(row[i], squared)


# Compiled when it is imported: a forked worker has nothing left to compile.
@compiled(
    "f4[:,::1], f8[:,::1], f8[::1], i8[::1], i8[::1], i8[::1], i8[:,:,::1], f8[::1], f8, f8",
    fastmath={"contract"},
)
def _draw_thresholds(  # type: ignore[no-untyped-def]
    canvas, points, squares, starts, ends, following, windows, reach, least, greatest
):
    """Raise the canvas to the thresholds around each polygon.

    `points` are relative to the window of their polygon; `squares` are those of the edges.
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


def shrink(
    polygons: Sequence[ArrayLike],
    height: int,
    width: int,
    *,
    shrink_ratio: float = 0.4,
    min_text_size: float = 8,
) -> list[Shrunk]:
    """Return what the shrink map of `make_targets` has of each polygon, without drawing it.

    That is the polygon, clipped to the image, with its outline moved inwards by
    `D = area * (1 - shrink_ratio^2) / perimeter`. Nothing is left of one that is too small.

    Args:
        polygons: as for `make_targets`.
        height: of the image, in pixels.
        width: of the image, in pixels.
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
    height, width = _checked_size("height", height), _checked_size("width", width)
    shrink_ratio = _checked_ratio(shrink_ratio)
    min_text_size = checks.number("min_text_size", min_text_size, least=0)
    arrays = checks.polygons("polygons", polygons)
    if not arrays:
        return []
    texts = _Texts(_join(arrays), np.zeros(len(arrays), bool))
    shrunk, _ = _shrink(texts, height, width, shrink_ratio, min_text_size)
    return shrunk


def _draw_shrunk(
    texts: _Texts,
    shrink_map: _Maps,
    shrink_mask: _Maps,
    shrink_ratio: float,
    min_text_size: float,
    text_balance: float = 0,
    text_weights: _Maps | None = None,
) -> _Texts:
    """Draw the shrink map and its mask, and the weights of text where there are any.

    A text without a piece is an ignored one from then on, and all are clipped to the image and run
    in one direction, as PaddleOCR's step leaves them.
    """
    height, width = shrink_map.shape
    shrunk, outlines = _shrink(texts, height, width, shrink_ratio, min_text_size)
    pixels = outlines.points.astype(np.int32)
    if text_weights is not None:
        text_weights.fill(0)  # until all are drawn: of two weights the greater stays
    for (_, _, pieces), start, end in zip(shrunk, outlines.starts, outlines.ends):
        for piece in pieces:
            cv2.fillPoly(shrink_map, [piece], 1)
        if pieces and text_weights is not None:
            _weigh(text_weights, pieces, text_balance)
        if not pieces:
            cv2.fillPoly(shrink_mask, [pixels[start:end]], 0)
    if text_weights is not None:
        np.copyto(text_weights, 1, where=text_weights == 0)
    return _Texts(outlines, np.array([not each.pieces for each in shrunk]))


def _weigh(weights: _Maps, pieces: list[NDArray[np.int32]], text_balance: float) -> None:
    """Raise the weights of the pixels of one shrunk text to what they weigh."""
    x, y, w, h = cv2.boundingRect(np.concatenate(pieces))
    inside = np.zeros((h, w), np.uint8)
    for piece in pieces:
        cv2.fillPoly(inside, [piece - (x, y)], 1)
    pixels = max(cv2.countNonZero(inside), _FEWEST)
    weight = min(max((_USUAL / pixels) ** text_balance, _LIGHTEST), _HEAVIEST)
    window = weights[y : y + h, x : x + w]
    np.maximum(window, np.float32(weight), out=window, where=inside != 0)


def _shrink(
    texts: _Texts, height: int, width: int, shrink_ratio: float, min_text_size: float
) -> tuple[list[Shrunk], _Outlines]:
    """Return what is left of each text that is not ignored, and all outlines as they are shrunk."""
    outlines = texts.outlines
    most = np.array((width - 1, height - 1), outlines.points.dtype)
    outlines = outlines._replace(points=outlines.points.clip(0, most))
    area, perimeter = outlines.measure()
    # Where an outline crosses itself, be it by the clipping, its direction decides what is left.
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
            offset = _offset(paths[start:end])
            for ratio in ratios:
                pieces = offset.Execute(-area[i] * (1 - ratio**2) / perimeter[i])
                if len(pieces) == 1:
                    break
        arrays = [np.array(piece, np.int32) for piece in pieces]
        shrunk.append(Shrunk(float(side[i]), bool(small[i]), arrays))
    return shrunk, outlines


def _offset(path: list[list[int]]) -> Any:
    """Return what moves an outline by a distance, outwards where it is positive."""
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset
