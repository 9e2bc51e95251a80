"""`validate_batch`: a summary of a batch, or what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paddle import Tensor

from dbloss.base import checks
from dbloss.batch import rules


@dataclass(frozen=True)
class BatchSummary:
    """What `validate_batch` returns; `print` shows it as a table.

    Attributes:
        positive: `sum(g*m)` of each image.
        negative: `sum((1-g)*m)` of each image.
        ignored: `sum(1-m)` of each image.
        ranges: least and greatest value of each map, by its name in messages.
        faint: for each probability map the shares of the text, weighted by `g*m`, where it is below
            1e-3 and below 1e-12. Such pixels hardly move, since the slope of a sigmoid is
            `p * (1-p)`. The slope of the cross-entropy makes up for that, but grows no more below
            1e-12. Empty if no text counts.
    """

    positive: tuple[float, ...]
    negative: tuple[float, ...]
    ignored: tuple[float, ...]
    ranges: Mapping[str, tuple[float, float]]
    faint: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.positive)

    @property
    def without_text(self) -> tuple[int, ...]:
        """The indices of the images in which no pixel of text counts."""
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
        limits = (f"P < {limit:g}" for limit in rules.FAINT)
        faint: list[tuple[str, ...]] = [("share of the text where", *limits)]
        faint += [(name, f"{a:.1%}", f"{b:.1%}") for name, (a, b) in self.faint.items()]
        missing = ", ".join(map(str, self.without_text)) or "none"
        lines = [*_align(pixels), f"images without text: {missing}", ""]
        lines += _align(ranges, left=True)
        return "\n".join([*lines, "", *_align(faint, left=True)] if self.faint else lines)


def validate_batch(predicts: Mapping[str, Tensor] | None, labels: Sequence[Any]) -> BatchSummary:
    """Return a summary of a batch, or raise an error that names the first wrong pixel.

    Every value of every map that `DBLoss` takes must be in [0, 1], masked out or not. The maps are
    read in order: the predictions, channel by channel, then the labels; in each map image by
    image and row by row. What can be wrong with values in [0, 1] is logged.

    Positive is `sum(g*m)`, negative `sum((1-g)*m)` and ignored `sum(1-m)`, with `g` the shrink map
    and `m` the shrink mask. For labels of 0 and 1 these are numbers of pixels, for labels in
    between sums of weights; the three add up to `H*W` either way.

    It copies the maps to the host and reads them, which a loss does only with its first batch
    (`DBLoss(check_batches=1)`): call it on a loader before there is a model, or on a batch whose
    loss looks wrong. `dbloss.targets.stack_targets` makes the labels of a batch from what
    `make_targets` returns.

    Args:
        predicts: as for `DBLoss`: `"maps"`, float `[N, 3, H, W]`. Channel 0 of `"cbn_maps"` is read
            if there are `"distance_maps"`, and `"aux_maps_p4"`, `"aux_maps_p3"` and `"aux_maps_p2"`
            if they are there. None checks the labels alone.
        labels: as for `DBLoss`: `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`,
            each but the image `[N, H, W]`; float, bool or integer. The image is not read. The sixth
            label, `text_weights`, if there is one, must be above 0.

    Returns:
        A `BatchSummary` with the sums of each image, the range of each map, the images without text
        and the share of the text where P is next to 0. `str` of it is a table.

    Raises:
        TypeError: as for `DBLoss`.
        ValueError: as for `DBLoss`; and a value is NaN, infinite or outside [0, 1]. The message
            names map, image, pixel (y, x) and value, and how many pixels of the map are like it.
        RuntimeError: Paddle is in static graph mode, where there are no values to read.

    Logs:
        WARNING, by the logger `dbloss`:

        - The predicted maps require no gradient, though gradients are enabled.
        - Maps and masks are in another order; the message says in which. The threshold map gives it
          away, which is above its least value only around texts.
        - The shrink map is not 0 and 1, or is 1 on more than half of an image.
        - The threshold map reaches 0 or 1 inside its mask.
        - In the whole batch no pixel of text counts, or no pixel without text, or no pixel at all.

    Example:
        >>> import paddle
        >>> from dbloss import validate_batch
        >>> maps = paddle.full([2, 3, 4, 6], 0.5)
        >>> maps.stop_gradient = False
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
        <BLANKLINE>
        share of the text where               P < 0.001  P < 1e-12
        predicts["maps"][:, 0] (probability)       0.0%       0.0%

    Source:
        Takes the place of the assertion `loss <= 1` in PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """
    checks.eager("validate_batch")
    batch = rules.read(predicts, labels)
    refusals = [*rules.refusals(batch.predicted), *rules.refused_labels(batch)]
    if refusals:
        raise ValueError(refusals[0].text)
    sums = rules.sums_of(batch)
    for warning in (*rules.of_gradients(predicts), *rules.of_labels(batch, sums)):
        checks.LOGGER.warning(warning.text, stacklevel=2)
    ranges = {
        name: (float(values.min()), float(values.max()))
        for name, values in (batch.predicted | batch.labels | batch.weights).items()
    }
    return BatchSummary(*sums, ranges=ranges, faint=rules.faint_text(batch))


def _align(rows: Sequence[tuple[str, ...]], left: bool = False) -> list[str]:
    """Return lines of columns aligned to the right, the first to the left if `left` is True."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if left and i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
