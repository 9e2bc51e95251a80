"""What the pictures share: their colours, their grid, and what is drawn into a panel."""

from collections.abc import Sequence
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
VIRIDIS = "#21918C"  # the middle of the scale of maps

# In inches.
SCALE = 0.5  # for a scale and its numbers below a panel
_EDGE, _GAP = 0.2, 0.25  # beside the panels, and between them
_TITLE = 0.28  # for the title of a panel, above it

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
    rows: list[list[str]],
    shape: tuple[int, int],
    size: float,
    zooms: int,
    zoom_ratio: float,
    below: dict[str, float],
    above: float,
    under: float,
) -> tuple[Picture, dict[str, Axes]]:
    """Return a figure with a panel in each cell, `size` inches wide.

    Each panel shows maps of `shape` (H, W), and the last `zooms` rows have panels of `zoom_ratio`.
    A row of one cell has the full width. There is room, in inches, `below` the panels of a row for
    what a cell needs, and `above` and `under` all rows.
    """
    height, width = shape
    # Very long maps are squeezed.
    ratio = min(max(height / width, 0.25), 1.8)
    places: dict[str, tuple[float, float, float, float]] = {}
    y = above
    for i, row in enumerate(rows):
        part = zoom_ratio if i >= len(rows) - zooms else ratio
        column = (size - 2 * _EDGE + _GAP) / len(row)
        # An image as high as it is wide does not fill the width.
        across = min(column - _GAP, 0.8 * size / part)
        y += _TITLE
        for j, cell in enumerate(row):
            x = _EDGE + j * column + (column - _GAP - across) / 2
            places[cell] = x, y, across, across * part
        y += across * part + max(below.get(cell, 0) for cell in row) + _GAP / 2
    down = y + under
    figure = Picture(figsize=(size, down))
    axes = {}
    for cell, (x, y, across, high) in places.items():
        axes[cell] = figure.add_axes((x / size, 1 - (y + high) / down, across / size, high / down))
        axes[cell].set(xticks=[], yticks=[])
        axes[cell].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure, axes


def draw_map(
    ax: Axes, values: NDArray[Any], title: str, cmap: str = "viridis", most: float = 1
) -> AxesImage:
    """Draw `[H, W]` on the scale from 0 to `most`; what is not finite is marked."""
    ax.set_title(title)
    finite = np.isfinite(values)
    limits = ax.get_xlim(), ax.get_ylim()
    drawn = ax.imshow(
        np.ma.array(values, mask=~finite),
        cmap=colormaps[cmap].with_extremes(bad=PURPLE),
        vmin=0,
        vmax=most,
        aspect="auto",
    )
    # A single pixel of a large map is too small to be seen, and a marker is not.
    ax.plot(*np.nonzero(~finite)[::-1], "s", color=PURPLE, markersize=3)
    ax.set(xlim=limits[0], ylim=limits[1])
    return drawn


def scale_below(ax: Axes, extend: str = "neither") -> None:
    """Put the scale of a map below it, `SCALE` inches high with its numbers."""
    inch = 1 / (ax.get_position().height * cast(Figure, ax.figure).get_size_inches()[1])
    below = ax.inset_axes((0, -0.25 * inch, 1, 0.15 * inch))
    drawn = ax.get_images()[0]
    ax.figure.colorbar(drawn, cax=below, orientation="horizontal", extend=extend)


def draw_image(ax: Axes, image: NDArray[Any], title: str, shape: tuple[int, int]) -> None:
    """Draw an image of any size, uint8 `[h, w, 3]`, over maps of `shape` (H, W)."""
    ax.set_title(title)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(image, extent=extent(shape), aspect="auto")
    ax.set(xlim=limits[0], ylim=limits[1])


def frame(ax: Axes, place: Window, letter: str) -> None:
    """Draw the border of a window, with its letter."""
    left, top, right, bottom = (at - 0.5 for at in place)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    draw_outline(ax, corners, YELLOW, "-", 1.2)
    write(ax, (left, top), f" {letter}", ha="left", va="top", color=YELLOW, fontsize=12)


def lay_over(
    ax: Axes, where: NDArray[np.bool_], colour: str, alpha: float = 1, scale: float = 1
) -> None:
    """Give the pixels `[H, W]` that are True a colour; a pixel is `1 / scale` wide."""
    layer = np.zeros((*where.shape, 4), np.float32)
    layer[..., :3] = to_rgb(colour)
    layer[where, 3] = alpha
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(layer, extent=extent(where.shape, scale), aspect="auto", interpolation="nearest")
    ax.set(xlim=limits[0], ylim=limits[1])


def extent(shape: tuple[int, ...], scale: float = 1) -> tuple[float, float, float, float]:
    """Return where maps of `shape` are drawn: the middle of pixel i is at `i / scale`."""
    height, width = shape[:2]
    return (-0.5 / scale, (width - 0.5) / scale, (height - 0.5) / scale, -0.5 / scale)


