"""What is wrong with the texts of one page."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from dbloss.labels.read import IGNORED, Page, Text
from dbloss.labels.report import Problem
from dbloss.score import outlines
from dbloss.targets import shrink

_Array: TypeAlias = NDArray[Any]

_THICKNESS = 0.5  # pixels
_BEYOND = 0.5  # pixels; less is rounding
_SAME = 0.9  # intersection over union of a text given twice; share of a text within another
_MOST_OF_PAGE = 0.5
_FARTHEST = 1e6  # pixels; where nothing can be anyway


class _Settings(NamedTuple):
    size: tuple[int, int]
    min_text_size: float
    shrink_ratio: float
    ignore: frozenset[str]


class _Measured(NamedTuple):
    """What a page is to a training at its size."""

    sides: list[float]  # of the texts that should count, in pixels
    saved: list[float]  # the sides of the too small ones that shrinking would leave something of
    share: float  # of its pixels that are text


class _Causes:
    """Of each text the first cause that was found, but for kinds that are ignored."""

    def __init__(self, page: Page, ignore: frozenset[str]) -> None:
        self.page, self.ignore = page, ignore
        self.found: dict[int | None, tuple[str, str]] = {}

    def blame(self, kind: str, entry: int | None, advice: str) -> None:
        if kind not in self.ignore:
            self.found.setdefault(entry, (kind, advice))

    def problems(self) -> list[Problem]:
        """Return those of the line first, then those of its entries, in order."""
        listed = sorted(self.found.items(), key=lambda item: -1 if item[0] is None else item[0])
        return [
            Problem(
                self.page.line,
                None if i is None else i + 1,
                kind,
                self.page.image if i is None else _place(self.page, i),
                advice,
            )
            for i, (kind, advice) in listed
        ]


def _place(page: Page, i: int) -> str:
    points = page.texts[i].points
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return page.image
    (left, top), (right, bottom) = finite.min(axis=0), finite.max(axis=0)
    return f"{page.image}: {left:.7g}, {top:.7g} to {right:.7g}, {bottom:.7g}"


def check_page(
    page: Page,
    height: int,
    width: int,
    *,
    size: tuple[int, int] | None = None,
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
) -> list[Problem]:
    """Return what is wrong with the texts of one image of `height` x `width` pixels.

    The other arguments are those of `check_labels`; the training size None is that of the image.
    """
    settings = _Settings(size or (height, width), min_text_size, shrink_ratio, frozenset())
    return _check_page(page, (height, width), settings)[0]


def _check_page(
    page: Page, image: tuple[int, int] | None, settings: _Settings
) -> tuple[list[Problem], _Measured | None]:
    """Return what is wrong with the texts of a page, and what a training has of it."""
    causes = _Causes(page, settings.ignore)
    texts = page.texts
    ignored = np.array([text.ignored for text in texts], bool)
    whole = _find_unfit(causes, texts)
    sound = _check_outlines(causes, texts, whole)
    inside = _check_place(causes, texts, sound, image)
    for i, text in enumerate(texts):
        if text.marked:
            causes.blame("ignored-name", i, _name_advice(text))
    _check_edges(causes, texts, inside, image)
    related = _check_pairs(causes, texts, inside, image)
    wanted = [i for i in whole if not ignored[i]]
    measured, counting = None, wanted
    if image is not None:
        measured, counting = _check_training(
            causes, texts, wanted, set(inside), related, image, settings
        )
    _check_balance(causes, ignored, len(counting))
    return causes.problems(), measured


def _find_unfit(causes: _Causes, texts: list[Text]) -> list[int]:
    """Return the texts that have an outline at all."""
    whole = []
    for i, text in enumerate(texts):
        if len(text.points) < 3:
            causes.blame(
                "few-points",
                i,
                f"{len(text.points)} points have no inside. Give the corners of the text in order,"
                " 4 of a box.",
            )
        elif not np.isfinite(text.points).all():
            wrong = int(np.flatnonzero(~np.isfinite(text.points).all(axis=1))[0])
            causes.blame(
                "not-finite",
                i,
                f"Point {wrong + 1} is {text.points[wrong].tolist()}. Correct it.",
            )
        else:
            whole.append(i)
    return whole


def _outlines(texts: list[Text], chosen: Sequence[int]) -> _Array:
    """Return the chosen texts as polygons of shapely."""
    # Closed here: a ring that shapely closes itself must have 3 points that differ.
    return outlines([np.concatenate((texts[i].points, texts[i].points[:1])) for i in chosen])


def _check_outlines(causes: _Causes, texts: list[Text], whole: list[int]) -> list[int]:
    """Return the texts whose outline has an inside and does not cross itself."""
    polygons = _outlines(texts, whole)
    hulls = shapely.convex_hull(polygons)
    # Of a thin text the perimeter is twice its length. The hull has an area even where an outline
    # that crosses itself has none.
    thickness = 2 * shapely.area(hulls) / np.maximum(shapely.length(hulls), 1e-9)
    valid = shapely.is_valid(polygons)
    sound = []
    for i, thick, fits in zip(whole, thickness, valid):
        points = texts[i].points
        if points.min() >= 0 and points.max() <= 1 and np.ptp(points, axis=0).min() > 0:
            causes.blame(
                "normalised",
                i,
                "All coordinates are between 0 and 1. Multiply x by the width of the image and y"
                " by its height: PaddleOCR reads pixels.",
            )
        elif thick < _THICKNESS:
            causes.blame(
                "no-area",
                i,
                f"It is {thick:.2g} pixels thick. Draw it anew around the text, or leave it out.",
            )
        elif not fits:
            causes.blame("crossing", i, _crossing_advice(points))
        else:
            sound.append(i)
    return sound


def _crossing_advice(points: _Array) -> str:
    n = len(points)
    if n == 4:
        orders = [[0, 1, 3, 2], [0, 2, 1, 3]]
    else:  # both sides of a line of text given from left to right
        orders = [[*range(n // 2), *reversed(range(n // 2, n))]]
    made = [shapely.Polygon(points[order].astype(np.float64)) for order in orders]
    fitting = [(p.area, order) for p, order in zip(made, orders) if p.is_valid and p.area > 0]
    if not fitting:
        return "The outline crosses itself. Draw it anew around the text."
    order = ", ".join(str(place + 1) for place in max(fitting)[1])
    return f"The outline crosses itself. Give its points in the order {order}."


def _name_advice(text: Text) -> str:
    known = " or ".join(IGNORED)
    if text.marked == "name":
        read = f"PaddleOCR reads {text.transcription!r} as a text that counts."
    else:
        read = f"PaddleOCR does not read that it is difficult: {text.transcription!r} counts."
    return f"{read} Write {known} if it is to be ignored."


def _frame(image: tuple[int, int] | None) -> tuple[float, float]:
    """Return height and width of an image; of one that is missing no text is outside."""
    return image or (np.inf, np.inf)


def _check_place(
    causes: _Causes, texts: list[Text], sound: list[int], image: tuple[int, int] | None
) -> list[int]:
    """Return the texts of which something is in the image."""
    height, width = _frame(image)
    inside = []
    for i in sound:
        (left, top), (right, bottom) = texts[i].points.min(axis=0), texts[i].points.max(axis=0)
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            causes.blame(
                "outside",
                i,
                f"It is outside the image, {_describe_size(image)}. Are these the labels of this"
                " image, at this size?",
            )
        else:
            inside.append(i)
    return inside


def _describe_size(image: tuple[int, int] | None) -> str:
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
            seen = ": PaddleOCR's random crop does not see it there, and may cut through it"
            causes.blame(
                "partly-outside",
                i,
                f"It reaches {over:.3g} pixels beyond the image, {_describe_size(image)}."
                f" Cut it off at the border{seen if points.min() < 0 else ''}.",
            )


def _check_pairs(
    causes: _Causes, texts: list[Text], inside: list[int], image: tuple[int, int] | None
) -> set[tuple[int, int]]:
    """Return the pairs that are one text, or one within the other."""
    height, width = _frame(image)
    polygons = _outlines(texts, inside)
    limits = np.minimum((width, height), _FARTHEST)
    visible = shapely.intersection(polygons, shapely.box(0, 0, *limits))
    area = shapely.area(visible)
    first, second = _near(visible)
    overlap = shapely.area(shapely.intersection(visible[first], visible[second]))
    union = area[first] + area[second] - overlap
    related = set()
    pairs = list(zip(first.tolist(), second.tolist(), overlap, union))
    for a, b, common, both in pairs:
        i, j = inside[a], inside[b]
        if common > _SAME * both > 0:
            related.add((i, j))
            if not (texts[i].ignored and texts[j].ignored):
                causes.blame(
                    "repeated-text",
                    j,
                    f"It covers what entry {i + 1} covers, {texts[i].transcription!r}: the IoU is"
                    f" {common / both:.2f}. Leave one of them.",
                )
    for i, covered in zip(inside, area / (height * width)):
        if covered > _MOST_OF_PAGE:
            causes.blame(
                "whole-page",
                i,
                f"It covers {covered:.0%} of the image. Give each word or line its own outline.",
            )
    for a, b, common, _ in pairs:
        inner, outer = (a, b) if area[a] <= area[b] else (b, a)
        i, j = inside[inner], inside[outer]
        pair = (min(i, j), max(i, j))
        if common > _SAME * area[inner] > 0 and pair not in related:
            related.add(pair)
            if not (texts[i].ignored and texts[j].ignored):
                causes.blame("nested", i, _nested_advice(texts[i], texts[j], j))
    return related


def _nested_advice(inner: Text, outer: Text, place: int) -> str:
    where = f"It lies within entry {place + 1}, {outer.transcription!r}"
    if outer.ignored:
        return f"{where}, which is ignored: nothing of it is trained. Leave one of them."
    if inner.ignored:
        return f"{where}, and its pixels are taken from that text. Leave one of them."
    return f"{where}: both become one text. Leave the word or the line, the same in all images."


def _near(shapes: _Array, distance: float = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs first < second of shapes that are as near as `distance`."""
    tree = shapely.STRtree(shapes)
    if distance:
        first, second = tree.query(shapes, predicate="dwithin", distance=distance)
    else:
        first, second = tree.query(shapes, predicate="intersects")
    once = first < second
    order = np.lexsort((second[once], first[once]))
    return first[once][order], second[once][order]


