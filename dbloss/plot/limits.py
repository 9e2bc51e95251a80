"""The score of a set of images over the limits (thresholds) of pixels and boxes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dbloss.base import checks
from dbloss.plot import panels

if TYPE_CHECKING:
    from dbloss.score import Limit, Limits  # needs shapely, and a picture does not

_SHADES = colormaps["viridis"]
_CELL = 0.5, 0.36  # inches; it holds a number of 9 points
_MOST = 20  # cells along a side that have a number


def plot_limits(limits: "Limits", chosen: tuple[float, float] | None = None) -> Figure:
    """Return a figure of precision over recall, and of the hmean of every pair of limits.

    On the left each line is a `thresh`, its points are the values of `box_thresh`, and a star marks
    the pair that is chosen. Behind them run the lines of equal hmean. On the right is a table of
    the hmean, the chosen pair in a frame. Pairs with less than half of the best hmean are in the
    table alone. Where the best pair lies at the edge of the table, so that a better one may lie
    beyond it, that edge is marked. Where every hmean is 0, no pair is.

    Args:
        limits: what `search_limits` returns.
        chosen: the pair (`thresh`, `box_thresh`) to mark, one of the table; None for the best.

    Returns:
        A `matplotlib.figure.Figure`. `figure.savefig("limits.png")` writes it.

    Raises:
        TypeError: `limits` is not what `search_limits` returns.
        ValueError: `chosen` is no pair of the table.

    Example:
        >>> import numpy as np
        >>> from dbloss.plot import plot_limits
        >>> from dbloss.score import Limits
        >>> recall = np.array([[0.9, 0.7], [0.8, 0.5]])
        >>> precision = 1.1 - recall / 2
        >>> hmean = 2 * precision * recall / (precision + recall)
        >>> pairs = np.array([0.3, 0.4]), np.array([0.5, 0.6])
        >>> figure = plot_limits(Limits(*pairs, precision, recall, hmean))
        >>> [text.get_text() for text in figure.legends[0].get_texts()][-2]
        'best: thresh 0.3, box_thresh 0.5, hmean 0.755'

    Source:
        van Rijsbergen, "Information Retrieval", 1979, for the lines of equal hmean.
    """
    names = ("thresh", "box_thresh", "precision", "recall", "hmean")
    if not all(hasattr(limits, name) for name in names):
        raise TypeError(
            f"limits: expected what search_limits returns, got {checks.describe(limits)}."
            " Pass that."
        )
    mark = limits.best if chosen is None else _find(limits, chosen)
    rows, columns = limits.hmean.shape
    shown = [min(count, _MOST) for count in (rows, columns)]
    table = [side * inches for side, inches in zip(shown[::-1], _CELL)]
    figure = Figure(
        figsize=(max(table[0] + 6.9, 9), max(table[1] + 2.2, 4.8)), layout="constrained"
    )
    curves, cells = figure.subplots(1, 2, width_ratios=(4.5, max(table[0], 2.5) + 0.7))
    _draw_curves(curves, limits)
    _draw_table(cells, limits)
    if chosen is None:
        _mark_edges(cells, limits)
    if mark:
        word = "best" if chosen is None else "chosen"
        _mark(curves, cells, limits, mark, word)
    else:
        curves.plot([], [], " ", label="best: none, every hmean is 0")
    figure.legend(ncols=3, loc="outside upper center", frameon=False, fontsize=11)
    return figure


def _find(limits: "Limits", chosen: Any) -> "Limit":
    """Return the cell of a pair of limits."""
    if len(np.shape(chosen)) != 1 or len(chosen) != 2:
        raise ValueError(
            f"chosen: expected a pair (thresh, box_thresh), got {chosen!r}. Pass two of the limits"
            " in the table, as chosen=(0.3, 0.6)."
        )
    try:
        return limits.at(*map(float, chosen))
    except ValueError as error:
        raise ValueError(f"chosen: {error}") from None


def _draw_curves(ax: Axes, limits: "Limits") -> None:
    """Draw precision over recall, a line for each thresh."""
    shades = _SHADES(np.linspace(0, 0.85, len(limits.thresh)))
    near = limits.hmean >= 0.5 * limits.hmean.max()
    recall, precision = (
        np.where(near, table, np.nan) for table in (limits.recall, limits.precision)
    )
    for limit, x, y, shade, shown in zip(limits.thresh, recall, precision, shades, near):
        if shown.any():
            ax.plot(x, y, ".-", color=shade, label=f"thresh {limit:g}")
    ax.set(xlabel="recall", ylabel="precision", xlim=_range(recall), ylim=_range(precision))
    ax.set_title("precision over recall")
    sides = (np.linspace(*ends, 200).clip(1e-6) for ends in (ax.get_xlim(), ax.get_ylim()))
    recall, precision = np.meshgrid(*sides)
    hmean = 2 * precision * recall / (precision + recall)
    lines = ax.contour(recall, precision, hmean, 8, colors="0.8", linewidths=0.8, zorder=0)
    ax.clabel(lines, fontsize=9, colors="0.5")
    ax.plot([], [], color="0.8", linewidth=0.8, label="equal hmean")


def _range(rates: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of an axis: those of the data with a margin, at least 0.1 apart."""
    low, high = float(np.nanmin(rates)), float(np.nanmax(rates))
    margin = max(0.05 * (high - low), 0.05 - (high - low) / 2)
    return low - margin, high + margin


