"""The targets of one image: what a detector will be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dbloss.base import checks
from dbloss.plot import panels

if TYPE_CHECKING:
    from dbloss.labels import Problem
    from dbloss.targets import Targets, WeightedTargets

_Array = NDArray[Any]

_ZOOMS = 4
_ZOOM_RATIO = 0.45  # height to width
_ZOOM_LEAST = 60  # pixels


class Kind(NamedTuple):
    """What became of polygons: which ones, their pixels, and how they are drawn."""

    name: str
    colour: str
    line: str
    entries: list[int]  # numbers of the polygons, from 1
    pixels: _Array  # bool `[H, W]`


class Kinds(NamedTuple):
    """What becomes of all polygons of an image."""

    text: Kind
    ignored: Kind
    dropped: Kind


class Made(NamedTuple):
    """The targets of an image at its training size."""

    targets: Targets | WeightedTargets
    kinds: Kinds
    problems: list[Problem]
    scale: float  # from the image to them
    size: tuple[int, int]  # of the image within them, height and width


def make_and_sort(
    shape: tuple[int, int],
    polygons: Sequence[_Array],
    ignored: Sequence[bool],
    training_size: tuple[int, int] | None = None,
    problems: list[Problem] | None = None,
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
) -> Made:
    """Return the targets of an image of `shape`, and what became of each of its polygons.

    A polygon that no target can be made of, of fewer than 3 points or not finite, is dropped.
    """
    from dbloss.labels import Page, Text, check_page
    from dbloss.targets import make_targets, shrink

    height, width = training_size or shape
    scale = min(height / shape[0], width / shape[1])
    options: Any = {"shrink_ratio": shrink_ratio, "min_text_size": min_text_size}
    if problems is None:
        texts = [Text("", np.float32(p), bool(f)) for p, f in zip(polygons, ignored)]
        problems = check_page(Page(1, ("",), texts, None), *shape, size=training_size, **options)
    fit = [len(polygon) >= 3 and panels.can_be_drawn(polygon) for polygon in polygons]
    scaled = [np.asarray(p) * np.float64(scale) for p, fits in zip(polygons, fit) if fits]
    flags = [bool(flag) for flag, fits in zip(ignored, fit) if fits]
    targets = make_targets(scaled, flags, height, width, **options)
    marked = [polygon for polygon, flag in zip(scaled, flags) if flag]
    # What the labels ask to ignore; what else is masked was dropped.
    asked = make_targets(marked, [True] * len(marked), height, width).shrink_mask == 0
    masked = targets.shrink_mask == 0
    kinds = Kinds(
        Kind("text", panels.SKY, "-", [], (targets.shrink_map == 1) & ~masked),
        Kind("ignored", "white", "--", [], asked),
        Kind("dropped as too small", panels.VERMILLION, "-.", [], masked & ~asked),
    )
    left = iter(shrink(scaled, height, width, **options))
    for number, (fits, flag) in enumerate(zip(fit, ignored), start=1):
        remains = fits and bool(next(left).pieces)
        kind = kinds.ignored if flag else kinds.text if remains else kinds.dropped
        kind.entries.append(number)
    inner = max(int(shape[0] * scale), 1), max(int(shape[1] * scale), 1)
    return Made(targets, kinds, problems, scale, inner)


def plot_targets(
    image: Any,
    polygons: Sequence[_Array],
    ignored: Sequence[bool],
    *,
    training_size: tuple[int, int] | None = None,
    zoom: Sequence[int] | None = None,
    size: float = 12,
    problems: list[Problem] | None = None,
    title: str = "",
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
) -> panels.Picture:
    """Return a figure of an image, its polygons, and the targets that are made of them.

    The image comes first, with all polygons, numbered from 1, and what is left of them after
    shrinking. Below it some texts are shown larger, each with its shrink map and mask and its
    threshold map as `make_targets` makes them at the training size.

    Args:
        image: `[h, w]`, `[h, w, C]` or `[C, h, w]`, as for `plot_batch`.
        polygons: as for `make_targets`, in pixels of the image. What `make_targets` refuses is
            counted as dropped.
        ignored: one bool per polygon.
        training_size: height and width of the training crops, in pixels. The image is scaled to
            fit, as a crop of all of it would be. None is the size of the image.
        zoom: the numbers of the polygons to show larger, from 1. None shows up to 4: those that
            have problems, then the smallest that are left.
        size: width of the figure, in inches.
        problems: of the image, as `dbloss.labels.check_labels` gives them. None looks for them.
        title: a line above the figure.
        min_text_size: as for `make_targets`.
        shrink_ratio: as for `make_targets`.

    Returns:
        A `matplotlib.figure.Figure`. `figure.savefig("targets.png")` writes it; a notebook shows
        it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an array has a wrong shape, a polygon is not `[k, 2]`, or a number is out of
            its range.

    Example:
        >>> import numpy as np
        >>> from dbloss.plot import plot_targets
        >>> box = np.array([(34, 38), (94, 38), (94, 58), (34, 58)])
        >>> figure = plot_targets(np.zeros((96, 128, 3), np.uint8), [box], [False])
        >>> [text.get_text() for text in figure.legends[0].get_texts()][0]
        'text: 1, 3.59% of the pixels'

    Source:
        The maps: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, figure 3.
    """
    picture = panels.to_picture(image)
    shape = picture.shape[0], picture.shape[1]
    polygons = [np.asarray(polygon) for polygon in polygons]
    made = make_and_sort(
        shape, polygons, ignored, training_size, problems, min_text_size, shrink_ratio
    )
    return draw_targets(picture, polygons, made, title, zoom, size)


def draw_targets(
    image: _Array,
    polygons: Sequence[_Array],
    made: Made,
    title: str,
    zoom: Sequence[int] | None = None,
    size: float = 12,
) -> panels.Picture:
    """Return a figure of an image, uint8 `[h, w, 3]`, with its polygons and targets."""
    size = checks.number("size", size, least=4)
    height, width = image.shape[:2]
    entries = _worst(polygons, made) if zoom is None else _checked_zoom(zoom, len(polygons))
    ratio = min(max(height / width, 0.2), 2)
    rows = [ratio, *[_ZOOM_RATIO / 3] * len(entries)]
    figure = panels.Picture(
        figsize=(size, size * sum(rows) + 0.35 * len(rows) + 1), layout="constrained"
    )
    grid = figure.add_gridspec(len(rows), 3, height_ratios=rows)
    page = figure.add_subplot(grid[0, :])
    panels.draw_window(page, image, (-0.5, -0.5, width - 0.5, height - 0.5), ratio)
    panels.lay_over(page, made.kinds.text.pixels, made.kinds.text.colour, 0.55, made.scale)
    _draw_outlines(page, polygons, made.kinds)
    causes = {problem.entry: problem.kind for problem in made.problems}
    panels.number_outlines(page, polygons, first=[*causes, *made.kinds.text.entries], size=size)
    page.set_title("outlines, and in colour what is left of them as text", loc="left")

    for row, entry in enumerate(entries, start=1):
        place = panels.window(polygons[entry - 1], _ZOOM_RATIO, _ZOOM_LEAST, 1.5)
        crop, shrunk, threshold = (figure.add_subplot(grid[row, column]) for column in range(3))
        cause = f": {causes[entry]}" if entry in causes else ""
        panels.draw_window(crop, image, place, _ZOOM_RATIO)
        _draw_outlines(crop, polygons, made.kinds, 2)
        panels.number_outlines(crop, polygons, first=[entry], size=size / 3)
        crop.set_title(f"entry {entry}{cause}", loc="left")
        grey = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        panels.draw_window(shrunk, grey, place, _ZOOM_RATIO)
        for kind in made.kinds:
            panels.lay_over(shrunk, kind.pixels, kind.colour, 0.5, made.scale)
        panels.hatch(shrunk, made.targets.shrink_mask == 0, made.scale)
        shrunk.set_title(f"entry {entry}: shrink map and mask", loc="left")
        _draw_threshold(threshold, made, place)
        threshold.set_title(f"entry {entry}: threshold map and mask", loc="left")

    legend: list[Any] = []
    for kind in filter(lambda kind: kind.entries, made.kinds):
        inside = kind.pixels[: made.size[0], : made.size[1]]
        label = f"{kind.name}: {len(kind.entries)}, {inside.mean():.2%} of the pixels"
        style: dict[str, Any] = {"color": kind.colour, "linestyle": kind.line, "linewidth": 2}
        legend.append(Line2D([], [], **style, path_effects=panels.dark(2), label=label))
    if entries:
        legend.append(panels.HATCHED)
        note = f"threshold from {_LEAST_SHOWN:g} (dark) to {_MOST_SHOWN:g} (light)"
        legend.append(Patch(facecolor=panels.VIRIDIS, label=note))
    figure.suptitle(title, fontsize=12)
    columns = 3 if size >= 9 else 1
    figure.legend(handles=legend, loc="outside lower center", ncols=columns, frameon=False)
    return figure


_LEAST_SHOWN, _MOST_SHOWN = 0.3, 0.7


def _draw_threshold(ax: Axes, made: Made, place: panels.Window) -> None:
    values, mask = made.targets.threshold_map, made.targets.threshold_mask
    left, top, right, bottom = place
    extent = panels.extent(values.shape, made.scale)
    ax.imshow(values, vmin=_LEAST_SHOWN, vmax=_MOST_SHOWN, extent=extent, aspect="auto")
    panels.hatch(ax, mask == 0, made.scale)
    ax.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top), facecolor="0.6")
    ax.set(box_aspect=_ZOOM_RATIO)


def _draw_outlines(ax: Axes, polygons: Sequence[_Array], kinds: Kinds, width: float = 1.3) -> None:
    for kind in (kinds.ignored, kinds.text, kinds.dropped):
        for number in kind.entries:
            if panels.can_be_drawn(polygons[number - 1]):
                panels.draw_outline(ax, polygons[number - 1], kind.colour, kind.line, width)


def _worst(polygons: Sequence[_Array], made: Made) -> list[int]:
    """Return up to 4 polygons to show larger: those with problems, then the smallest texts."""
    from dbloss.labels import KINDS

    order = list(KINDS)
    faulty = sorted(
        (problem for problem in made.problems if problem.entry is not None),
        key=lambda problem: order.index(problem.kind),
    )
    extents = {n: np.ptp(polygons[n - 1], axis=0).min() for n in made.kinds.text.entries}
    candidates = [problem.entry for problem in faulty if problem.entry is not None]
    chosen: list[int] = []
    for number in dict.fromkeys([*candidates, *sorted(extents, key=lambda n: extents[n])]):
        polygon = polygons[number - 1]
        if len(chosen) < _ZOOMS and panels.can_be_drawn(polygon):
            windows = (
                panels.window(polygons[n - 1], _ZOOM_RATIO, _ZOOM_LEAST, 1.5) for n in chosen
            )
            x, y = polygon.mean(axis=0)
            if not any(l < x < r and t < y < b for l, t, r, b in windows):  # noqa: E741
                chosen.append(number)
    return chosen


def _checked_zoom(zoom: Any, count: int) -> list[int]:
    numbers = [checks.whole("zoom", number) for number in zoom]
    wrong = [number for number in numbers if not 1 <= number <= count]
    if wrong:
        raise ValueError(
            f"zoom: expected numbers of polygons, from 1 to {count}, got {wrong[0]}. Count from 1."
        )
    return numbers
