"""What test_plot_*.py read from a figure: panels, what is drawn in them, and whether it reads."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.path import Path
from matplotlib.text import Text


def axes_of(figure, loc="center"):
    """The panels by title."""
    return {ax.get_title(loc=loc): ax for ax in figure.axes if ax.get_title(loc=loc)}


def shown(ax, layer=0):
    """What a layer of a panel shows: values that were drawn, NaN where they are masked."""
    values = ax.get_images()[layer].get_array()
    return np.ma.filled(np.ma.asarray(values, np.float64), np.nan)


def marked(ax, colour):
    """The pixels `[H, W]` that a colour was laid over."""
    layers = [shown(ax, i) for i in range(1, len(ax.get_images()))]
    chosen = [a for a in layers if np.allclose(a[0, 0, :3], to_rgb(colour))]
    assert len(chosen) == 1
    return chosen[0][..., 3] > 0


def hatched(ax):
    """The pixels `[H, W]` whose middle is hatched."""
    return surrounded(ax, filled=True, points=middles(ax))


def middles(ax):
    """The middle of each pixel, (x, y), `[H, W, 2]`."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    y, x = np.mgrid[: int(bottom - top), : int(right - left)]
    return np.stack((x, y), axis=2)


def surrounded(ax, filled, points):
    """Which points `[..., 2]` lie inside the contours of a panel, filled ones or lines."""
    sets = [a for a in ax.collections if isinstance(a, ContourSet) and a.filled == filled]
    inside = np.zeros(points[..., 0].size, bool)
    for contours in sets:
        for path in contours.get_paths():
            for ring in path.to_polygons():  # an area, or a hole in one
                inside ^= Path(ring).contains_points(points.reshape(-1, 2))
    return inside.reshape(points.shape[:-1])


def legend(figure):
    return [text.get_text() for group in figure.legends for text in group.get_texts()]


def assert_readable(figure):
    """Each text is inside the figure, of 9 points or more, and none lies on another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    beyond = [
        text
        for ax in figure.findobj(Axes)  # those below a panel too
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
        for text in tick.findobj(Text)
    ]
    boxes = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in beyond:
            assert text.get_fontsize() >= 9, text.get_text()
            boxes.append((text.get_text(), text.get_window_extent(canvas.get_renderer())))
    width, height = figure.get_size_inches() * figure.dpi
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= width + 1, name
        assert box.y0 >= -1 and box.y1 <= height + 1, name
        for other_name, other in boxes[:i]:
            apart = (
                box.x1 <= other.x0 + 0.5
                or other.x1 <= box.x0 + 0.5
                or box.y1 <= other.y0 + 0.5
                or other.y1 <= box.y0 + 0.5
            )
            assert apart, (name, other_name)
