"""Which of the boxes found in an image are hits, by the rules of ICDAR 2015 and PaddleOCR."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbloss.base import checks

with checks.needing("dbloss.score", "shapely"):
    import shapely

_Floats = NDArray[np.float64]
Geometries = NDArray[np.object_]

# A box with more than this share of its area inside an ignored text does not count.
IGNORED_SHARE = 0.5

# An overlap this close to `iou` is computed exactly as PaddleOCR does, since rounding decides.
_CLOSE = 1e-6


class Match(NamedTuple):
    """Which boxes of one image are hits.

    `found` is how many boxes count, `truth` how many texts, `hits` how many of them are matched,
    and `pairs` holds the indices (box, text) of the matches, text by text.
    """

    hits: int
    found: int
    truth: int
    pairs: list[tuple[int, int]]


def match(
    found: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    ignored: Sequence[bool],
    iou: float = 0.5,
) -> Match:
    """Match the boxes found in an image with its texts, as ICDAR 2015 and PaddleOCR do.

    A polygon that crosses itself or has no area is left out, be it a box or a text. Four corners
    listed row by row (top left, top right, bottom left, bottom right) cross. A box does not count
    if for an ignored text `area(box ∩ text) / area(box) > 0.5`. Then, text by text in order and box
    by box in order, the first box that is free and has `area(box ∩ text) / area(box ∪ text) > iou`
    is the hit of the text.

    So the order of texts and boxes can change the number of hits. Of two equal boxes the second
    counts as a box without a text. For a batch call it once per image. Texts that only pad a batch,
    such as four points (0, 0), have no area and are left out.

    Its time grows with the number of pairs that overlap.

    Args:
        found: one `[k, 2]` array or list of lists per box, k >= 3, its points (x, y) in pixels, as
            the `polygons` that `find_boxes` returns. They are never changed.
        truth: the same per text.
        ignored: one bool per text, True for text that counts neither way.
        iou: the overlap that a hit exceeds, in [0, 1].

    Returns:
        `Match(hits, found, truth, pairs)`: three numbers and a list of pairs of indices into
        `found` and `truth`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a polygon is not `[k, 2]`, a coordinate is not finite or beyond 2^24, the
            number of flags is not that of texts, or `iou` is out of range.

    Example:
        >>> from dbloss.score import match
        >>> left = [(0, 0), (40, 0), (40, 10), (0, 10)]
        >>> right = [(60, 0), (90, 0), (90, 10), (60, 10)]
        >>> near = [(1, 0), (41, 0), (41, 10), (1, 10)]
        >>> match([right, near], [left, right], ignored=[False, False])
        Match(hits=2, found=2, truth=2, pairs=[(1, 0), (0, 1)])
        >>> match([right, near], [left, right], ignored=[True, False])
        Match(hits=1, found=1, truth=1, pairs=[(0, 1)])

    Source:
        Karatzas et al., "ICDAR 2015 Competition on Robust Reading", 2015, section "Text
        Localization"; PaddleOCR `ppocr/metrics/eval_det_iou.py`.
    """
    iou = checks.number("iou", iou, least=0, most=1)
    pairs = find_pairs(_boxes(found), texts_of(truth, ignored), iou)
    return pairs.match(np.ones(len(pairs.counts), bool))


class Texts(NamedTuple):
    """The texts of an image; a polygon that is left out is None."""

    polygons: Geometries
    ignored: NDArray[np.bool_]

    @property
    def counted(self) -> int:
        """How many of the texts count."""
        return int((~shapely.is_missing(self.polygons) & ~self.ignored).sum())


class Pairs(NamedTuple):
    """What a match needs to know of an image, whichever of its boxes are kept.

    `counts` says which boxes do not lie in an ignored text, `truth` is the number of texts that
    count, and `pairs` holds the indices (box, text) of those that overlap enough for a hit, in the
    order in which the match tries them.
    """

    counts: NDArray[np.bool_]
    truth: int
    pairs: list[tuple[int, int]]

    def match(self, kept: NDArray[np.bool_]) -> Match:
        """Return the match of the boxes that are kept."""
        boxes = self.counts & kept
        free = boxes.tolist()
        hits: dict[int, int] = {}
        for box, text in self.pairs:
            if free[box] and text not in hits:
                hits[text] = box
                free[box] = False
        pairs = [(box, text) for text, box in hits.items()]
        return Match(len(pairs), int(boxes.sum()), self.truth, pairs)


@np.errstate(invalid="ignore")  # older builds of GEOS set this flag though the areas are right
def find_pairs(boxes: Geometries, texts: Texts, iou: float) -> Pairs:
    """Return which boxes count, and which pairs of a box and a text overlap enough for a hit."""
    text, box = shapely.STRtree(boxes).query(texts.polygons, predicate="intersects")
    order = np.lexsort((box, text))
    text, box = text[order], box[order]
    areas = shapely.area(boxes)
    counts = ~shapely.is_missing(boxes)

    # Which polygon comes first decides how the area of an intersection is rounded: here and below
    # the order is PaddleOCR's.
    skipped = texts.ignored[text]
    common = _common(texts.polygons[text[skipped]], boxes[box[skipped]])
    inside = quotient(common, areas[box[skipped]]) > IGNORED_SHARE
    counts[box[skipped][inside]] = False

    text, box = text[~skipped], box[~skipped]
    first, second = boxes[box], texts.polygons[text]
    common = _common(first, second)
    overlap = quotient(common, areas[box] + shapely.area(second) - common)
    close = np.abs(overlap - iou) < _CLOSE
    union = shapely.area(shapely.union(first[close], second[close]))
    overlap[close] = quotient(common[close], union)
    hits = overlap > iou
    pairs = list(zip(box[hits].tolist(), text[hits].tolist()))
    return Pairs(counts, texts.counted, pairs)


def _common(first: Geometries, second: Geometries) -> _Floats:
    areas: _Floats = shapely.area(shapely.intersection(first, second))
    return areas


def quotient(above: Any, below: Any) -> _Floats:
    """Return `above / below`, and 0 where `below` is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), below)
    result: _Floats = np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
    return result


def _boxes(found: Any) -> Geometries:
    if hasattr(found, "polygons"):
        raise checks.wrong_type("found", "a list of [k, 2] arrays", found, "Pass its `polygons`.")
    return geometries("found", found)


def texts_of(truth: Any, ignored: Any) -> Texts:
    """Return the checked texts of an image."""
    polygons = geometries("truth", truth)
    return Texts(polygons, checks.ignored("ignored", ignored, len(polygons)))


def outlines(arrays: Sequence[NDArray[Any]]) -> Geometries:
    """Return arrays `[k, 2]` as polygons of shapely."""
    if not arrays:
        return np.empty(0, object)
    of = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    points = np.concatenate(arrays, dtype=np.float64)
    made: Geometries = shapely.polygons(shapely.linearrings(points, indices=of))
    return made


def geometries(name: str, values: Any) -> Geometries:
    """Return checked polygons as those of shapely, None for each that crosses itself."""
    polygons = outlines(checks.polygons(name, values))
    # PaddleOCR also asks whether it is simple, which a valid polygon always is.
    polygons[~shapely.is_valid(polygons)] = None
    return polygons
