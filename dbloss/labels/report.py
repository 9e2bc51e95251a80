"""The kinds of problems that a label file can have, and the report on one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbloss.labels.read import Page


class Kind(NamedTuple):
    """One kind of problem."""

    meaning: str
    advice: str  # what was found and what to do, a format string that the check fills in
    remark: bool = False  # need not be changed: shown, and not counted


# The order matters: of several problems a text has only the first, since others may follow from it.
KINDS = {
    "unreadable-line": Kind(
        "a line or an entry that PaddleOCR cannot read",
        "{fault}. PaddleOCR trains on another line in its place. {remedy}",
    ),
    "missing-image": Kind("an image that is not there, or that cannot be read", "{fault}{remedy}"),
    "repeated-image": Kind(
        "an image listed twice",
        "{image} is in line {line} too. Leave one line, with all of its texts.",
    ),
    "unread-rest": Kind(
        "more after the list of texts, which PaddleOCR does not read",
        "PaddleOCR reads up to the second {delimiter}, and not {rest!r}. Are these two lines in"
        " one? Put a line break between them, or delete the rest.",
    ),
    "other-image": Kind(
        "texts that belong to other images",
        "In {count} images that were looked at, the outlines fit the edges no better than the"
        " outlines of other images would. {remedy}",
    ),
    "turned": Kind(
        "most texts fit with x and y swapped, mirrored or turned",
        "{evidence}: {cause}",
    ),
    "scaled": Kind(
        "most texts fit at another scale",
        "{evidence}: they fit at {factor}. {cause}",
    ),
    "shifted": Kind(
        "most texts fit in another place",
        "{evidence}: they fit when moved by x {across:+d}, y {down:+d} pixels. Were the"
        " images cut or padded after they were labelled?",
    ),
    "few-points": Kind(
        "fewer than 3 points",
        "{count} points have no inside. Give the corners of the text in order, 4 of a box.",
    ),
    "not-finite": Kind(
        "a coordinate that is not a finite number", "Point {number} is {point}. Correct it."
    ),
    "crossing": Kind("an outline that crosses itself", "The outline crosses itself. {remedy}"),
    "no-area": Kind(
        "less than half a pixel thick",
        "It is {thick:.2g} pixels thick. Draw it anew around the text, or leave it out.",
    ),
    "normalised": Kind(
        "coordinates between 0 and 1, not in pixels",
        "All coordinates are between 0 and 1. Multiply x by the width of the image and y by its"
        " height: PaddleOCR reads pixels.",
    ),
    "outside": Kind(
        "wholly outside the image",
        "It is outside the image, {size}. Are these the labels of this image, at this size?",
    ),
    "ignored-name": Kind(
        "marked as ignored, but not in a way that PaddleOCR knows",
        "{reading} Write ### or * for what is to be ignored.",
    ),
    "partly-outside": Kind(
        "a point outside the image",
        "It reaches {over:.3g} pixels beyond the image, {size}. Cut it off at the border{crop}.",
    ),
    "repeated-text": Kind(
        "a text given twice",
        "It covers what entry {other} covers, {text!r}: the IoU is {iou:.2f}. Leave one of them.",
    ),
    "whole-page": Kind(
        "a text over more than half of the image",
        "It covers {covered:.0%} of the image. Give each word or line its own outline.",
    ),
    "nested": Kind("a text within another", "It lies within entry {other}, {text!r}{result}"),
    "too-small": Kind(
        "narrower or lower than min_text_size at the training size",
        "It is {side:.1f} pixels high or wide {at}, below {least:g}, and is ignored there. Train at"
        " a larger size, lower min_text_size, or write ###.",
    ),
    "gone": Kind(
        "nothing left after shrinking at the training size",
        "It is so thin that shrinking {at} leaves nothing of it, and it is ignored there. Train at"
        " a larger size, or write ###.",
    ),
    "touching": Kind(
        "two texts that become one after shrinking",
        "Shrunk {at}, it touches entry {other}, {text!r}: they become one text. Draw them apart,"
        " train at a larger size, or lower the shrink ratio.",
    ),
    "no-text": Kind("an image without text that counts", "{finding}"),
    "all-ignored": Kind(
        "an image whose texts are all ignored",
        "All of its {count} texts are ignored, so that no text is learnt from it. Leave out the"
        " line, or write what can be read.",
    ),
    "mostly-ignored": Kind(
        "an image with more ignored texts than others",
        "{count} of its {texts} texts are ignored. If some of them can be read, write what they"
        " say.",
        remark=True,
    ),
    "no-transcriptions": Kind(
        "most texts have an empty transcription",
        "{count:,} of {texts:,} texts have none, and PaddleOCR takes them for texts that count."
        " That is right for labels made for detection alone; write ### for those to be ignored.",
        remark=True,
    ),
}

_SIDES = (0, 4, 8, 12, 16, 24, 32, 64, np.inf)  # the bins of the histogram, in pixels
_SIZES = (640, 736, 960, 1280, 1600, 1920)  # the training sizes that are suggested, in pixels


class Problem(NamedTuple):
    """What is wrong with the file, with a line or with one of its entries."""

    line: int | None  # from 1; None for a problem of the whole file
    entry: int | None  # from 1; None for a problem of the whole line
    kind: str  # one of `KINDS`
    place: str  # the image, and left, top, right, bottom of the text in its pixels
    advice: str  # what was found, and what to do


class Report(NamedTuple):
    """What is in a label file, and what is wrong with it."""

    file: Path
    folder: Path  # that the paths of images start from
    size: tuple[int, int]
    min_text_size: float
    pages: list[Page]
    problems: list[Problem]
    sides: NDArray[np.float64]  # the lesser side of each text that should count, at `size`
    saved: NDArray[np.float64]  # of those too small, the ones that shrinking would leave some of
    text_share: float  # the share of pixels that is text in the shrink map, mean over the images
    remarks: Sequence[Problem] = ()  # on what need not be changed

    def counts(self) -> dict[str, int]:
        """Return how many problems there are of each kind, without kinds that have none."""
        return _counts(self.problems)

    def summary(self) -> str:
        """Return the report in a few lines: problems by kind, sizes of words, advice."""
        return "\n".join(_summary(self))


def _counts(problems: Iterable[Problem]) -> dict[str, int]:
    found = Counter(problem.kind for problem in problems)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def _summary(report: Report) -> Iterator[str]:
    texts = [text for page in report.pages for text in page.texts]
    ignored = sum(text.ignored for text in texts)
    height, width = report.size
    yield (
        f"{report.file}: {len(report.pages):,} lines, {len(texts):,} texts,"
        f" {ignored:,} of them ignored"
    )
    yield ""
    for problem in (*report.problems, *report.remarks):
        if problem.line is None:
            yield f"the whole file, {problem.kind}: {problem.advice}"
            yield ""
    if not report.problems:
        yield "no problems"
    yield from _table(report.problems)
    if report.remarks:
        yield ""
        yield "remarks, which need no mending:"
        yield from _table(report.remarks)
    if not len(report.sides):
        return
    yield ""
    yield f"the {len(report.sides):,} texts that count, by the lesser of height and width in pixels"
    yield f"where an image is scaled to fit {height} x {width} (height x width):"
    numbers, _ = np.histogram(report.sides, _SIDES)
    for least, most, count in zip(_SIDES, _SIDES[1:], numbers.tolist()):
        name = f"{least:g} and more" if most == np.inf else f"{least:g} to {most:g}"
        bar = "#" * round(40 * count / max(numbers)) or "." * (count > 0)
        yield f"{name:>12}  {count:6,}  {bar}".rstrip()
    yield f"text is {report.text_share:.2%} of the pixels of an image, after shrinking"
    yield from _size_advice(report)


def _table(problems: Sequence[Problem]) -> Iterator[str]:
    for kind, count in _counts(problems).items():
        lines = {problem.line for problem in problems if problem.kind == kind} - {None}
        where = f"in {len(lines):,} lines" if lines else "in the whole file"
        yield f"{count:8,}  {kind:16} {where}: {KINDS[kind].meaning}"


def _size_advice(report: Report) -> Iterator[str]:
    least, sides = report.min_text_size, report.sides
    small = int((sides < least).sum())
    if not small:
        return
    yield ""
    yield (
        f"{small:,} of them ({small / len(sides):.1%}) are below min_text_size={least:g}, and"
        " ignored. They would be fewer with"
    )
    height, width = report.size
    for side in (side for side in _SIZES if side > max(report.size)):
        factor = side / max(report.size)
        left = int((sides * factor < least).sum())
        name = f"--size {round(height * factor)} {round(width * factor)}"
        yield f"  {name:20}  {left:,} ({left / len(sides):.1%})"
        if not left:
            break
    lower = f"{least / 2:g}"
    left = small - int((report.saved >= least / 2).sum())
    yield f"  {f'--min-text-size {lower}':20}  {left:,} ({left / len(sides):.1%})"
