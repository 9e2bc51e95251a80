"""Reads a batch and says what is in it, or what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from dbloss import checks

_CHANNEL_NAMES = ("(probability)", "(threshold)", "(binary)")


@dataclass(frozen=True)
class BatchSummary:
    """What `validate_batch` found; `print` shows it as a table.

    Attributes:
        positive: `sum(g*m)` of each image.
        negative: `sum((1-g)*m)` of each image.
        ignored: `sum(1-m)` of each image.
        ranges: least and greatest value of each map, by the name that errors give it.
    """

    positive: tuple[float, ...]
    negative: tuple[float, ...]
    ignored: tuple[float, ...]
    ranges: Mapping[str, tuple[float, float]]

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.positive)

    @property
    def without_text(self) -> tuple[int, ...]:
        """The images in which no pixel of text counts."""
        return tuple(image for image, sum_ in enumerate(self.positive) if sum_ == 0)

    def __str__(self) -> str:
        columns = (self.positive, self.negative, self.ignored)
        whole = all(sum_.is_integer() for column in columns for sum_ in column)
        spec = ",.0f" if whole else ",.1f"
        pixels: list[tuple[str, ...]] = [("image", "positive", "negative", "ignored")]
        for name, sums in (*enumerate(zip(*columns)), ("all", map(sum, columns))):
            pixels.append((str(name), *(format(sum_, spec) for sum_ in sums)))
        ranges: list[tuple[str, ...]] = [("map", "least", "greatest")]
        ranges += [(name, f"{a:.4g}", f"{b:.4g}") for name, (a, b) in self.ranges.items()]
        missing = ", ".join(map(str, self.without_text)) or "none"
        return "\n".join(
            [*_align(pixels), f"images without text: {missing}", "", *_align(ranges, left=True)]
        )


def validate_batch(predicts: Mapping[str, Tensor], labels: Sequence[Any]) -> BatchSummary:
    """Return a summary of a batch, or raise an error that names the first wrong pixel.

    Every value of every map that `DBLoss` takes must be in [0, 1], masked out or not. The maps are
    read in order: the predictions, channel by channel, then the labels; in each map image by
    image and row by row.

    Positive is `sum(g*m)`, negative `sum((1-g)*m)` and ignored `sum(1-m)`, with `g` the shrink map
    and `m` the shrink mask. Of labels of 0 and 1 these are numbers of pixels, of labels in between
    sums of weights; the three add up to `H*W` either way.

    It copies the maps to the host and reads them, which a loss never does: call it on the first
    batches, or on the batch whose loss looks wrong.

    Args:
        predicts: as for `DBLoss`: `"maps"`, float `[N, 3, H, W]`. Channel 0 of `"cbn_maps"` is read
            where there are `"distance_maps"`, and `"aux_maps_p4"`, `"aux_maps_p3"` and
            `"aux_maps_p2"` where they are there.
        labels: as for `DBLoss`: `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`,
            each but the image `[N, H, W]`; float, bool or integer. The image is not read.

    Returns:
        A `BatchSummary` with the sums of each image, the range of each map and the images without
        text. `str` of it is a table.

    Raises:
        TypeError: as for `DBLoss`.
        ValueError: as for `DBLoss`; and a value is NaN, infinite or outside [0, 1]. The message
            names map, image, pixel (y, x) and value, and how many pixels of the map share it.
        RuntimeError: Paddle is in static graph mode, where there are no values to read.

    Logs:
        WARNING, by the logger `dbloss`: no pixel of text counts in the batch, or no pixel at all.

    Example:
        >>> import paddle
        >>> from dbloss import validate_batch
        >>> maps = paddle.full([2, 3, 4, 6], 0.5)
        >>> ones = paddle.ones([2, 4, 6])
        >>> shrink_map = paddle.zeros([2, 4, 6])
        >>> shrink_map[0, 1:3, 1:5] = 1
        >>> print(validate_batch({"maps": maps}, [None, 0.3 * ones, ones, shrink_map, ones]))
        image  positive  negative  ignored
            0         8        16        0
            1         0        24        0
          all         8        40        0
        images without text: 1
        <BLANKLINE>
        map                                   least  greatest
        predicts["maps"][:, 0] (probability)    0.5       0.5
        predicts["maps"][:, 1] (threshold)      0.5       0.5
        predicts["maps"][:, 2] (binary)         0.5       0.5
        labels[1] (threshold_map)               0.3       0.3
        labels[2] (threshold_mask)                1         1
        labels[3] (shrink_map)                    0         1
        labels[4] (shrink_mask)                   1         1

    Source:
        Takes the place of the assertion `loss <= 1` in PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """
    checks.eager("validate_batch")
    maps = checks.maps(predicts)
    targets = checks.labels(labels, maps)
    predicted = {"maps": maps}
    if "distance_maps" in predicts:
        cbn = checks.maps(predicts, "cbn_maps", channels=1, like=maps)
        predicted["cbn_maps"] = cbn[:, :1]
    for name in ("aux_maps_p4", "aux_maps_p3", "aux_maps_p2"):
        if name in predicts:
            predicted[name] = checks.maps(predicts, name, like=maps)

    ranges = {}
    for key, tensor in predicted.items():
        for channel, values in enumerate(np.moveaxis(to_array(tensor), 1, 0)):
            name = _channel_name(key, channel)
            ranges[name] = _fractions(name, values)
    arrays = [to_array(target) for target in targets]
    for index, values in enumerate(arrays, start=1):
        name = checks.label_name(index)
        ranges[name] = _fractions(name, values, label=True)

    *_, g, m = arrays
    positive, negative, ignored = (
        tuple(weights.sum(axis=(1, 2), dtype=np.float64).tolist())
        for weights in (g * m, (1 - g) * m, 1 - m)
    )
    summary = BatchSummary(positive, negative, ignored, ranges)
    if len(summary.without_text) == summary.images:
        _report_no_text(any(negative), any(ignored))
    return summary


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return the values of a tensor, float32 for half precision."""
    # NumPy has no bfloat16.
    half = tensor.dtype in (paddle.float16, paddle.bfloat16)
    array: NDArray[Any] = (tensor.detach().astype("float32") if half else tensor.detach()).numpy()
    return array


