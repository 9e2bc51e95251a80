"""The maps, targets, losses and hard negatives of one image of a batch."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import paddle
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from paddle import Tensor

from dbloss import checks
from dbloss._tensors import without_amp
from dbloss.balance import MINED_TYPES, PIXEL_LOSSES, hard_negative_weights
from dbloss.db import DBLoss
from dbloss.engine.operators import pixel_map
from dbloss.formulas import AbsoluteError, BinaryCrossEntropy, Focal, PixelLoss, SquaredError
from dbloss.plot import panels
from dbloss.validate import to_array

_Array = NDArray[Any]

_NAMES = {"P": "probability P", "T": "threshold T", "B": "binary B"}
# Of each channel the places of its target and its mask among the labels.
_PLACES = {"P": (3, 4), "T": (1, 2), "B": (3, 4)}

_PIXEL_LOSS_NAMES: dict[type, str] = {
    AbsoluteError: "absolute error",
    BinaryCrossEntropy: "cross-entropy",
    Focal: "focal loss",
    SquaredError: "squared error",
}

# Cross-entropy reaches 100; with 5 for the end of its scale smaller losses can be told apart.
_GREATEST_LOSS = 5.0


class _Measured(NamedTuple):
    """What the loss makes of a batch and of one image of it."""

    parts: dict[str, float]  # of the batch
    pixel_name: str
    pixel: _Array  # `[H, W]`, the loss of each pixel of the image
    weights: _Array  # `[H, W]`, of the image's hard negatives
    mined: float  # sum of the weights in the batch


def plot_batch(
    predicts: Mapping[str, Tensor],
    labels: Sequence[Any] | None,
    *,
    image: Any = None,
    index: int = 0,
    main_loss_type: str | None = None,
    ohem_ratio: float = 3,
) -> Figure:
    """Return a figure of one image of a batch: predictions, targets, losses, hard negatives.

    First row: P, T and B. Second row: their targets. Hatched pixels have no part in the loss of
    their map. Third row: the loss of each pixel of P, on a scale of its own; the hard negatives
    laid over P; the image. All maps share the scale from 0 to 1, and values beyond it have the
    colour of its ends. NaN and Inf have a colour of their own.

    The title has the weighted parts of `DBLoss(main_loss_type=..., ohem_ratio=...)` for the whole
    batch, as a training prints them. The hard negatives too are chosen from the whole batch, as
    the loss does it, and those of the image are drawn.

    The loss of each pixel is the cross-entropy for `"BCELoss"` and `"CrossEntropy"`, the squared
    error for `"Euclidean"`, the absolute error for `"MaskL1Loss"` and the focal loss for
    `"DiceFocalLoss"`, times the mask. The Dice losses have none: the cross-entropy is drawn.
    `"DiceLoss"`, `"MaskL1Loss"` and `"DiceFocalLoss"` mine nothing, and the figure says so.

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
        main_loss_type: as in `DBLoss`. None stands for its default, `"DiceLoss"`, and draws the
            hard negatives that `"BCELoss"` would mine.
        ohem_ratio: as in `DBLoss`.

    Returns:
        A `matplotlib.figure.Figure`. `figure.savefig("maps.png")` writes it; a notebook shows it.

    Raises:
        TypeError: an argument is not what is described here, or not a tensor of those dtypes.
        ValueError: a key, a label or a channel is missing, shapes differ, a map is empty, a label
            requires a gradient, or `index`, `main_loss_type` or `ohem_ratio` is out of its range.
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
    loss_type = "DiceLoss" if main_loss_type is None else main_loss_type
    ohem_ratio = checks.number("ohem_ratio", ohem_ratio, least=0)
    loss_fn = DBLoss(main_loss_type=loss_type, ohem_ratio=ohem_ratio, check_batches=0)
    maps = checks.maps(predicts, channels=1)
    if maps.shape[1] != 1:
        maps = checks.maps(predicts)
    n, channels, height, width = maps.shape
    index = _checked_index(index, n)
    if labels is not None:
        checks.labels(labels, maps)
    picture = _read_picture(image, labels, index)

    names = list(_NAMES)[:channels]
    beside = [] if picture is None else ["image"]
    if labels is None:
        cells = [[*names, *beside]]
    elif channels == 1:
        cells = [["P", "loss", *beside], ["target P", "mined", *("." for _ in beside)]]
    else:
        cells = [names, [f"target {name}" for name in names], ["loss", "mined", *(beside or ".")]]
    figure, axes = panels.grid(cells, (height, width), 0.4 if labels is None else 1.5)
    title = f"image {index} of a batch of {n}"
    legend: list[Any] = []

    drawn = dict(zip(names, to_array(maps[index])))
    if labels is not None:
        measured = _measure(loss_fn, maps, predicts, labels, index, main_loss_type, ohem_ratio)
        title += (
            f"\nof the whole batch: {_write_out(measured.parts)}"
            f'\nDBLoss(main_loss_type="{loss_type}", ohem_ratio={ohem_ratio:g})'
        )
        _draw_pixel_loss(axes["loss"], measured)
        legend += _draw_mined(axes["mined"], drawn["P"], measured, main_loss_type)
        for name in names:
            target, mask = (to_array(labels[place][index]) for place in _PLACES[name])
            drawn[f"target {name}"] = target
            for cell in (name, f"target {name}"):
                panels.hatch(axes[cell], mask == 0)
        shrink_map, shrink_mask = (to_array(labels[place][index]) for place in _PLACES["P"])
        for cell in ("mined", *beside):
            panels.outline(axes[cell], shrink_map > 0.5)
        for cell in ("loss", "mined", *beside):
            panels.hatch(axes[cell], shrink_mask == 0)
        legend += [panels.OUTLINE, panels.HATCHED]
    for cell, values in drawn.items():
        scale = panels.draw_map(axes[cell], values, _NAMES.get(cell) or cell.replace(" ", " of "))
    if picture is not None:
        panels.draw_image(axes["image"], picture, "image")
    if not all(np.isfinite(values).all() for values in drawn.values()):
        legend.append(panels.NOT_FINITE)

    figure.colorbar(scale, ax=[axes[cell] for cell in drawn], panchor=False, aspect=30)
    figure.suptitle(title, fontsize=12)
    if legend:
        figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _measure(
    loss_fn: DBLoss,
    maps: Tensor,
    predicts: Mapping[str, Tensor],
    labels: Sequence[Any],
    index: int,
    main_loss_type: str | None,
    ohem_ratio: float,
) -> _Measured:
    probability, g, m = maps[:, 0].detach(), *labels[3:]
    with paddle.no_grad(), without_amp():
        if maps.shape[1] == 1:
            parts = {"loss_shrink_maps": loss_fn.alpha * loss_fn.bce_loss(probability, g, m)}
        else:
            parts = loss_fn(predicts, labels)
        pixel_loss = _pixel_loss(loss_fn, main_loss_type)
        pixel = pixel_map(probability, g, pixel_loss)
        weights = paddle.zeros_like(pixel)
        if main_loss_type is None or main_loss_type in MINED_TYPES:
            hardness = probability if main_loss_type == "OHEMDiceLoss" else pixel
            weights = hard_negative_weights(hardness, g, m, ohem_ratio)
    return _Measured(
        parts={name: float(part) for name, part in parts.items()},
        pixel_name=_PIXEL_LOSS_NAMES.get(type(pixel_loss), type(pixel_loss).__name__),
        pixel=to_array(pixel[index]) * to_array(m[index]),
        weights=to_array(weights[index]),
        mined=float(weights.sum()),
    )


