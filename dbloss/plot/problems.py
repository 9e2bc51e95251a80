"""A contact sheet of what `dbloss.labels` has found: the worst, each cut out of its image."""

from __future__ import annotations

from collections import defaultdict
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dbloss import checks
from dbloss.plot import panels

if TYPE_CHECKING:
    from dbloss.labels import Page, Problem, Report

_COLUMNS = 4
_RATIO = 3 / 4  # height to width of a crop
_LEAST = 64  # pixels, of the width of a crop
_PAGES = 2  # of each fault of a whole line


def plot_problems(report: Report, *, most: int = 24, size: float = 12) -> panels.Picture | None:
    r"""Return a contact sheet of the worst problems of a label file.

    Each is cut out of its image and numbered by line and entry, as in `problems.csv`; a fault of a
    whole line is drawn with all of its texts, twice at most. The kinds take turns, in the order of
    `dbloss.labels.KINDS`; of a kind the largest texts come first. The outline in question is
    yellow; the others are blue, and dashed where they are ignored.

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
    from dbloss.labels import read_image

    most = checks.number("most", most, least=1, whole=True)
    size = checks.number("size", size, least=4)
    chosen: list[tuple[Problem, NDArray[Any]]] = []
    for problem in _by_turns(report):
        if len(chosen) == most:
            break
        try:
            chosen.append(
                (problem, read_image(report.folder / report.pages[problem.line - 1].image))
            )
        except (OSError, ValueError):
            continue
    if not chosen:
        return None
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    side = size / _COLUMNS
    figure = panels.Picture(
        figsize=(side * columns, rows * (side * _RATIO + 0.3) + 0.3), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    for ax, (problem, image) in zip(axes, chosen):
        _draw_problem(ax, problem, report.pages[problem.line - 1], image)
    figure.suptitle(
        f"{len(chosen)} of {len(report.problems):,} problems", fontsize=11, x=0.01, ha="left"
    )
    return figure


def _by_turns(report: Report) -> list[Problem]:
    """Return the problems that can be shown, a kind after the other, the worst of each first."""
    kinds: dict[str, list[Problem]] = {kind: [] for kind in report.counts()}
    for problem in report.problems:
        if not report.pages[problem.line - 1].fault:
            kinds[problem.kind].append(problem)
    extents: dict[Problem, float] = defaultdict(float)
    for problem in report.problems:
        if problem.entry is not None and not report.pages[problem.line - 1].fault:
            points = report.pages[problem.line - 1].texts[problem.entry - 1].points
            if panels.can_be_drawn(points):
                extents[problem] = float(np.ptp(points, axis=0).sum())
    for kind, problems in kinds.items():
        problems.sort(key=lambda problem: -extents[problem])
        if problems and problems[0].entry is None:
            kinds[kind] = problems[:_PAGES]
    return [problem for turn in zip_longest(*kinds.values()) for problem in turn if problem]


def _draw_problem(ax: Axes, problem: Problem, page: Page, image: NDArray[Any]) -> None:
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
    for number, text in enumerate(page.texts, start=1):
        if number != problem.entry and panels.can_be_drawn(text.points):
            panels.draw_outline(ax, text.points, panels.SKY, "--" if text.ignored else "-", 1)
    if points is not None:
        panels.draw_outline(ax, points, panels.YELLOW, "-", 2)
        if problem.kind == "crossing" and len(points) <= 8:
            for number, point in enumerate(points, start=1):
                panels.write(ax, point, str(number))
    entry = "" if problem.entry is None else f", entry {problem.entry}"
    ax.set_title(f"line {problem.line}{entry}: {problem.kind}", fontsize=10, loc="left")