def _channel_name(key: str, channel: int) -> str:
    """Return what messages call a channel of `predicts[key]`."""
    return f'predicts["{key}"][:, {channel}] {_CHANNEL_NAMES[channel]}'


def _fractions(name: str, values: NDArray[Any], label: bool = False) -> tuple[float, float]:
    """Return the least and the greatest of `values`, `[N, H, W]`, if all are in [0, 1]."""
    least, greatest = values.min(), values.max()
    if not (least >= 0 and greatest <= 1):  # as NaN makes it
        _refuse_values(name, values, label)
    return float(least), float(greatest)


def _refuse_values(name: str, values: NDArray[Any], label: bool) -> NoReturn:
    finite = np.isfinite(values)
    outside = finite & ~((values >= 0) & (values <= 1))
    image, y, x = np.argwhere(outside | ~finite)[0].tolist()
    alike = outside if finite[image, y, x] else ~finite
    if not finite[image, y, x]:
        advice = (
            "Look at the polygons and the resizing that made it."
            if label
            else "Lower the learning rate; in half precision make the binary map with"
            " dbloss.differentiable_binarization, which does not overflow."
        )
    elif not label:
        advice = "Put a sigmoid at the end of the head; clip what rounding alone puts outside."
    elif np.isin(values, (0, 255)).all():
        advice = "It holds 0 and 255: divide it by 255, or compare it with > 0."
    else:
        advice = (
            f"Check the order [{', '.join(checks.LABEL_NAMES)}], and divide 8-bit values by 255."
        )
    kind = "outside [0, 1]" if finite[image, y, x] else "NaN or Inf"
    raise ValueError(
        f"{name}: expected values in [0, 1], got {values[image, y, x]!s} in image {image} at pixel"
        f" (y, x) = ({y}, {x}). Pixels of the map that are {kind}: {alike.sum()} of {alike.size}."
        f" {advice}"
    )


def _report_no_text(negative: bool, ignored: bool) -> None:
    """Report that no pixel of text counts, though pixels may that are negative."""
    if not negative:
        found = "every pixel of the batch is ignored"
    elif ignored:
        found = "no text counts in the batch, and part of it is ignored"
    else:
        found = "the batch has no text, and nothing in it is ignored"
    advice = (
        ' Look for polygons marked "###" or smaller than min_text_size after resizing.'
        if ignored
        else " Look for random crops that miss the words."
    )
    if negative:
        advice += (
            " To learn from such a batch: DBLoss(smooth=1.0) pushes the binary map down,"
            ' DBLoss(main_loss_type="BCELoss", fallback_negatives=1000) the probability map.'
        )
    checks.LOGGER.warning(
        f"labels: {found}. With the defaults of DBLoss, loss_shrink_maps is 0, loss_binary_maps"
        f" is exactly 1, and neither gives a gradient.{advice}",
        stacklevel=3,
    )


def _align(rows: Sequence[tuple[str, ...]], left: bool = False) -> list[str]:
    """Return lines of columns set to the right, the first to the left where `left` is True."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if left and i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