def _pixel_loss(loss_fn: DBLoss, main_loss_type: str | None) -> PixelLoss:
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
    finite = measured.pixel[np.isfinite(measured.pixel)]
    greatest = float(finite.max(initial=0)) or 1.0
    most = min(greatest, _GREATEST_LOSS)
    drawn = panels.draw_map(ax, measured.pixel, f"{measured.pixel_name} of P", "magma", most)
    panels.scale_below(ax, drawn, "max" if greatest > most else "neither")


def _draw_mined(
    ax: Axes, probability: _Array, measured: _Measured, main_loss_type: str | None
) -> list[Any]:
    panels.draw_map(ax, probability, "hard negatives over P", "gray")
    weights = measured.weights
    chosen, shared = weights == 1, (weights > 0) & (weights < 1)
    panels.lay_over(ax, chosen, panels.VERMILLION)
    panels.lay_over(ax, shared, panels.SKY)
    if main_loss_type is not None and main_loss_type not in MINED_TYPES:
        note = f"none: {main_loss_type} does not mine"
    elif not measured.mined:
        note = "none in the batch"
    else:
        note = f"{weights.sum():,.0f} here, {measured.mined:,.0f} in the batch"
    if main_loss_type is None:
        note += "\nas BCELoss mines; DiceLoss does not"
    ax.set_xlabel(note)
    legend = []
    if chosen.any():
        legend.append(Patch(color=panels.VERMILLION, label="hard negative"))
    if shared.any():
        legend.append(Patch(color=panels.SKY, label="hard negatives that share places"))
    return legend


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
    if paddle.is_tensor(image):
        image = to_array(image)
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
    if grey:
        array = array.mean(axis=2, keepdims=True)
    return np.broadcast_to(array, (*array.shape[:2], 3)).astype(np.uint8)


def _check_picture(shape: Sequence[int]) -> None:
    """Check that `shape` is that of an image whose channels, if it has any, come last."""
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ValueError(
            "image: expected the shape [h, w], [h, w, C] or [C, h, w] with 1, 3 or 4 channels,"
            f" got {list(shape)}. Of a batch pass one image."
        )
