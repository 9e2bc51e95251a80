"""Checks the texts of one page."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from dbloss.labels.read import Page, Text, shown
from dbloss.labels.report import KINDS, Problem
from dbloss.score import outlines
from dbloss.targets import shrink

_Array: TypeAlias = NDArray[Any]
_Pairs: TypeAlias = set[tuple[int, int]]

_THICKNESS = 0.5  # pixels
_BEYOND = 0.5  # pixels; less is rounding
_SAME = 0.9  # from this IoU on a text is given twice; from this share on it lies within another
_MOST_OF_PAGE = 0.5
_FARTHEST = 1e6  # pixels; no image is so large


class Settings(NamedTuple):
    """The settings of `check_labels` that a page is checked with."""

    size: tuple[int, int]
    min_text_size: float
    shrink_ratio: float
    ignore: frozenset[str] = frozenset()  # kinds of problems to leave out
    common_mark: str | None = None  # a mark of ignored texts that is reported once for the file


class Measured(NamedTuple):
    """What training sees of a page at the training size."""

    sides: list[float]  # the lesser side, in pixels, of each text that should count
    saved: list[float]  # of those too small, the ones that shrinking would leave something of
    share: float  # the share of the page's pixels that is shrunk text


class _Causes:
    """The first problem that was found of each text, without kinds that are to be left out."""

    def __init__(self, page: Page, image: str, ignore: frozenset[str]) -> None:
        self.page, self.image, self.ignore = page, shown(image), ignore
        self.found: dict[int | None, tuple[str, str]] = {}

    def blame(self, kind: str, i: int | None, **facts: Any) -> None:
        if kind not in self.ignore and i not in self.found:
            self.found[i] = (kind, KINDS[kind].advice.format(**facts))

    def problems(self) -> list[Problem]:
        """Return the problem of the line first, then those of its entries, in order."""
        listed = sorted(self.found.items(), key=lambda item: -1 if item[0] is None else item[0])
        return [
            Problem(
                self.page.line,
                None if i is None else i + 1,
                kind,
                self.image if i is None else self._place(i),
                advice,
            )
            for i, (kind, advice) in listed
        ]

    def _place(self, i: int) -> str:
        points = self.page.texts[i].points
        finite = points[np.isfinite(points).all(axis=1)]
        if not len(finite):
            return self.image
        (left, top), (right, bottom) = finite.min(axis=0), finite.max(axis=0)
        return f"{self.image}: {left:.7g}, {top:.7g} to {right:.7g}, {bottom:.7g}"


def check_page(
    page: Page,
    height: int,
    width: int,
    *,
    size: tuple[int, int] | None = None,
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
) -> list[Problem]:
    """Return what is wrong with the texts of one image of `height` x `width` pixels, and remarks.

    The other arguments are those of `check_labels`; `size=None` is the size of the image.
    """
    settings = Settings(size or (height, width), min_text_size, shrink_ratio)
    return examine(page, page.image, (height, width), settings)[0]


def mark_of(text: Text) -> str | None:
    """Return how a text is marked as ignored in a way that PaddleOCR does not know."""
    if text.marked != "name":
        return text.marked or None
    return "" if text.transcription in ("null", "") else text.transcription.strip()


def examine(
    page: Page, name: str, image: tuple[int, int] | None, settings: Settings
) -> tuple[list[Problem], Measured | None]:
    """Return what is wrong with the texts of a page, and what training sees of it.

    `name` is the image's path, and `image` its height and width, None if it cannot be read.
    """
    causes = _Causes(page, name, settings.ignore)
    texts = page.texts
    ignored = np.array([text.ignored for text in texts], bool)
    whole = _find_unfit(causes, texts)
    sound = _check_outlines(causes, texts, whole)
    inside = _check_place(causes, texts, sound, image)
    for i, text in enumerate(texts):
        if text.marked and mark_of(text) != settings.common_mark:
            causes.blame("ignored-name", i, reading=_reading(text))
    _check_edges(causes, texts, inside, image)
    related, repeated = _check_pairs(causes, texts, inside, image)
    wanted = [i for i in whole if not ignored[i]]
    measured, counting = None, wanted
    if image is not None:
        measured, counting = _check_training(
            causes, texts, wanted, set(inside), related, repeated, image, settings
        )
    _check_balance(causes, ignored, len(counting))
    return causes.problems(), measured


def _find_unfit(causes: _Causes, texts: list[Text]) -> list[int]:
    """Return the indices of the texts with at least 3 points, all of them finite."""
    whole = []
    for i, text in enumerate(texts):
        finite = np.isfinite(text.points).all(axis=1)
        if len(text.points) < 3:
            causes.blame("few-points", i, count=len(text.points))
        elif not finite.all():
            wrong = int(np.flatnonzero(~finite)[0])
            causes.blame("not-finite", i, number=wrong + 1, point=text.points[wrong].tolist())
        else:
            whole.append(i)
    return whole


def _outlines(texts: list[Text], chosen: Sequence[int]) -> _Array:
    """Return the chosen texts as polygons of shapely."""
    # Closed here, since shapely closes a ring only if 3 of its points differ.
    return outlines([np.concatenate((texts[i].points, texts[i].points[:1])) for i in chosen])


def _check_outlines(causes: _Causes, texts: list[Text], whole: list[int]) -> list[int]:
    """Return the indices of the texts whose outline has an inside and does not cross itself."""
    polygons = _outlines(texts, whole)
    hulls = shapely.convex_hull(polygons)
    # The perimeter of a thin text is twice its length. The hull is used since the area of an
    # outline that crosses itself may be 0.
    thickness = 2 * shapely.area(hulls) / np.maximum(shapely.length(hulls), 1e-9)
    valid = shapely.is_valid(polygons)
    sound = []
    for i, thick, fits in zip(whole, thickness, valid):
        points = texts[i].points
        if points.min() >= 0 and points.max() <= 1 and np.ptp(points, axis=0).min() > 0:
            causes.blame("normalised", i)
        elif thick < _THICKNESS:
            causes.blame("no-area", i, thick=thick)
        elif not fits:
            causes.blame("crossing", i, remedy=_crossing_remedy(points))
        else:
            sound.append(i)
    return sound


def _crossing_remedy(points: _Array) -> str:
    n = len(points)
    if n == 4:
        orders = [[0, 1, 3, 2], [0, 2, 1, 3]]
    else:  # upper and lower side, both given from left to right
        orders = [[*range(n // 2), *reversed(range(n // 2, n))]]
    made = [shapely.Polygon(points[order].astype(np.float64)) for order in orders]
    fitting = [(p.area, order) for p, order in zip(made, orders) if p.is_valid and p.area > 0]
    if not fitting:
        return "Draw it anew around the text."
    order = ", ".join(str(index + 1) for index in max(fitting)[1])
    return f"Give its points in the order {order}."


def _reading(text: Text) -> str:
    if text.marked == "name":
        return f"PaddleOCR takes {text.transcription!r} for a text that counts."
    return f"PaddleOCR does not read {text.marked!r}: {text.transcription!r} counts."


def _frame(image: tuple[int, int] | None) -> tuple[float, float]:
    """Return height and width of an image, infinite if it is missing: no text is outside then."""
    return image or (np.inf, np.inf)


def _check_place(
    causes: _Causes, texts: list[Text], sound: list[int], image: tuple[int, int] | None
) -> list[int]:
    """Return the indices of the texts that are at least partly inside the image."""
    height, width = _frame(image)
    inside = []
    for i in sound:
        (left, top), (right, bottom) = texts[i].points.min(axis=0), texts[i].points.max(axis=0)
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            causes.blame("outside", i, size=describe_size(image))
        else:
            inside.append(i)
    return inside


def describe_size(image: tuple[int, int] | None) -> str:
    """Return the size of an image in words."""
    if image is None:
        return "which starts at 0, 0"
    return f"{image[1]} pixels wide and {image[0]} high"


def _check_edges(
    causes: _Causes, texts: list[Text], inside: list[int], image: tuple[int, int] | None
) -> None:
    height, width = _frame(image)
    for i in inside:
        points = texts[i].points
        over = np.maximum(-points, points - np.array((width, height))).max()
        if over > _BEYOND:
            crop = ": PaddleOCR's random crop does not see it there, and may cut through it"
            crop = crop if points.min() < 0 else ""
            causes.blame("partly-outside", i, over=over, size=describe_size(image), crop=crop)


def _check_pairs(
    causes: _Causes, texts: list[Text], inside: list[int], image: tuple[int, int] | None
) -> tuple[_Pairs, set[int]]:
    """Return the pairs that are one text or lie within each other, and the repeated texts."""
    height, width = _frame(image)
    limits = np.minimum((width, height), _FARTHEST)
    copies = dict(_copies(texts, inside))
    single = [i for i in inside if i not in copies]
    visible = shapely.intersection(_outlines(texts, single), shapely.box(0, 0, *limits))
    area = shapely.area(visible)
    # A text that repeats another is not compared with the rest: of a thousand copies each is
    # compared with the first only.
    left, overlapping = np.ones(len(single), bool), []
    repeats: dict[int, tuple[int, float]] = {}  # for a repeated text the first one, and the IoU
    for a, partners in _near_each(visible):
        partners = partners[left[partners]]
        if not left[a] or not len(partners):
            continue
        common = shapely.area(shapely.intersection(visible[a], visible[partners]))
        union = area[a] + area[partners] - common
        same = common > _SAME * union
        for b, iou in zip(partners[same], common[same] / union[same]):
            repeats[single[b]] = (single[a], float(iou))
        left[partners[same]] = False
        overlapping += [(a, b, shared) for b, shared in zip(partners[~same], common[~same])]
    repeats |= {j: repeats.get(i, (i, 1.0)) for j, i in copies.items()}
    related = {(min(i, j), max(i, j)) for j, (i, _) in repeats.items()}
    for j, (i, iou) in repeats.items():
        if not (texts[i].ignored and texts[j].ignored):
            causes.blame("repeated-text", j, other=i + 1, text=texts[i].transcription, iou=iou)
    for i, covered in zip(single, area / (height * width)):
        if covered > _MOST_OF_PAGE:
            causes.blame("whole-page", i, covered=float(covered))
    for a, b, shared in overlapping:
        inner, outer = (a, b) if area[a] <= area[b] else (b, a)
        i, j = single[inner], single[outer]
        if left[a] and left[b] and shared > _SAME * area[inner]:
            related.add((min(i, j), max(i, j)))
            if not (texts[i].ignored and texts[j].ignored):
                text, result = texts[j].transcription, _nested_result(texts[i], texts[j])
                causes.blame("nested", i, other=j + 1, text=text, result=result)
    return related, set(repeats)


def _copies(texts: list[Text], inside: list[int]) -> Iterator[tuple[int, int]]:
    """Yield each text with exactly the points of an earlier one, and the earlier one."""
    first: dict[bytes, int] = {}
    for i in inside:
        earlier = first.setdefault(texts[i].points.tobytes(), i)
        if earlier != i:
            yield i, earlier


def _nested_result(inner: Text, outer: Text) -> str:
    if outer.ignored:
        return ", which is ignored: nothing of it is trained. Leave one of them."
    if inner.ignored:
        return ", and its pixels are taken from that text. Leave one of them."
    return ": both become one text. Leave the word or the line, the same in all images."


def _near(shapes: _Array, distance: float = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of indices, first < second, of shapes within `distance` of each other."""
    tree = shapely.STRtree(shapes)
    if distance:
        first, second = tree.query(shapes, predicate="dwithin", distance=distance)
    else:
        first, second = tree.query(shapes, predicate="intersects")
    once = first < second
    order = np.lexsort((second[once], first[once]))
    return first[once][order], second[once][order]


