"""The maps, targets, losses and hard negatives of one image of a batch."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import paddle
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.base import checks
from dbloss.base.tensors import to_array, without_amp
from dbloss.batch import arguments
from dbloss.engine.formulas import AbsoluteError, BinaryCrossEntropy, Focal, PixelLoss, SquaredError
from dbloss.engine.operators import pixel_map
from dbloss.losses.balance import MINED_TYPES, PIXEL_LOSSES, hard_negative_weights
from dbloss.losses.db import DBLoss, MainLossType
from dbloss.plot import panels

_Array = NDArray[Any]

_NAMES = {"P": "probability P", "T": "threshold T", "B": "binary B"}
# Where the labels hold the target and the mask of a channel.
_PLACES = {"P": (3, 4), "T": (1, 2), "B": (3, 4)}

_PIXEL_LOSS_NAMES: dict[type, str] = {
    AbsoluteError: "absolute error",
    BinaryCrossEntropy: "cross-entropy",
    Focal: "focal loss",
    SquaredError: "squared error",
}

# Cross-entropy goes up to 100: on a scale of that length all smaller losses would look alike.
_GREATEST_LOSS = 5.0

# In inches.
_NOTE = 0.3  # for a line of text below a panel
_LINE = 0.22  # for a line of the title or the legend
_IN_A_ROW = 3  # entries of the legend where it is below all panels

_LETTERS = "ABCDEFGHIJKL"  # of the zooms
_ZOOMS = 3
_ZOOM_RATIO = 0.6  # height to width
_LEAST_ZOOMED = 128  # pixels: smaller maps are large enough as they are
_FEW = 300  # hard negatives; fewer are drawn as dots


class _Measured(NamedTuple):
    """What the loss makes of a batch and of one image of it."""

    parts: dict[str, float]  # of the batch
    pixel_name: str
    pixel: _Array  # `[H, W]`, the loss of each pixel of the image
    mines: bool
    weights: _Array  # `[H, W]`, of the image's hard negatives; 0 where the loss does not mine
    mined: float  # sum of the weights in the batch
    most: float  # the end of the scale of the loss of a pixel
    beyond: bool  # whether a pixel has more than that


def plot_batch(
    predicts: Mapping[str, Tensor],
    labels: Sequence[Any] | None,
    *,
    image: Any = None,
    index: int = 0,
    main_loss_type: MainLossType = "DiceLoss",
    ohem_ratio: float = 3,
    size: float = 12,
    zoom: Sequence[Sequence[int]] | None = None,
) -> panels.Picture:
    """Return a figure of one image of a batch: predictions, targets, losses, hard negatives.

    First, at full width, the image. Then P, T and B, the targets of P and T, and the loss of each
    pixel of P on a scale of its own. The target of B is that of P. Where the loss mines, its hard
    negatives are laid over P. Hatched pixels have no part in the loss of their map. Last, the
    places A, B, C where the loss of the pixels is largest, zoomed. All maps share the scale from 0
    to 1, and values beyond it have the colour of its ends. NaN and Inf have a colour of their own.

    The title has the weighted parts of `DBLoss(main_loss_type=..., ohem_ratio=...)` for the whole
    batch, as a training prints them. The hard negatives too are chosen from the whole batch, as
    the loss does it, and those of the image are drawn.

    The loss of each pixel is the cross-entropy for `"BCELoss"` and `"CrossEntropy"`, the squared
    error for `"Euclidean"`, the absolute error for `"MaskL1Loss"` and the focal loss for
    `"DiceFocalLoss"`, times the mask. The Dice losses have none: the cross-entropy is drawn, which
    is the second part of `"DiceBCELoss"` and what it mines by.

    Args:
        predicts: holds `"maps"`, float `[N, 3, H, W]`, or `[N, 1, H, W]` as a DB head returns it in
            evaluation mode: then there is neither T nor B, and the shrink-map loss alone.
        labels: as for `DBLoss`: `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`,
            each but the image `[N, H, W]`; float, bool or integer. None draws the predictions
            alone.
        image: what to draw beside the maps, of any size: `[h, w]`, `[h, w, C]` or `[C, h, w]`, one
            channel for grey, three for RGB; a fourth is left out. uint8 is drawn as it is, anything
            else from its least value to its greatest. None takes `labels[0][index]` where that is
            an image, and draws it in grey: PaddleOCR's loader reads BGR, others RGB.
        index: of the image in the batch, from 0.
        main_loss_type: as in `DBLoss`. `"BCELoss"`, `"CrossEntropy"`, `"Euclidean"`,
            `"OHEMDiceLoss"` and `"DiceBCELoss"` mine.
        ohem_ratio: as in `DBLoss`.
        size: width of the figure, in inches.
        zoom: places to show larger, each left, top, right and bottom in pixels of the maps. None
            shows the 3 whose loss is largest, `()` none.

    Returns:
        A `matplotlib.figure.Figure`. `figure.savefig("maps.png")` writes it; a notebook shows it.

    Raises:
        TypeError: an argument is not what is described here, or not a tensor of those dtypes.
        ValueError: a key, a label or a channel is missing, shapes differ, a map is empty, a label
            requires a gradient, or one of the other arguments is out of its range.
        RuntimeError: Paddle is in static graph mode, where there are no values to draw.

    Example:
        >>> import paddle
        >>> from dbloss.plot import plot_batch
        >>> maps = paddle.rand([2, 3, 32, 32])
        >>> ones = paddle.ones([2, 32, 32])
        >>> text = paddle.zeros([2, 32, 32])
        >>> text[:, 10:20, 4:28] = 1
        >>> figure = plot_batch({"maps": maps}, [None, 0.5 * ones, ones, text, ones], index=1)
        >>> print(figure.get_suptitle().splitlines()[0])
        image 1 of a batch of 2

    Source:
        The maps: Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, figure 3.
    """
    checks.eager("plot_batch")
    ohem_ratio = checks.number("ohem_ratio", ohem_ratio, least=0)
    loss_fn = DBLoss(main_loss_type=main_loss_type, ohem_ratio=ohem_ratio, check_batches=0)
    maps = arguments.maps(predicts, channels=1)
    if maps.shape[1] != 1:
        maps = arguments.maps(predicts)
    n, channels, height, width = maps.shape
    index = _checked_index(index, n)
    if labels is not None:
        arguments.labels(labels, maps)
    picture = _read_picture(image, labels, index)

    size = checks.number("size", size, least=8)
    places = [] if zoom is None else _checked_zoom(zoom, height, width)
    names = list(_NAMES)[:channels]
    own = [name for name in names if name != "B"]  # the target of B is that of P
    drawn = dict(zip(names, to_array(maps[index])))
    title = f"image {index} of a batch of {n}"
    masks: dict[str, _Array] = {}
    legend: list[Any] = []
    measured = shrunk = None
    if labels is not None:
        measured = _measure(loss_fn, maps, predicts, labels, index, main_loss_type, ohem_ratio)
        title += (
            f"\nof the whole batch: {_write_out(measured.parts)}"
            f'\nDBLoss(main_loss_type="{main_loss_type}", ohem_ratio={ohem_ratio:g})'
        )
        if zoom is None:
            places = _worst_places(measured.pixel)
        masks = {name: to_array(labels[_PLACES[name][1]][index]) for name in names}
        for name in own:
            drawn[f"target {name}"] = to_array(labels[_PLACES[name][0]][index])
            masks[f"target {name}"] = masks[name]
        masks |= dict.fromkeys(("loss", "mined", "image"), masks["P"])
        shrunk = drawn["target P"] > 0.5
        legend = _mined_legend(measured.weights)
        if picture is not None or measured.mines:
            legend.append(panels.OUTLINE)
        if any((mask == 0).any() for mask in masks.values()):
            legend.append(panels.HATCHED)
    if not all(np.isfinite(values).all() for values in drawn.values()):
        legend.append(panels.NOT_FINITE)

    def draw(ax: Axes, cell: str) -> None:
        """Draw what a cell shows, the whole of it."""
        if cell == "image" and picture is not None:
            panels.draw_image(ax, picture, "image", (height, width))
        elif cell == "loss" and measured is not None:
            _draw_pixel_loss(ax, measured)
        elif cell == "mined" and measured is not None:
            _draw_mined(ax, drawn["P"], measured)
        else:
            panels.draw_map(ax, drawn[cell], _NAMES.get(cell) or cell.replace(" ", " of "))
        if cell in masks:
            panels.hatch(ax, masks[cell] == 0)
        if cell in ("image", "mined") and shrunk is not None:
            panels.outline(ax, shrunk)

    beside = [] if picture is None else ["image"]
    targets = [f"target {name}" for name in own]
    below = {(targets if measured else names)[0]: panels.SCALE}
    if measured is None:
        rows, closer = [names], [*beside, *names]
    else:
        below |= {"loss": panels.SCALE, "mined": _NOTE}
        closer = [*beside, "P", "target P", "loss"]
        if measured.mines:
            # The target of B is that of P and is not drawn again: the legend takes its place.
            rows = [[*names, "mined"], [*targets, *["legend"] * (channels == 3), "loss"]]
            closer = [*closer, "mined"][:4]
        else:
            rows = [names, [*targets, "loss"]] if channels == 3 else [[*names, *targets, "loss"]]
    if beside:
        rows = [beside, *rows]
    letters = _LETTERS[: len(places)]
    rows += [[f"{letter} {cell}" for cell in closer] for letter in letters]
    content = _without_padding(picture, height, width)
    if content != (height, width):
        title += f"\nof its {height} x {width} pixels the padding is left out"
    above = 0.1 + _LINE * len(title.splitlines())
    inside = any("legend" in row for row in rows)
    under = 0 if inside or not legend else 0.1 + _LINE * -(-len(legend) // _IN_A_ROW)
    figure, axes = panels.grid(rows, content, size, len(places), _ZOOM_RATIO, below, above, under)
    figure.suptitle(title, fontsize=12, y=1 - 0.05 / figure.get_size_inches()[1])
    if inside:
        free = axes.pop("legend")
        free.set_axis_off()
        bounds = free.get_position().bounds
        figure.legend(handles=legend, loc="center", bbox_to_anchor=bounds, frameon=False)
    elif legend:
        figure.legend(handles=legend, loc="lower center", ncols=_IN_A_ROW, frameon=False)
    for cell, ax in axes.items():
        letter, _, name = cell.partition(" ") if cell[:2].endswith(" ") else ("", "", cell)
        draw(ax, name)
        if letter:
            place = places[_LETTERS.index(letter)]
            ax.set(xlim=(place[0] - 0.5, place[2] - 0.5), ylim=(place[3] - 0.5, place[1] - 0.5))
            ax.set_title(f"{letter}: {ax.get_title()}")
        elif name == (beside or ["P"])[0]:
            for letter, place in zip(letters, places):
                panels.frame(ax, place, letter)
    if measured is not None:
        panels.scale_below(axes["loss"], "max" if measured.beyond else "neither")
        if measured.mines:
            axes["mined"].set_xlabel(_mined_note(measured))
    panels.scale_below(axes[(targets if measured else names)[0]])
    return figure


def _measure(
    loss_fn: DBLoss,
    maps: Tensor,
    predicts: Mapping[str, Tensor],
    labels: Sequence[Any],
    index: int,
    main_loss_type: str,
    ohem_ratio: float,
) -> _Measured:
    probability, (g, m, *weights_of_pixels) = maps[:, 0].detach(), labels[3:]
    with paddle.no_grad(), without_amp():
        if maps.shape[1] == 1:
            parts: Mapping[str, Any] = {
                "loss_shrink_maps": loss_fn.alpha
                * loss_fn.bce_loss(probability, g, m, *weights_of_pixels)
            }
        else:
            parts = loss_fn(predicts, labels)
        pixel_loss = _pixel_loss(loss_fn, main_loss_type)
        pixel = pixel_map(probability, g, pixel_loss)
        weights = paddle.zeros_like(pixel)
        mines = main_loss_type in MINED_TYPES
        if mines:
            hardness = probability if main_loss_type == "OHEMDiceLoss" else pixel
            weights = hard_negative_weights(hardness, g, m, ohem_ratio)
    loss = to_array(pixel[index]) * to_array(m[index])
    greatest = float(loss[np.isfinite(loss)].max(initial=0)) or 1.0
    return _Measured(
        parts={name: float(part) for name, part in parts.items()},
        pixel_name=_PIXEL_LOSS_NAMES.get(type(pixel_loss), type(pixel_loss).__name__),
        pixel=loss,
        mines=mines,
        weights=to_array(weights[index]),
        mined=float(weights.sum()),
        most=min(greatest, _GREATEST_LOSS),
        beyond=greatest > _GREATEST_LOSS,
    )


def _pixel_loss(loss_fn: DBLoss, main_loss_type: str) -> PixelLoss:
    if main_loss_type in PIXEL_LOSSES:
        return PIXEL_LOSSES[main_loss_type]
    if main_loss_type == "MaskL1Loss":
        return AbsoluteError()
    if main_loss_type == "DiceFocalLoss":
        layer = loss_fn.bce_loss
        return Focal.of(layer.focal_alpha, layer.focal_gamma, layer.eps)
    return BinaryCrossEntropy()


def _write_out(parts: dict[str, float]) -> str:
    total, *others = (f"{panels.shorten(name)} {part:.4g}" for name, part in parts.items())
    if not others:
        return f"{total}; no T and B, as in evaluation mode"
    return f"{total} = {' + '.join(others)}"


def _draw_pixel_loss(ax: Axes, measured: _Measured) -> None:
    panels.draw_map(ax, measured.pixel, f"{measured.pixel_name} of P", "magma", measured.most)


def _draw_mined(ax: Axes, probability: _Array, measured: _Measured) -> None:
    panels.draw_map(ax, probability, "hard negatives over P", "gray")
    weights = measured.weights
    shared = (weights > 0) & (weights < 1)
    for where, colour in ((weights == 1, panels.VERMILLION), (shared, panels.SKY)):
        panels.lay_over(ax, where, colour)
        if where.sum() < _FEW:  # single pixels of a large map are too small to be seen
            ax.plot(*np.nonzero(where)[::-1], ".", color=colour, markersize=4)


def _mined_note(measured: _Measured) -> str:
    if not measured.mined:
        return "none in the batch"
    return f"{measured.weights.sum():,.0f} here, {measured.mined:,.0f} in the batch"


def _mined_legend(weights: _Array) -> list[Any]:
    legend = []
    if (weights == 1).any():
        legend.append(Patch(color=panels.VERMILLION, label="hard negative"))
    if ((weights > 0) & (weights < 1)).any():
        legend.append(Patch(color=panels.SKY, label="hard negatives that share places"))
    return legend


def _worst_places(loss: _Array) -> list[tuple[int, int, int, int]]:
    """Return the windows of a map with the most loss in them."""
    height, width = loss.shape
    if min(height, width) < _LEAST_ZOOMED:
        return []
    across = width // 5
    down = min(round(across * _ZOOM_RATIO), height)
    left = np.nan_to_num(loss, nan=0, posinf=0, neginf=0).astype(np.float64)
    left = (left - np.median(left)).clip(0)  # what all pixels have
    most = 0.0
    places: list[tuple[int, int, int, int]] = []
    for _ in range(_ZOOMS):
        sums = np.pad(left, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        inside = (
            sums[down:, across:]
            - sums[:-down, across:]
            - sums[down:, :-across]
            + sums[:-down, :-across]
        )
        y, x = (int(at) for at in np.unravel_index(inside.argmax(), inside.shape))
        most = max(most, inside[y, x])
        if inside[y, x] <= 0.05 * most:
            break
        # The loss may be at the edge of this window: move the window so that it is in the middle.
        found = left[y : y + down, x : x + across].clip(0)
        rows, columns = found.sum(axis=1), found.sum(axis=0)
        y += round(np.average(np.arange(down), weights=rows) - down / 2)
        x += round(np.average(np.arange(across), weights=columns) - across / 2)
        y, x = min(max(y, 0), height - down), min(max(x, 0), width - across)
        places.append((x, y, x + across, y + down))
        left[y : y + down, x : x + across] = -left.size * _GREATEST_LOSS
    return places


def _checked_zoom(zoom: Any, height: int, width: int) -> list[tuple[int, int, int, int]]:
    places = []
    for place in zoom:
        fits = np.shape(place) == (4,)
        left, top, right, bottom = place if fits else (0, 0, 0, 0)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"zoom: expected places (left, top, right, bottom) in maps {width} pixels wide and"
                f" {height} high, got {place!r}. Pass a list of such places."
            )
        places.append((int(left), int(top), int(right), int(bottom)))
    if len(places) > len(_LETTERS):
        raise ValueError(
            f"zoom: expected at most {len(_LETTERS)} places, got {len(places)}. Pass fewer."
        )
    return places


def _without_padding(picture: _Array | None, height: int, width: int) -> tuple[int, int]:
    """Return height and width of what is not padding on the right or below, of one colour."""
    if picture is None or picture.shape[:2] != (height, width):
        return height, width
    other = (picture != picture[-1, -1]).any(axis=2)
    if not other.any():
        return height, width
    rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
    return int(rows[-1]) + 1, int(columns[-1]) + 1


def _checked_index(index: Any, count: int) -> int:
    """Return `index` if it is that of one of `count` images, raise otherwise."""
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(
            f"index: expected a whole number, got {checks.describe(index)}. Pass an int."
        )
    place = int(index)
    if not 0 <= place < count:
        raise ValueError(
            f"index: expected 0 to {count - 1}, for there are {count} images in the batch,"
            f" got {index}. Count from 0."
        )
    return place


def _read_picture(image: Any, labels: Sequence[Any] | None, index: int) -> _Array | None:
    """Return what matplotlib draws, `[h, w, 3]`, or None where there is no image."""
    grey = image is None
    if image is None:
        batch = None if labels is None else labels[0]
        shape = list(getattr(batch, "shape", ()))
        if batch is None or len(shape) != 4 or shape[1] not in (1, 3):
            return None
        image = batch[index]
    array = panels.to_picture(to_array(image) if paddle.is_tensor(image) else image)
    if grey:
        array = np.repeat(array.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    return array
