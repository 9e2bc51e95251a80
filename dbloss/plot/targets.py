"""The targets of one image: what a detector will be trained on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dbloss.plot import panels
from dbloss.targets import Targets, WeightedTargets, make_targets

_Array = NDArray[Any]


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


def make_and_sort(
    polygons: Sequence[_Array], ignored: Sequence[bool], height: int, width: int
) -> tuple[Targets | WeightedTargets, Kinds]:
    """Return the targets of an image, and which of its polygons are text, ignored, too small."""
    targets = make_targets(polygons, ignored, height, width)
    marked = [polygon for polygon, flag in zip(polygons, ignored) if flag]
    asked = make_targets(marked, [True] * len(marked), height, width).shrink_mask == 0
    masked = targets.shrink_mask == 0
    kinds = Kinds(
        Kind("text", panels.BLUE, "-", [], (targets.shrink_map == 1) & ~masked),
        Kind("ignored", panels.ORANGE, "--", [], asked),
        Kind("dropped as too small", panels.VERMILLION, ":", [], masked & ~asked),
    )
    for number, (polygon, flag) in enumerate(zip(polygons, ignored), start=1):
        if flag:
            kinds.ignored.entries.append(number)
        elif _remains(polygon, height, width):
            kinds.text.entries.append(number)
        else:
            kinds.dropped.entries.append(number)
    return targets, kinds


def draw_targets(
    image: _Array,
    polygons: Sequence[_Array],
    targets: Targets | WeightedTargets,
    kinds: Kinds,
    title: str,
) -> Figure:
    """Return a figure of an image, uint8 `[H, W, 3]`, with its polygons and targets."""
    cells = [["image", "image"], ["image", "image"], ["shrunk", "threshold"]]
    figure, axes = panels.grid(cells, image.shape[:2], 1.5)
    panels.draw_image(axes["image"], image, "polygons")
    panels.draw_image(axes["shrunk"], image, "shrink map and mask")
    scale = panels.draw_map(axes["threshold"], targets.threshold_map, "threshold map")
    panels.hatch(axes["threshold"], targets.threshold_mask == 0)
    panels.scale_below(axes["threshold"], scale)

    legend: list[Any] = []
    for kind in kinds:
        style: dict[str, Any] = {"color": kind.colour, "linestyle": kind.line, "linewidth": 1.8}
        for number in kind.entries:
            x, y = polygons[number - 1].T
            axes["image"].fill(x, y, fill=False, **style)
        panels.lay_over(axes["shrunk"], kind.pixels, kind.colour, 0.6)
        label = f"{kind.name}: {len(kind.entries)}, {kind.pixels.mean():.2%} of the pixels"
        legend.append(Line2D([], [], **style, label=label))
    panels.hatch(axes["shrunk"], targets.shrink_mask == 0)
    figure.suptitle(title, fontsize=12)
    figure.legend(
        handles=[*legend, panels.HATCHED], loc="outside lower center", ncols=2, frameon=False
    )
    return figure


def _remains(polygon: _Array, height: int, width: int) -> bool:
    """Tell whether shrinking leaves something of a polygon.

    It is drawn alone, in a window that holds what the image does of it. Moving it there by whole
    pixels changes nothing, not even the rounding.
    """
    inside = polygon.clip(0, (width - 1, height - 1))
    corner = np.floor(inside.min(axis=0))
    across, down = np.ceil(inside.max(axis=0) - corner).astype(int).tolist()
    return bool(make_targets([inside - corner], [False], down + 1, across + 1).shrink_map.any())
