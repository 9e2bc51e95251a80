"""Problems that most texts of a page or file share: swapped axes, another scale, other images.

The evidence is of two kinds. Where the outlines end: they fit into the images only at another
scale, or with x and y swapped. And the pixels below them: text has strong edges, which show where
outlines that are mirrored, turned or moved belong.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dbloss.labels.images import read_edges
from dbloss.labels.page import describe_size, mark_of
from dbloss.labels.read import Page, shown
from dbloss.labels.report import KINDS, Problem

_Array = NDArray[Any]
_Size = tuple[int, int]

_FEWEST = 4  # texts of a page, or pages of a file, that can share a problem
_FEWEST_MARKS = 10
_BEYOND = ("outside", "partly-outside")
_SHARED = (*_BEYOND, "few-points", "not-finite", "crossing", "no-area", "normalised")

# Where outlines end
_SLACK = 1.02  # times the size of the image; an outline drawn loosely reaches up to here
_RANGES = {1: "1", 100: "100 (per cent)", 1000: "1,000"}  # of coordinates not given in pixels
_NICE = (3 / 4, 2 / 3, 1 / 2, 2 / 5, 1 / 3, 1 / 4, 1 / 5, 1 / 8, 1 / 10)  # usual scales
_FEWEST_ENDS = 30  # texts that tell how far the outlines of a file reach

# The pixels below them
_PAGES = 64  # whose images are read
_FEWEST_PAGES = 8
_LONGEST = 512  # pixels, the longer side of an image reduced for this
_COARSE = 4  # how many times smaller still it is where all shifts are tried
_CERTAIN, _LIKELY = 4.0, 2.0  # standard errors
_GAIN, _LITTLE = 0.04, 0.02  # in the mean rank of edges below outlines
_CHANCE, _CLEARLY = 0.03, 0.01  # likewise
_STRONG = 0.65  # a mean rank too high for chance
_MOVED = 3  # pixels of the reduced image; outlines drawn loosely are off by less

KINDS_OF_FILE = ("other-image", "turned", "scaled", "shifted")  # the kinds that pixels can show

# What follows from such a problem.
_FOLLOWS = frozenset(
    (*_BEYOND, "normalised", "no-area", "whole-page", "too-small", "gone", "touching", "no-text")
)


class Sheet(NamedTuple):
    """A line that can be read, with an image that can be read."""

    page: Page
    path: str
    size: _Size

    def outlines(self) -> list[_Array]:
        """Return the outlines of at least 3 points, all of them finite, float64 `[k, 2]`."""
        return [
            text.points.astype(np.float64)
            for text in self.page.texts
            if len(text.points) >= 3 and np.isfinite(text.points).all()
        ]


class _Move(NamedTuple):
    """A way to move outlines to where they may belong."""

    kind: str
    apply: Callable[[_Array, int, int], _Array]  # of points, height and width of the image
    facts: dict[str, Any]  # what the advice of the kind is filled in with
    likely: bool = False  # whether the moved outlines fit into the images


def common_mark(pages: Sequence[Page]) -> tuple[str | None, int]:
    """Return a mark of ignored texts, unknown to PaddleOCR, that most texts have, and how many."""
    marks = [mark for page in pages for text in page.texts if (mark := mark_of(text)) is not None]
    texts = sum(len(page.texts) for page in pages)
    if not marks:
        return None, 0
    mark, count = Counter(marks).most_common(1)[0]
    return (mark, count) if count >= _FEWEST_MARKS and 2 * count > texts else (None, 0)


def of_mark(file: str, mark: str, count: int, pages: Sequence[Page]) -> Problem:
    """Return the one problem that stands for a mark that most texts have."""
    texts = sum(len(page.texts) for page in pages)
    if not mark:
        advice = KINDS["no-transcriptions"].advice.format(count=count, texts=texts)
        return Problem(None, None, "no-transcriptions", file, advice)
    reading = f"{count:,} of {texts:,} texts are marked by {mark!r}, and PaddleOCR trains on them."
    advice = KINDS["ignored-name"].advice.format(reading=reading)
    return Problem(None, None, "ignored-name", file, advice)


def of_pages(
    problems: list[Problem], sheets: dict[int, Sheet], pages: list[Page], ignore: frozenset[str]
) -> list[Problem]:
    """Return the problems, with those that most texts of a page share merged into one."""
    by_line: dict[Any, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_line[problem.line].append(problem)
    merged = []
    for line, found in by_line.items():
        if line is None:
            merged += found
            continue
        count = len(pages[line - 1].texts)
        for kinds in (_BEYOND, *((kind,) for kind in _SHARED if kind not in _BEYOND)):
            alike = [p for p in found if p.kind in kinds and p.entry is not None]
            if len(alike) < _FEWEST or 2 * len(alike) <= count:
                continue
            how_many = f"{len(alike)} of its {count} texts"
            made = _shared(alike, how_many, sheets.get(line))
            if made.kind in ignore:
                continue
            # "no-text" is dropped, since it follows from this one.
            found = [made, *(p for p in found if p not in alike and p.kind != "no-text")]
        merged += sorted(found, key=lambda p: p.entry or 0)
    return merged


def of_file(problems: list[Problem], file: str, pages: list[Page]) -> list[Problem]:
    """Return the problems, with those that most pages of the file share merged into one."""
    lines = sum(page.fault is None for page in pages)
    for kind in dict.fromkeys(p.kind for p in problems):
        whole = [p for p in problems if p.kind == kind and p.entry is None and p.line is not None]
        if kind not in (*_SHARED, "scaled", "turned") or len(whole) < max(_FEWEST, lines / 2):
            continue
        advice = f"In {len(whole):,} of {lines:,} lines. In line {whole[0].line}: {whole[0].advice}"
        gone = set(map(id, whole))
        problems = [
            Problem(None, None, kind, file, advice),
            *(p for p in problems if id(p) not in gone),
        ]
    return problems


def _shared(alike: list[Problem], how_many: str, sheet: Sheet | None) -> Problem:
    """Return the one problem that stands for similar problems of a page."""
    first = alike[0]
    image = first.place if sheet is None else shown(sheet.page.image)
    kind, advice = first.kind, Counter(p.advice for p in alike).most_common(1)[0][0]
    if first.kind in _BEYOND and sheet is not None:
        evidence = f"{how_many} reach beyond the image, {describe_size(sheet.size)}"
        move = next(_fitting([sheet], few=True), None)
        if move is not None:
            kind = move.kind
            advice = KINDS[kind].advice.format(evidence=evidence, **move.facts)
        else:
            advice = f"{evidence}. Are these the labels of this image?"
    else:
        advice = f"{how_many}, from entry {first.entry} on. {advice}"
    return Problem(first.line, None, kind, image, advice)


def of_places(sheets: list[Sheet], file: str) -> Problem | None:
    """Return why most outlines of the file lie in the wrong place, None if they do not."""
    moves = list(_fitting(sheets))
    seen = _Seen(sheets)
    move, evidence = None, ""
    if len(seen.edges) >= _FEWEST_PAGES:
        if seen.lie_on_text():
            return None
        move, evidence = seen.best(moves)
        if move is None and seen.are_of_others():
            step = seen.slipped(sheets)
            remedy = "Do the lines name the right images?"
            if step:
                which = "after" if step > 0 else "before"
                remedy = f"The texts of a line fit the image of the line {which} it."
            advice = KINDS["other-image"].advice.format(count=len(seen.edges), remedy=remedy)
            return Problem(None, None, "other-image", file, advice)
    elif moves:
        move, evidence = moves[0], "The outlines do not end where the images do"
    elif _stand_upright(sheets):
        cause = "are x and y swapped? Text that is written downwards is right as it is."
        move, evidence = _SWAPPED._replace(facts={"cause": cause}), "Most texts stand upright"
    if move is None:
        return None
    advice = KINDS[move.kind].advice.format(evidence=evidence, **move.facts)
    return Problem(None, None, move.kind, file, advice)


def follows(problem: Problem) -> bool:
    """Tell whether a problem of a text only follows from one of the whole file."""
    return problem.line is not None and problem.kind in _FOLLOWS


# Where outlines end ------------------------------------------------------------------------------


def _fitting(sheets: Sequence[Sheet], few: bool = False) -> Iterator[_Move]:
    """Yield the moves by which outlines that do not fit into the images would, the likeliest first.

    `few` is for the outlines of one page, which need not reach all over the image.
    """
    boxes = [
        (*points.min(axis=0), *points.max(axis=0), *sheet.size[::-1])
        for sheet in sheets
        for points in sheet.outlines()
    ]
    if len(boxes) < (_FEWEST if few else _FEWEST_ENDS):
        return
    ends = np.array(boxes)
    low, high, size = ends[:, :2], ends[:, 2:4], ends[:, 4:]

    def fits(low: _Array, high: _Array) -> bool:
        """Tell whether outlines lie within images of size 1, and reach all over them."""
        inside = np.mean((high <= _SLACK).all(axis=1) & (low >= 1 - _SLACK).all(axis=1))
        if few:
            return bool(inside == 1)
        least, most = np.quantile(low, 0.005, axis=0), np.quantile(high, 0.995, axis=0)
        return bool(inside >= 0.98 and (most >= 0.8).all() and (least <= 0.15).all())

    if fits(low / size, high / size):
        return
    for whole, name in () if few else _RANGES.items():
        # Small images fit such a range by chance: their outlines then fill only a part of it.
        if fits(low / whole, high / whole) and (high.max(axis=0) >= 0.5 * whole).all():
            yield _of_range(whole, name)
    if fits(low / size[:, ::-1], high / size[:, ::-1]):
        yield _SWAPPED._replace(likely=True)
    relative = high / size
    reach = relative.max() if few else np.quantile(relative, 0.995, axis=0).max()
    if reach <= 0:
        return
    factor = _nice(1 / reach)
    if few:  # a few texts do not reach the border: the scale may be smaller than they tell
        factor = next((n for n in _NICE if n <= _SLACK / reach), factor)
    if abs(math.log(factor)) > 0.1 and fits(low / size * factor, high / size * factor):
        yield _of_factor(factor)._replace(likely=True)


def _of_factor(factor: float) -> _Move:
    how = "smaller" if factor < 1 else "larger"
    cause = f"Were the images made {how} after they were labelled?"
    facts = {"factor": f"x {factor:.3g}", "cause": cause}
    return _Move("scaled", lambda p, h, w: p * factor, facts)


def _of_range(whole: int, name: str) -> _Move:
    facts = {
        "factor": f"x times width / {whole}, y times height / {whole}",
        "cause": f"All are between 0 and {name}, and PaddleOCR reads pixels.",
    }
    kind = "normalised" if whole == 1 else "scaled"
    return _Move(kind, lambda p, h, w: p * (w / whole, h / whole), facts, likely=True)


def _nice(factor: float) -> float:
    """Return the simple fraction closest to a factor, or the factor itself if none is close."""
    near = [f for n in _NICE for f in (n, 1 / n) if abs(math.log(f / factor)) < 0.04]
    return min(near, key=lambda f: abs(math.log(f / factor)), default=factor)


def _stand_upright(sheets: Sequence[Sheet]) -> bool:
    extents = np.array([np.ptp(p, axis=0) for sheet in sheets for p in sheet.outlines()])
    if len(extents) < _FEWEST_ENDS:
        return False
    across, down = extents.T
    long = np.maximum(across, down) > 1.5 * np.minimum(across, down)
    return bool(long.sum() >= _FEWEST_ENDS and (down > across)[long].mean() > 0.8)


# The pixels below them ---------------------------------------------------------------------------


def _turn(cause: str, apply: Callable[[_Array, int, int], _Array]) -> _Move:
    return _Move("turned", apply, {"cause": cause})


_SWAPPED = _turn("they fit with x and y swapped. Write [x, y].", lambda p, h, w: p[:, ::-1])
_QUARTER = (
    "they fit turned by a quarter. The images were turned after they were labelled, or"
    " labelled in a program that does not turn them as their EXIF data says. Turn the points."
)
_TURNS = (
    _SWAPPED,
    _turn(
        "they fit with x counted from the right. Write width - x, or mirror the images.",
        lambda p, h, w: p * (-1, 1) + (w, 0),
    ),
    _turn(
        "they fit with y counted from the bottom. Write height - y.",
        lambda p, h, w: p * (1, -1) + (0, h),
    ),
    _turn(
        "they fit upside down. Write width - x and height - y, or turn the images.",
        lambda p, h, w: (w, h) - p,
    ),
    _turn(_QUARTER, lambda p, h, w: p[:, ::-1] * (-1, 1) + (w, 0)),
    _turn(_QUARTER, lambda p, h, w: p[:, ::-1] * (1, -1) + (0, h)),
    _turn(
        "they fit with x and y swapped and counted from the far corner. Write width - y"
        " and height - x.",
        lambda p, h, w: (w, h) - p[:, ::-1],
    ),
)


class _Seen:
    """The edges in some images, and the outlines that should lie on them."""

    def __init__(self, sheets: Sequence[Sheet]) -> None:
        usable = [sheet for sheet in sheets if sheet.outlines()]
        chosen = np.unique(np.linspace(0, len(usable) - 1, min(_PAGES, len(usable))).astype(int))
        self.edges: list[_Array] = []
        self.sheets: list[Sheet] = []
        self.outlines: list[list[_Array]] = []
        if len(usable) < _FEWEST_PAGES:
            return
        for sheet in (usable[i] for i in chosen):
            edges = read_edges(sheet.path, sheet.size, _LONGEST)
            if edges is not None:
                self.edges.append(edges)
                self.sheets.append(sheet)
                self.outlines.append(sheet.outlines())
        self.as_labelled = self.ranks(_as_they_are)

    def ranks(
        self,
        apply: Callable[[_Array, int, int], _Array],
        chosen: Sequence[int] | None = None,
    ) -> _Array:
        """Return for each image the mean rank of the edges inside its outlines, 0.5 by chance."""
        indices = range(len(self.edges)) if chosen is None else chosen
        return np.array(
            [_rank(self.edges[k], self.outlines[k], self.sheets[k].size, apply) for k in indices]
        )

    def gain(self, ranks: _Array) -> tuple[float, float]:
        """Return how much higher ranks are than those as labelled, also in standard errors."""
        more = ranks - self.as_labelled
        error = more.std(ddof=1) / math.sqrt(len(more))
        return float(more.mean()), float(more.mean() / max(error, 1e-6))

    def lie_on_text(self) -> bool:
        """Tell whether the outlines fit the edges worse when moved a little, to whichever side.

        Then they belong there, even if all images have stronger edges elsewhere, such as beside the
        number plates that one camera takes.
        """
        heights = [
            np.ptp(points, axis=0).min() / max(sheet.size)
            for sheet, outlines in zip(self.sheets, self.outlines)
            for points in outlines
        ]
        step = float(np.clip(np.median(heights) * _LONGEST / 2, 4, 32))
        moves = [(i * step, j * step) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        gains = [self.gain(self.ranks(_moved(move))) for move in moves]
        return all(gain < -_CLEARLY and errors < -_LIKELY for gain, errors in gains)

    def best(self, moves: list[_Move]) -> tuple[_Move | None, str]:
        """Return the move that puts the outlines on text, if there is one, and the evidence."""
        factors = [_of_factor(factor) for n in _NICE for factor in (n, 1 / n)]
        tried = [(move, *self.gain(self.ranks(move.apply))) for move in (*moves, *_TURNS, *factors)]
        sure = [
            (gain, move)
            for move, gain, errors in tried
            if gain > _GAIN and errors > (_LIKELY if move.likely else _CERTAIN)
        ]
        evidence = f"The pixels of {len(self.edges)} images show where the outlines belong"
        if sure:
            return max(sure, key=lambda item: item[0])[1], evidence
        across, down = self.shift(range(len(self.edges)))
        if max(abs(across), abs(down)) < _MOVED:
            return None, ""
        # Among so many shifts one fits some images better by chance. So the shift that is best for
        # one half of the images is tried on the other half.
        ranks = self.as_labelled.copy()
        for half in (0, 1):
            shift = self.shift(range(half, len(self.edges), 2))
            others = range(1 - half, len(self.edges), 2)
            ranks[1 - half :: 2] = self.ranks(_moved(shift), others)
        gain, errors = self.gain(ranks)
        if gain > _LITTLE and errors > _CERTAIN and ranks.mean() > _STRONG:
            scale = float(np.median([max(sheet.size) for sheet in self.sheets])) / _LONGEST
            facts = {"across": round(across * scale), "down": round(down * scale)}
            return _Move("shifted", _moved((across, down)), facts), evidence
        return None, ""

    def shift(self, chosen: Sequence[int]) -> tuple[int, int]:
        """Return the shift (x, y), in pixels of the reduced images, that fits the edges best."""
        side = _LONGEST // _COARSE
        total = np.zeros((2 * side, 2 * side))
        for k in chosen:
            edges = self.edges[k]
            mask = _mask(edges.shape, self.outlines[k], self.sheets[k].size).astype(np.float32)
            if not mask.any():
                continue
            small = [
                cv2.resize(a, None, fx=1 / _COARSE, fy=1 / _COARSE, interpolation=cv2.INTER_AREA)
                for a in (edges - edges.mean(), mask)
            ]
            first, second = (np.fft.rfft2(a, total.shape) for a in small)
            total += np.fft.irfft2(first * second.conj(), total.shape) / small[1].sum()
        reach = side // 4
        window = np.roll(total, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
        y, x = np.unravel_index(window.argmax(), window.shape)
        left, top = (int(x) - reach) * _COARSE, (int(y) - reach) * _COARSE
        steps = (-3, 0, 3)
        shifts = [(0, 0), *((left + i, top + j) for i in steps for j in steps)]
        return max(shifts, key=lambda shift: float(self.ranks(_moved(shift), chosen).mean()))

    def are_of_others(self) -> bool:
        """Tell whether the outlines of other images fit the edges as well as an image's own."""
        if len(self.edges) < 2 * _FEWEST_PAGES:
            return False
        count = len(self.sheets)
        others = np.array(
            [
                _rank(edges, self.outlines[(i + 1) % count], sheet.size)
                for i, (edges, sheet) in enumerate(zip(self.edges, self.sheets))
            ]
        )
        gain, errors = self.gain(others)
        return -gain < _CHANCE and errors > -_LIKELY and self.as_labelled.mean() < _STRONG

    def slipped(self, sheets: Sequence[Sheet]) -> int:
        """Return 1 or -1 if the outlines fit the image of the next or the previous line, else 0."""
        index = {sheet.page.line: i for i, sheet in enumerate(sheets)}
        for step in (1, -1):
            ranks = self.as_labelled.copy()
            for k, sheet in enumerate(self.sheets):
                i = index[sheet.page.line] + step
                other = sheets[i] if 0 <= i < len(sheets) else sheet
                edges = read_edges(other.path, other.size, _LONGEST)
                if edges is not None:
                    ranks[k] = _rank(edges, self.outlines[k], other.size)
            gain, errors = self.gain(ranks)
            if gain > _GAIN and errors > _CERTAIN:
                return step
        return 0


