"""What was found in a label file: the kinds of problems, and the summary."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbloss.labels.read import Page

KINDS = {
    "unreadable-line": "a line or an entry that PaddleOCR cannot read",
    "missing-image": "an image that is not there, or that cannot be read",
    "repeated-image": "an image listed twice",
    "few-points": "fewer than 3 points",
    "not-finite": "a coordinate that is not a finite number",
    "crossing": "an outline that crosses itself",
    "no-area": "less than half a pixel thick",
    "normalised": "coordinates between 0 and 1, not in pixels",
    "outside": "wholly outside the image",
    "ignored-name": "marked as ignored, but not by a name that PaddleOCR knows",
    "partly-outside": "a point outside the image",
    "repeated-text": "a text given twice",
    "whole-page": "a text over more than half of the image",
    "nested": "a text within another",
    "too-small": "narrower or lower than min_text_size at the training size",
    "gone": "nothing left after shrinking at the training size",
    "touching": "two texts that become one after shrinking",
    "no-text": "an image without text that counts",
    "all-ignored": "an image whose texts are all ignored",
    "mostly-ignored": "an image with more ignored texts than others",
}


class Problem(NamedTuple):
    """What is wrong with a line or with one of its entries."""

    line: int  # from 1
    entry: int | None  # from 1; None for a fault of the whole line
    kind: str  # one of `KINDS`
    place: str  # the image, and left, top, right, bottom of the text in its pixels
    advice: str  # what was found, and what to do


_SIDES = (0, 4, 8, 12, 16, 24, 32, 64, np.inf)  # of the histogram, in pixels
_SIZES = (640, 736, 960, 1280, 1600, 1920)


class Report(NamedTuple):
    """What is in a label file, and what is wrong with it."""

    file: Path
    folder: Path  # from which the paths of images start
    size: tuple[int, int]
    min_text_size: float
    pages: list[Page]
    problems: list[Problem]
    sides: NDArray[np.float64]  # of each text that should count, at `size`, in pixels
    saved: NDArray[np.float64]  # of those that are too small, but would be left by shrinking
    text_share: float  # mean over the images, of pixels that the shrink map has as text

    def counts(self) -> dict[str, int]:
        """Return how many problems there are of each kind that there is."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def summary(self) -> str:
        """Return the report in a few lines: problems by kind, sizes of words, advice."""
        return "\n".join(_summary(self))

    def write(self, folder: str | os.PathLike[str], most: int = 24) -> list[Path]:
        """Write `problems.csv` and `contact-sheet.png` into a folder, and return their paths.

        The contact sheet is written where there is a text to show; it shows at most `most`.
        """
        # Pictures are matplotlib's, which reading labels does without.
        from dbloss.plot.problems import plot_problems

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        written = [out / "problems.csv"]
        with written[0].open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(Problem._fields)
            table.writerows(self.problems)
        figure = plot_problems(self, most=most)
        if figure is not None:
            written.append(out / "contact-sheet.png")
            figure.savefig(written[1], dpi=100)
        return written


def _summary(report: Report) -> Iterator[str]:
    texts = [text for page in report.pages for text in page.texts]
    ignored = sum(text.ignored for text in texts)
    height, width = report.size
    yield (
        f"{report.file}: {len(report.pages):,} lines, {len(texts):,} texts,"
        f" {ignored:,} of them ignored"
    )
    yield ""
    counts = report.counts()
    if not counts:
        yield "no problems"
    for kind, count in counts.items():
        lines = len({problem.line for problem in report.problems if problem.kind == kind})
        yield f"{count:8,}  {kind:16} in {lines:,} lines: {KINDS[kind]}"
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
