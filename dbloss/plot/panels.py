"""What the pictures share: their colours, their grid, and what is drawn into a panel."""

from io import BytesIO
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

# Okabe and Ito's colours, which the colour-blind tell apart.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
YELLOW = "#F0E442"

Window = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

HATCHED = Patch(facecolor="0.35", edgecolor="0.9", hatch="////", label="not in the loss: mask 0")
OUTLINE = Line2D([], [], color=GREEN, linewidth=2, label="outline of the shrunk text")
NOT_FINITE = Patch(color=PURPLE, label="NaN or Inf")


class Picture(Figure):
    """A figure that a notebook shows as the last line of a cell, with or without `%matplotlib`."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=100)
        return content.getvalue()


def shorten(name: str) -> str:
    """Turn "loss_shrink_maps" into "shrink maps"."""
    return name.removeprefix("loss_").replace("_", " ")


def grid(
    cells: list[list[str]], shape: tuple[int, ...], heading: float
) -> tuple[Picture, dict[str, Axes]]:
    """Return a figure with a panel for maps of `shape` (H, W) in each cell but `"."`.

    `heading` are the inches for title and legend.
    """
    height, width = shape
    # A panel of 3 inches holds its title. Very long maps are squeezed.
    ratio = min(max(height / width, 0.25), 2)
    size = 3.1 * len(cells[0]) + 1, (3.1 * ratio + 0.5) * len(cells) + heading
    figure = Picture(figsize=size, layout="compressed")
    axes: dict[str, Axes] = figure.subplot_mosaic(cells)  # type: ignore[arg-type]
    for ax in axes.values():
        ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        ax.set(box_aspect=ratio, anchor="N")
    return figure, axes


def draw_map(
    ax: Axes, values: NDArray[Any], title: str, cmap: str = "viridis", most: float = 1
) -> AxesImage:
    """Draw `[H, W]` on the scale from 0 to `most`; what is not finite is marked."""
    ax.set_title(title)
    finite = np.isfinite(values)
    drawn = ax.imshow(
        np.ma.array(values, mask=~finite),
        cmap=colormaps[cmap].with_extremes(bad=PURPLE),
        vmin=0,
        vmax=most,
        aspect="auto",
    )
    # One pixel of a large map would be lost: a marker has a size of its own.
    ax.plot(*np.nonzero(~finite)[::-1], "s", color=PURPLE, markersize=3)
    return drawn


def scale_below(ax: Axes, drawn: AxesImage, extend: str = "neither") -> None:
    """Put the scale of a map below it, without moving the panel out of its row."""
    inch = 1 / (3.1 * cast(float, ax.get_box_aspect()))
    below = ax.inset_axes((0, -0.3 * inch, 1, 0.15 * inch))
    ax.figure.colorbar(drawn, cax=below, orientation="horizontal", extend=extend)


def draw_image(ax: Axes, image: NDArray[Any], title: str) -> None:
    """Draw an image of any size, uint8 `[h, w, 3]`, over the whole panel."""
    ax.set_title(title)
    ax.imshow(image, extent=(*ax.get_xlim(), *ax.get_ylim()), aspect="auto")


def lay_over(ax: Axes, where: NDArray[np.bool_], colour: str, alpha: float = 1) -> None:
    """Give the pixels `[H, W]` that are True a colour."""
    layer = np.zeros((*where.shape, 4), np.float32)
    layer[..., :3] = to_rgb(colour)
    layer[where, 3] = alpha
    ax.imshow(layer, aspect="auto")


def hatch(ax: Axes, where: NDArray[np.bool_]) -> None:
    """Hatch the pixels `[H, W]` that are True."""
    if where.any():
        veil = (0.4, 0.4, 0.4, 0.4)
        filled = ax.contourf(*_around(where, "edge"), [0.5, 2], colors=[veil], hatches=["////"])
        filled.set(edgecolor="0.9", linewidth=0)


def outline(ax: Axes, where: NDArray[np.bool_]) -> None:
    """Draw a line around the pixels `[H, W]` that are True."""
    if where.any():
        ax.contour(*_around(where, "constant"), [0.5], colors=[GREEN], linewidths=1.5)


def _around(where: NDArray[np.bool_], mode: Any) -> tuple[NDArray[Any], ...]:
    """Return x, y and values with one pixel more on each side.

    A contour runs through the middles of the pixels, and those of the border count too.
    """
    y, x = (np.arange(-1, length + 1) for length in where.shape)
    return x, y, np.pad(where, 1, mode=mode).astype(np.float32)


def window(points: NDArray[Any], ratio: float, least: float, margin: float) -> Window:
    """Return a window around points (x, y), of a height to width of `ratio`.

    It is `margin` times as wide or high as they are, and not narrower than `least`.
    """
    low, high = points.min(axis=0).astype(float), points.max(axis=0).astype(float)
    across, down = (high - low) * margin
    width = max(across, down / ratio, least)
    (x, y), half = (low + high) / 2, np.array((width, width * ratio)) / 2
    return (x - half[0], y - half[1], x + half[0], y + half[1])


def draw_window(ax: Axes, image: NDArray[Any], place: Window, ratio: float) -> None:
    """Show a window of an image, uint8 `[h, w, 3]`; what is beyond its border is grey.

    The corner of a pixel is at whole numbers, as in label files: an image is as wide as it is long.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = place
    x0, y0 = (int(np.clip(np.floor(at), 0, most)) for at, most in ((left, width), (top, height)))
    x1, y1 = (int(np.clip(np.ceil(at), 0, most)) for at, most in ((right, width), (bottom, height)))
    if x1 > x0 and y1 > y0:
        ax.imshow(image[y0:y1, x0:x1], extent=(x0, x1, y1, y0), aspect="auto")
    ax.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top), facecolor="0.6")
    ax.set(box_aspect=ratio)


def draw_outline(ax: Axes, points: NDArray[Any], colour: str, line: str, width: float) -> None:
    """Draw an outline that shows on any ground: a light line on a wider dark one."""
    dark = [withStroke(linewidth=width + 1.6, foreground="black")]
    x, y = points.T
    ax.fill(x, y, fill=False, color=colour, linestyle=line, linewidth=width, path_effects=dark)


def write(ax: Axes, place: Any, text: str, **options: Any) -> None:
    """Write at a place (x, y), in letters that show on any ground, if it is in the panel."""
    dark = [withStroke(linewidth=2, foreground="black")]
    style = {"color": "white", "fontsize": 9, "ha": "center", "va": "center"} | options
    ax.text(*place, text, path_effects=dark, clip_on=True, **style)
