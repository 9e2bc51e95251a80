"""Contact sheets of a label file: the worst problems, and pages without any."""

from __future__ import annotations

import csv
import os
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dbloss.base import checks
from dbloss.plot import panels

if TYPE_CHECKING:
    from dbloss.labels.read import Page
    from dbloss.labels.report import Problem, Report

_COLUMNS = 4
_COLUMNS_OF_PAGES = 3  # which are to be read as a whole
_RATIO = 3 / 4  # height to width of a crop
_LEAST = 64  # pixels, of the width of a crop
_WHOLE = 2  # pages drawn of each fault of a whole line

_LEGEND: list[tuple[str, Any]] = [
    ("the text in question", {"color": panels.YELLOW, "linewidth": 2}),
    ("a text that counts", {"color": panels.SKY, "linewidth": 1.5}),
    ("an ignored text", {"color": panels.SKY, "linewidth": 1.5, "linestyle": "--"}),
]


def write_report(report: Report, folder: str | os.PathLike[str], most: int = 24) -> list[Path]:
    """Write `problems.csv`, `contact-sheet.png` and `pages.png`; what `Report.write` does."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "problems.csv"]
    # The mark at the start tells a spreadsheet that it is UTF-8. What JSON can write and UTF-8
    # cannot, half of a pair of code units, is escaped.
    with written[0].open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("line", "entry", "kind", "place", "advice", "severity"))
        table.writerows((*problem, "problem") for problem in report.problems)
        table.writerows((*remark, "remark") for remark in report.remarks)
    for name, figure, dpi in (
        ("contact-sheet.png", plot_problems(report, most=most), 100),
        ("pages.png", plot_pages(report), 150),
    ):
        if figure is not None:
            written.append(out / name)
            figure.savefig(written[-1], dpi=dpi)
    return written


def plot_problems(report: Report, *, most: int = 24, size: float = 12) -> panels.Picture | None:
    r"""Return a contact sheet of the worst problems of a label file.

    Each is cut out of its image and numbered by line and entry, as in `problems.csv`; a fault of a
    whole line is drawn with all of its texts, twice at most. The kinds take turns, in the order of
    `dbloss.labels.KINDS`; of a kind the largest texts come first. The outline in question is
    yellow; the others are blue, and dashed where they are ignored. Below a text that is too small
    stands how many pixels it is high or wide at the training size.

    Args:
        report: what `dbloss.labels.check_labels` returned.
        most: problems to draw.
        size: width of the figure, in inches.

    Returns:
        A `matplotlib.figure.Figure`, or None where there is no problem with an image to show.

    Raises:
        TypeError: `most` or `size` is no number.
        ValueError: `most` is below 1, or `size` below 4.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from dbloss.labels import check_labels
        >>> from dbloss.plot import plot_problems
        >>> file = Path(mkdtemp(), "Label.txt")
        >>> _ = file.write_text("img_1.jpg\t[]")
        >>> report = check_labels(file)
        >>> [problem.kind for problem in report.problems], plot_problems(report)
        (['missing-image', 'no-text'], None)

    Source:
        Colours: Okabe and Ito, "Color Universal Design", 2008.
    """
    chosen = _readable(report, _by_turns(report), _checked_most(most))
    if not chosen:
        return None
    of_file = [problem for problem in report.problems if problem.line is None]
    lines = [f"{len(chosen)} of {len(report.problems):,} problems"]
    lines += [f"the whole file, {problem.kind}: {problem.advice}" for problem in of_file]
    figure, axes = _sheet(len(chosen), size, lines, _LEGEND, _COLUMNS, _RATIO)
    for ax, (problem, page, image) in zip(axes, chosen):
        _draw_problem(ax, problem, page, image, report)
    return figure


def plot_pages(report: Report, *, most: int = 12, size: float = 12) -> panels.Picture | None:
    r"""Return a contact sheet of pages without problems, drawn from the whole file.

    No check sees all: half of the words without a label, or outlines of another image, are no
    fault of any one line, and the eye finds them at once. The pages are spread evenly over the
    file, each with its outlines in blue, dashed where they are ignored.

    Args:
        report: what `dbloss.labels.check_labels` returned.
        most: pages to draw.
        size: width of the figure, in inches.

    Returns:
        A `matplotlib.figure.Figure`, or None where every page has a problem or no image.

    Raises:
        TypeError: `most` or `size` is no number.
        ValueError: `most` is below 1, or `size` below 4.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from dbloss.labels import check_labels
        >>> from dbloss.plot import plot_pages
        >>> file = Path(mkdtemp(), "Label.txt")
        >>> _ = file.write_text("img_1.jpg\t[]")
        >>> print(plot_pages(check_labels(file)))
        None

    Source:
        Colours: Okabe and Ito, "Color Universal Design", 2008.
    """
    faulty = {problem.line for problem in report.problems}
    sound = [page for page in report.pages if page.line not in faulty and not page.fault]
    most = _checked_most(most)
    spread = np.unique(np.linspace(0, len(sound) - 1, min(most, len(sound))).astype(int))
    chosen = _readable(report, ((None, sound[i]) for i in spread), most)
    if not chosen:
        return None
    lines = [
        f"{len(chosen)} of {len(sound):,} pages without a problem of their own, from the whole file"
    ]
    ratio = float(np.clip(np.median([i.shape[0] / i.shape[1] for _, _, i in chosen]), 0.3, 1.5))
    figure, axes = _sheet(len(chosen), size, lines, _LEGEND[1:], _COLUMNS_OF_PAGES, ratio)
    for ax, (_, page, image) in zip(axes, chosen):
        height, width = image.shape[:2]
        corners = np.array([(0, 0), (width, height)])
        panels.draw_window(ax, image, panels.window(corners, ratio, 1, 1), ratio)
        _draw_texts(ax, page)
        ax.set_title(f"line {page.line}", fontsize=10, loc="left")
    return figure


def _checked_most(most: Any) -> int:
    return checks.whole("most", most, least=1)


def _readable(report: Report, wanted: Any, most: int) -> list[tuple[Any, Page, NDArray[np.uint8]]]:
    """Return the first of the problems and pages whose image can be read, and the image."""
    from dbloss.labels.images import read_image

    chosen: list[tuple[Any, Page, NDArray[np.uint8]]] = []
    for problem, page in wanted:
        if len(chosen) == most:
            break
        try:
            chosen.append((problem, page, read_image(report.folder / page.image)))
        except (OSError, ValueError):
            continue
    return chosen


def _sheet(
    count: int,
    size: float,
    lines: Sequence[str],
    legend: list[tuple[str, Any]],
    most_columns: int,
    ratio: float,
) -> tuple[panels.Picture, NDArray[Any]]:
    """Return a figure with lines of text above, a legend below, and axes for each panel."""
    size = checks.number("size", size, least=4)
    columns = min(most_columns, count)
    rows = -(-count // columns)
    side = size / most_columns
    across = max(side * columns, 4.0)
    lines = [part for line in lines for part in textwrap.wrap(line, int(11 * across))]
    down = rows * (side * ratio + 0.3) + 0.2 * len(lines) + 0.4
    figure = panels.Picture(figsize=(across, down), layout="constrained")
    axes: NDArray[Any] = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.set_axis_off()
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    handles = [
        Line2D([], [], label=label, path_effects=panels.dark(style["linewidth"]), **style)
        for label, style in legend
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(handles) if across >= 6 else 1,
        frameon=False,
    )
    return figure, axes


def _by_turns(report: Report) -> Iterator[tuple[Problem, Page]]:
    """Yield the problems that can be shown, a kind after the other, the worst of each first."""
    kinds: dict[str, list[Problem]] = {kind: [] for kind in report.counts()}
    extents: dict[Problem, float] = defaultdict(float)
    for problem in report.problems:
        if problem.line is None or report.pages[problem.line - 1].fault:
            continue
        kinds[problem.kind].append(problem)
        if problem.entry is not None:
            points = report.pages[problem.line - 1].texts[problem.entry - 1].points
            if panels.can_be_drawn(points):
                extents[problem] = float(np.ptp(points.astype(float), axis=0).sum())
    for kind, problems in kinds.items():
        problems.sort(key=lambda problem: -extents[problem])
        if problems and problems[0].entry is None:
            kinds[kind] = problems[:_WHOLE]
    for turn in zip_longest(*kinds.values()):
        for problem in filter(None, turn):
            yield problem, report.pages[problem.line - 1]


def _draw_problem(
    ax: Axes, problem: Problem, page: Page, image: NDArray[Any], report: Report
) -> None:
    height, width = image.shape[:2]
    points = None if problem.entry is None else page.texts[problem.entry - 1].points
    if points is not None and not panels.can_be_drawn(points):
        points = None
    window = (0.0, 0.0, float(width), float(height))
    if points is not None:
        window = panels.window(points, _RATIO, _LEAST, 1.7)
        if problem.kind == "outside":  # the image is shown too
            ends = np.vstack((points, [(0, 0), (width, height)])).clip(-2 * width, 3 * width)
            window = panels.window(ends, _RATIO, _LEAST, 1.05)
    panels.draw_window(ax, image, window, _RATIO)
    _draw_texts(ax, page, but=problem.entry)
    if points is not None:
        panels.draw_outline(ax, points, panels.YELLOW, "-", 2)
        if problem.kind == "crossing" and len(points) <= 8:
            for number, point in enumerate(points, start=1):
                panels.write(ax, point, str(number))
        if problem.kind == "too-small":
            side = _training_side(points, image.shape, report.size)
            below = (points[:, 0].mean(), window[3] - 0.04 * (window[3] - window[1]))
            panels.write(ax, below, f"{side:.1f} pixels", va="bottom")
    entry = "" if problem.entry is None else f", entry {problem.entry}"
    ax.set_title(f"line {problem.line}{entry}: {problem.kind}", fontsize=10, loc="left")


def _training_side(points: NDArray[Any], shape: Sequence[int], size: tuple[int, int]) -> float:
    """Return the lesser of height and width of a text at the training size, in pixels."""
    from dbloss.targets import shrink

    scale = min(size[0] / shape[0], size[1] / shape[1])
    return shrink([points * np.float64(scale)], *size)[0].side


def _draw_texts(ax: Axes, page: Page, but: int | None = None) -> None:
    """Draw the outlines of a page."""
    for number, text in enumerate(page.texts, start=1):
        if number != but and panels.can_be_drawn(text.points):
            panels.draw_outline(ax, text.points, panels.SKY, "--" if text.ignored else "-", 1)