def _check_training(
    causes: _Causes,
    texts: list[Text],
    wanted: list[int],
    inside: set[int],
    related: set[tuple[int, int]],
    image: tuple[int, int],
    settings: _Settings,
) -> tuple[_Measured, list[int]]:
    """Return what the training has of a page, and its texts that count there."""
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
            causes.blame(
                "too-small",
                i,
                f"It is {side:.1f} pixels high or wide {at}, below {settings.min_text_size:g}, and"
                " is ignored there. Train at a larger size, lower min_text_size, or write ###.",
            )
        elif not pieces:
            causes.blame(
                "gone",
                i,
                f"Shrinking {at} leaves nothing of it, for it is so thin, and it is ignored there."
                " Train at a larger size, or write ###.",
            )
    canvas = np.zeros(settings.size, np.uint8)
    for _, _, pieces in made:
        for piece in pieces:
            cv2.fillPoly(canvas, [piece], 1)
    share = np.count_nonzero(canvas) / max(image[0] * image[1] * scale**2, 1)
    _check_touching(causes, texts, wanted, [pieces for _, _, pieces in made], related, at)
    counting = [i for i, (_, _, pieces) in zip(wanted, made) if pieces]
    return _Measured(sides, saved, float(share)), counting


def _check_touching(
    causes: _Causes,
    texts: list[Text],
    wanted: list[int],
    made: list[list[_Array]],
    related: set[tuple[int, int]],
    at: str,
) -> None:
    """Find the texts whose shrunk pixels are neighbours, be it by a corner."""
    pieces = [piece for listed in made for piece in listed]
    owners = [i for i, listed in zip(wanted, made) for _ in listed]
    if len(pieces) < 2:
        return
    boxes = [(*piece.min(axis=0), *piece.max(axis=0)) for piece in pieces]
    for a, b in zip(*_near(shapely.box(*np.array(boxes, float).T), 1.5)):
        i, j = owners[a], owners[b]
        if i == j or (i, j) in related or not _are_neighbours(pieces[a], pieces[b]):
            continue
        for place, other in ((j, i), (i, j)):
            if place not in causes.found:
                causes.blame(
                    "touching",
                    place,
                    f"Shrunk {at}, it touches entry {other + 1}, {texts[other].transcription!r}:"
                    " they become one text. Draw them apart, train at a larger size, or lower"
                    " the shrink ratio.",
                )
                break


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
    """Find out whether a page has text that counts."""
    n_ignored = int(ignored.sum())
    if not len(ignored):
        causes.blame(
            "no-text",
            None,
            "No texts: PaddleOCR leaves such an image out and trains on another in its place."
            " Leave out the line, or label its texts.",
        )
    elif n_ignored == len(ignored):
        causes.blame(
            "all-ignored",
            None,
            f"All {n_ignored} texts are ignored: nothing here is learnt as text. Leave out the"
            " line, or write what can be read.",
        )
    elif not counting:
        causes.blame(
            "no-text",
            None,
            f"{len(ignored) - n_ignored} of its {len(ignored)} texts are not ignored, and none of"
            " these counts: each has a fault of its own or is too small. Correct them, train at a"
            " larger size, or leave out the line.",
        )
    elif n_ignored > len(ignored) - n_ignored:
        causes.blame(
            "mostly-ignored",
            None,
            f"{n_ignored} of its {len(ignored)} texts are ignored. Write what can be read.",
        )