def _near_each(shapes: _Array) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the index of each shape that meets later ones, and the indices of these."""
    first, second = _near(shapes)
    each, starts = np.unique(first, return_index=True)
    yield from zip(each.tolist(), np.split(second, starts[1:]))


def _check_training(
    causes: _Causes,
    texts: list[Text],
    wanted: list[int],
    inside: set[int],
    related: _Pairs,
    repeated: set[int],
    image: tuple[int, int],
    settings: Settings,
) -> tuple[Measured, list[int]]:
    """Return what training sees of a page, and the indices of its texts that count there."""
    scale = min(settings.size[0] / image[0], settings.size[1] / image[1])
    at = f"at {settings.size[0]} x {settings.size[1]}"
    polygons = [(texts[i].points * np.float64(scale)).clip(-_FARTHEST, _FARTHEST) for i in wanted]

    def shrunk(chosen: list[_Array], least: float) -> Any:
        ratio = settings.shrink_ratio
        return shrink(chosen, *settings.size, shrink_ratio=ratio, min_text_size=least)

    made = shrunk(polygons, settings.min_text_size)
    sides, saved = [], []
    for i, polygon, (side, too_small, pieces) in zip(wanted, polygons, made):
        if i in inside:
            sides.append(side)
            if too_small and shrunk([polygon], 0)[0].pieces:
                saved.append(side)
        if too_small:
            causes.blame("too-small", i, side=side, at=at, least=settings.min_text_size)
        elif not pieces:
            causes.blame("gone", i, at=at)
    canvas = np.zeros(settings.size, np.uint8)
    for _, _, pieces in made:
        for piece in pieces:
            cv2.fillPoly(canvas, [piece], 1)
    share = np.count_nonzero(canvas) / max(image[0] * image[1] * scale**2, 1)
    apart = [(i, pieces) for i, (_, _, pieces) in zip(wanted, made) if i not in repeated]
    _check_touching(causes, texts, apart, related, at)
    counting = [i for i, (_, _, pieces) in zip(wanted, made) if pieces]
    return Measured(sides, saved, float(share)), counting


def _check_touching(
    causes: _Causes,
    texts: list[Text],
    made: list[tuple[int, list[_Array]]],
    related: _Pairs,
    at: str,
) -> None:
    """Report texts whose shrunk pixels are neighbours, if only by a corner."""
    pieces = [piece for _, listed in made for piece in listed]
    owners = [i for i, listed in made for _ in listed]
    if len(pieces) < 2:
        return
    boxes = [(*piece.min(axis=0), *piece.max(axis=0)) for piece in pieces]
    for a, b in zip(*_near(shapely.box(*np.array(boxes, float).T), 1.5)):
        i, j = owners[a], owners[b]
        free = [
            k for k in (j, i) if k not in causes.found
        ]  # the later one, if it has no problem yet
        if free and i != j and (i, j) not in related and _are_neighbours(pieces[a], pieces[b]):
            other = i if free[0] == j else j
            text = texts[other].transcription
            causes.blame("touching", free[0], at=at, other=other + 1, text=text)


def _are_neighbours(one: _Array, other: _Array) -> bool:
    corner = np.minimum(one.min(axis=0), other.min(axis=0)) - 1
    across, down = np.maximum(one.max(axis=0), other.max(axis=0)) - corner + 2
    drawn = []
    for piece in (one, other):
        canvas = np.zeros((down, across), np.uint8)
        cv2.fillPoly(canvas, [(piece - corner).astype(np.int32)], 1)
        drawn.append(canvas)
    return bool((cv2.dilate(drawn[0], np.ones((3, 3), np.uint8)) & drawn[1]).any())


def _check_balance(causes: _Causes, ignored: NDArray[np.bool_], counting: int) -> None:
    """Report a page without text that counts, or with more ignored texts than others."""
    n_ignored, count = int(ignored.sum()), len(ignored)
    if not count:
        causes.blame(
            "no-text",
            None,
            finding="No texts: PaddleOCR skips such an image and trains on another in its place."
            " Leave out the line, or label its texts.",
        )
    elif n_ignored == count:
        causes.blame("all-ignored", None, count=count)
    elif not counting:
        causes.blame(
            "no-text",
            None,
            finding=f"{count - n_ignored} of its {count} texts are not ignored, and none of these"
            " counts: each has a fault of its own or is too small. Correct them, train at a larger"
            " size, or leave out the line.",
        )
    elif n_ignored > count - n_ignored:
        causes.blame("mostly-ignored", None, count=n_ignored, texts=count)