def _draw_table(ax: Axes, limits: "Limits") -> None:
    """Draw the hmean of every pair."""
    rows, columns = limits.hmean.shape
    image = ax.imshow(limits.hmean, cmap=_SHADES, aspect="auto", origin="lower")
    ax.set_title("hmean")
    ax.set(xlabel="box_thresh", ylabel="thresh")
    for axis, values in ((ax.xaxis, limits.box_thresh), (ax.yaxis, limits.thresh)):
        step = -(-len(values) // _MOST)
        axis.set_ticks(np.arange(len(values))[::step], [f"{x:g}" for x in values[::step]])
    low, high = limits.hmean.min(), limits.hmean.max()
    if high > low:  # else there is a single colour
        ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=30)
    if max(rows, columns) <= _MOST:
        for (i, j), hmean in np.ndenumerate(limits.hmean):
            bright = hmean > low + 0.6 * (high - low)
            ax.text(
                j,
                i,
                f"{hmean:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color="black" if bright else "white",
            )


def _mark(curves: Axes, cells: Axes, limits: "Limits", mark: "Limit", word: str) -> None:
    """Draw a star at a pair among the curves, and a frame around it in the table."""
    curves.plot(
        mark.recall,
        mark.precision,
        "*",
        color=panels.VERMILLION,
        markersize=16,
        markeredgecolor="white",
        zorder=4,
        label=f"{word}: thresh {mark.thresh:g}, box_thresh {mark.box_thresh:g},"
        f" hmean {mark.hmean:.3f}",
    )
    x = float(np.flatnonzero(limits.box_thresh == mark.box_thresh)[0])
    y = float(np.flatnonzero(limits.thresh == mark.thresh)[0])
    frame = Rectangle(
        (x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=panels.VERMILLION, linewidth=2.5
    )
    cells.add_patch(frame)


def _mark_edges(ax: Axes, limits: "Limits") -> None:
    """Draw a line along each edge of the table at which the best pair lies."""
    label: str | None = "the best pair is at this edge"
    for name, end in limits.edges.items():
        values = limits.thresh if name == "thresh" else limits.box_thresh
        draw = ax.axhline if name == "thresh" else ax.axvline
        at = -0.5 if end == "lowest" else len(values) - 0.5
        draw(
            at,
            color=panels.VERMILLION,
            linewidth=5,
            linestyle=(0, (2, 1)),
            clip_on=False,
            label=label,
        )
        label = None  # once in the legend