def _moved(shift: tuple[float, float]) -> Callable[[_Array, int, int], _Array]:
    """Return a function that moves points by (x, y), in pixels of the reduced image."""
    return lambda p, h, w: p + np.array(shift) * max(h, w) / _LONGEST


def _as_they_are(points: _Array, height: int, width: int) -> _Array:
    return points


def _mask(
    shape: _Size,
    outlines: Sequence[_Array],
    size: _Size,
    apply: Callable[[_Array, int, int], _Array] = _as_they_are,
) -> NDArray[np.uint8]:
    """Return a mask, 1 inside the moved outlines, of the shape of a reduced image."""
    moved = apply(np.concatenate(outlines), *size) * (max(shape) / max(size))
    corners = np.round(moved.clip(-4 * _LONGEST, 4 * _LONGEST)).astype(np.int32)
    drawn = np.zeros(shape, np.uint8)
    for points in np.split(corners, np.cumsum([len(points) for points in outlines])[:-1]):
        cv2.fillPoly(drawn, [points], 1)  # one by one: in one call overlaps would cancel out
    return drawn


def _rank(
    edges: _Array,
    outlines: Sequence[_Array],
    size: _Size,
    apply: Callable[[_Array, int, int], _Array] = _as_they_are,
) -> float:
    """Return the mean rank of the edges inside outlines, 0.5 as by chance if they are empty."""
    inside = _mask(edges.shape, outlines, size, apply)
    return float(cv2.mean(edges, inside)[0]) if cv2.countNonZero(inside) >= 4 else 0.5