def hatch(ax: Axes, where: NDArray[np.bool_], scale: float = 1, colour: str = "0.9") -> None:
    """Hatch the pixels `[H, W]` that are True; a pixel is `1 / scale` wide."""
    if where.any():
        veil = (0.4, 0.4, 0.4, 0.4)
        x, y, values = _around(where, "edge")
        filled = ax.contourf(
            x / scale, y / scale, values, [0.5, 2], colors=[veil], hatches=["////"]
        )
        filled.set(edgecolor=colour, linewidth=0)


def outline(ax: Axes, where: NDArray[np.bool_]) -> None:
    """Draw a line around the pixels `[H, W]` that are True."""
    if where.any():
        lines = ax.contour(*_around(where, "constant"), [0.5], colors=[GREEN], linewidths=1.2)
        lines.set(path_effects=dark(1.2))


def _around(where: NDArray[np.bool_], mode: Any) -> tuple[NDArray[Any], ...]:
    """Return x, y and values with one pixel more on each side.

    A contour runs through the middles of pixels: with these it goes around those at the border.
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
    """Show a window of an image, uint8 `[h, w, 3]`; what is beyond its border is grey."""
    height, width = image.shape[:2]
    left, top, right, bottom = place
    x0, y0 = (int(np.clip(np.floor(at), 0, most)) for at, most in ((left, width), (top, height)))
    x1, y1 = (int(np.clip(np.ceil(at), 0, most)) for at, most in ((right, width), (bottom, height)))
    if x1 > x0 and y1 > y0:
        extent = (x0 - 0.5, x1 - 0.5, y1 - 0.5, y0 - 0.5)  # the middle of a pixel is a whole number
        ax.imshow(image[y0:y1, x0:x1], extent=extent, aspect="auto")
    ax.set(xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top), facecolor="0.6")
    ax.set(box_aspect=ratio)


def dark(width: float) -> list[Any]:
    """Return what draws a dark line behind a light one of `width`: it shows on any ground."""
    return [withStroke(linewidth=width + 1.6, foreground="black")]


def can_be_drawn(points: NDArray[Any]) -> bool:
    """Tell whether an outline has points, each with a place."""
    return len(points) > 0 and bool(np.isfinite(points).all())


def draw_outline(ax: Axes, points: NDArray[Any], colour: str, line: str, width: float) -> None:
    """Draw an outline: a light line on a wider dark one."""
    x, y = points.T
    style: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": width}
    ax.fill(x, y, fill=False, **style, path_effects=dark(width), clip_on=True)


def write(ax: Axes, place: Any, text: str, **options: Any) -> None:
    """Write at a place (x, y), in letters that show on any ground, if it is in the panel."""
    style: dict[str, Any] = {"color": "white", "fontsize": 9, "ha": "center", "va": "center"}
    x, y = place
    style |= options
    ax.text(x, y, text, path_effects=dark(0.6), clip_on=True, **style)


def number_outlines(
    ax: Axes, polygons: Sequence[NDArray[Any]], first: Sequence[int | None], size: float
) -> None:
    """Write the number of each outline above its upper left corner, where there is room.

    `first` are those that come before the others, from 1; the panel is `size` inches wide.
    """
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    inch = (right - left) / size
    taken: list[Window] = []
    numbers = [n for n in first if n is not None]
    for number in dict.fromkeys([*numbers, *range(1, len(polygons) + 1)]):
        points = polygons[number - 1]
        if not can_be_drawn(points):
            continue
        (x, y), across = points[points.sum(axis=1).argmin()], 0.09 * len(str(number)) * inch
        y = max(y - 0.09 * inch, top + 0.09 * inch)
        x = min(max(x + across / 2, left + across / 2), right - across / 2)
        box = (x - across / 2, y - 0.08 * inch, x + across / 2, y + 0.08 * inch)
        inside = top < y < bottom and points[:, 0].max() > left and points[:, 0].min() < right
        apart = all(
            box[2] < other[0] or other[2] < box[0] or box[3] < other[1] or other[3] < box[1]
            for other in taken
        )
        if inside and points[:, 1].max() > top and apart:
            write(ax, (x, y), str(number))
            taken.append(box)


def to_picture(image: Any) -> NDArray[np.uint8]:
    """Return what matplotlib draws of an image of any form, uint8 `[h, w, 3]`."""
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    _check_picture(array.shape)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        finite = array[np.isfinite(array)]
        least, most = finite.min(initial=np.inf), finite.max(initial=-np.inf)
        array = 255 * np.nan_to_num((array - least) / (most - least or 1)).clip(0, 1)
    array = np.atleast_3d(array)[..., :3]
    return np.broadcast_to(array, (*array.shape[:2], 3)).astype(np.uint8)


def _check_picture(shape: Sequence[int]) -> None:
    """Check that `shape` is that of an image whose channels, if it has any, come last."""
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ValueError(
            "image: expected the shape [h, w], [h, w, C] or [C, h, w] with 1, 3 or 4 channels,"
            f" got {list(shape)}. Of a batch pass one image."
        )
