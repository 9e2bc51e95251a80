"""Contact sheets of a label file: the worst problems, and pages without any."""

from __future__ import annotations

import csv
import os
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
_COLUMNS_OF_PAGES = 3  # fewer, so that a whole page can be read
_RATIO = 3 / 4  # height to width of a crop
_LEAST = 64  # pixels, of the width of a crop
_WHOLE = 2  # whole pages drawn of each kind of fault

_Chosen = tuple["Problem | None", "Page", NDArray[np.uint8]]  # and its image

_LEGEND: list[tuple[str, Any]] = [
    ("the text in question", {"color": panels.YELLOW, "linewidth": 2}),
    ("a text that counts", {"color": panels.SKY, "linewidth": 1.5}),
    ("an ignored text", {"color": panels.SKY, "linewidth": 1.5, "linestyle": "--"}),
]


def write_report(report: Report, folder: str | os.PathLike[str], most: int = 24) -> list[Path]:
    r"""Write `problems.csv` and two contact sheets into a folder, and return their paths.

    `problems.csv` has line, entry, kind, place, advice and severity of each problem and remark.
    `contact-sheet.png` is `plot_problems` with at most `most` of them, `pages.png` is `plot_pages`.
    Each is written only if there is something to show.

    Args:
        report: what `dbloss.labels.check_labels` returned.
        folder: where to write. Files of these names are replaced.
        most: problems to draw.

    Returns:
        The paths of what was written, the table first.

    Raises:
        OSError: the folder cannot be made or written to.
        TypeError: `most` is no number.
        ValueError: `most` is below 1.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from dbloss.labels import check_labels
        >>> from dbloss.plot import write_report
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = {"points": [[0, 0], [9, 0], [9, 9], [0, 9]], "transcription": "a"}
        ...     labels = Path(folder, "train.txt")
        ...     _ = labels.write_text(f"lost.png\t{json.dumps([text])}\n")
        ...     [path.name for path in write_report(check_labels(labels), Path(folder, "out"))]
        ['problems.csv']

    Source:
        None: PaddleOCR has none of it.
    """
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "problems.csv"]
    # "-sig" writes a mark by which a spreadsheet knows UTF-8. JSON can hold half of a surrogate
    # pair, which UTF-8 cannot: it is escaped.
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
    of_file = [problem for problem in report.problems if problem.line is None]
    lines = [f"{len(chosen)} of {len(report.problems):,} problems"]
    lines += [f"the whole file, {problem.kind}: {problem.advice}" for problem in of_file]
    return _sheet(report, chosen, lines, size, _LEGEND, _COLUMNS, _RATIO)


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
    ratios = [image.shape[0] / image.shape[1] for _, _, image in chosen]
    ratio = float(np.clip(np.median(ratios or 1), 0.3, 1.5))
    lines = [
        f"{len(chosen)} of {len(sound):,} pages without a problem of their own, from the whole file"
    ]
    return _sheet(report, chosen, lines, size, _LEGEND[1:], _COLUMNS_OF_PAGES, ratio)


def _checked_most(most: Any) -> int:
    return checks.whole("most", most, least=1)


def _readable(
    report: Report, wanted: Iterable[tuple[Problem | None, Page]], most: int
) -> list[_Chosen]:
    """Return the first of the problems and pages whose image can be read."""
    from dbloss.labels.images import read_image

    chosen: list[_Chosen] = []
    for problem, page in wanted:
        if len(chosen) == most:
            break
        try:
            chosen.append((problem, page, read_image(report.folder / page.image)))
        except (OSError, ValueError):
            continue
    return chosen


def _sheet(
    report: Report,
    chosen: list[_Chosen],
    lines: Sequence[str],
    size: float,
    legend: list[tuple[str, Any]],
    most_columns: int,
    ratio: float,
) -> panels.Picture | None:
    """Return a figure with lines of text above, a panel for each choice, and a legend below."""
    if not chosen:
        return None
    size = checks.number("size", size, least=4)
    columns = min(most_columns, len(chosen))
    rows = -(-len(chosen) // columns)
    side = size / most_columns
    across = max(side * columns, 4.0)
    lines = [part for line in lines for part in textwrap.wrap(line, int(11 * across))]
    down = rows * (side * ratio + 0.3) + 0.2 * len(lines) + 0.4
    figure = panels.Picture(figsize=(across, down), layout="constrained")
    axes: NDArray[Any] = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    for ax, (problem, page, image) in zip(axes, chosen):
        _draw_page(ax, problem, page, image, report, ratio)
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
    return figure


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


def _draw_page(
    ax: Axes,
    problem: Problem | None,
    page: Page,
    image: NDArray[Any],
    report: Report,
    ratio: float,
) -> None:
    """Draw the text in question and what is around it, or the whole page where there is none."""
    height, width = image.shape[:2]
    title = f"line {page.line}"
    points, entry, kind = None, None, ""
    if problem is not None:
        entry, kind = problem.entry, problem.kind
        title += f": {kind}" if entry is None else f", entry {entry}: {kind}"
    if entry is not None and panels.can_be_drawn(page.texts[entry - 1].points):
        points = page.texts[entry - 1].points
    corners = np.array([(0, 0), (width, height)])
    if points is None:
        window = panels.window(corners, ratio, 1, 1)
    elif kind == "outside":  # the image is shown too
        ends = np.vstack((points, corners)).clip(-2 * width, 3 * width)
        window = panels.window(ends, ratio, _LEAST, 1.05)
    else:
        window = panels.window(points, ratio, _LEAST, 1.7)
    panels.draw_window(ax, image, window, ratio)
    for number, text in enumerate(page.texts, start=1):
        if number != entry and panels.can_be_drawn(text.points):
            panels.draw_outline(ax, text.points, panels.SKY, "--" if text.ignored else "-", 1)
    if points is not None:
        panels.draw_outline(ax, points, panels.YELLOW, "-", 2)
        if kind == "crossing" and len(points) <= 8:
            for number, point in enumerate(points, start=1):
                panels.write(ax, point, str(number))
        if kind == "too-small":
            side = _training_side(points, image.shape, report.size)
            below = (points[:, 0].mean(), window[3] - 0.04 * (window[3] - window[1]))
            panels.write(ax, below, f"{side:.1f} pixels", va="bottom")
    ax.set_title(title, fontsize=10, loc="left")


def _training_side(points: NDArray[Any], shape: Sequence[int], size: tuple[int, int]) -> float:
    """Return the lesser of height and width of a text at the training size, in pixels."""
    from dbloss.targets import shrink

    scale = min(size[0] / shape[0], size[1] / shape[1])
    return shrink([points * np.float64(scale)], *size)[0].side
