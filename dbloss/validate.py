"""Reads a batch and says what is in it, or what is wrong with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from dbloss import checks
from dbloss._layer import LossLayer
from dbloss.balance import PIXEL_LOSSES, BalanceLoss

_CHANNEL_NAMES = ("(probability)", "(threshold)", "(binary)")
_AUXILIARY = ("aux_maps_p4", "aux_maps_p3", "aux_maps_p2")
_ROUNDING = 1e-3  # as far as a value strays from [0, 1] by arithmetic alone
_FLAT = 0.25  # the constant P that suits a cross-entropy with three negatives for each positive
_ORDER = f"[{', '.join(checks.LABEL_NAMES)}]"


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


def validate_batch(predicts: Mapping[str, Tensor] | None, labels: Sequence[Any]) -> BatchSummary:
    """Return a summary of a batch, or raise an error that names the first wrong pixel.

    Every value of every map that `DBLoss` takes must be in [0, 1], masked out or not. The maps are
    read in order: the predictions, channel by channel, then the labels; in each map image by
    image and row by row. What such values can still have wrong is reported by the logger.

    Positive is `sum(g*m)`, negative `sum((1-g)*m)` and ignored `sum(1-m)`, with `g` the shrink map
    and `m` the shrink mask. Of labels of 0 and 1 these are numbers of pixels, of labels in between
    sums of weights; the three add up to `H*W` either way.

    It copies the maps to the host and reads them, which a loss does with its first batch alone
    (`DBLoss(check_batches=1)`): call it on a loader before there is a model, or on the batch whose
    loss looks wrong. `dbloss.targets.stack_targets` makes the labels of a batch of what
    `make_targets` returns.

    Args:
        predicts: as for `DBLoss`: `"maps"`, float `[N, 3, H, W]`. Channel 0 of `"cbn_maps"` is read
            where there are `"distance_maps"`, and `"aux_maps_p4"`, `"aux_maps_p3"` and
            `"aux_maps_p2"` where they are there. None reads the labels alone.
        labels: as for `DBLoss`: `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`,
            each but the image `[N, H, W]`; float, bool or integer. The image is not read. A sixth,
            `text_weights`, must be above 0.

    Returns:
        A `BatchSummary` with the sums of each image, the range of each map and the images without
        text. `str` of it is a table.

    Raises:
        TypeError: as for `DBLoss`.
        ValueError: as for `DBLoss`; and a value is NaN, infinite or outside [0, 1]. The message
            names map, image, pixel (y, x) and value, and how many pixels of the map share it.
        RuntimeError: Paddle is in static graph mode, where there are no values to read.

    Logs:
        WARNING, by the logger `dbloss`:

        - The predicted maps require no gradient, though gradients are enabled.
        - Maps and masks stand in another order; the message says in which. It is known by the
          threshold map, which is above its least value around a text alone.
        - The shrink map is not 0 and 1, or is 1 on more than half of an image.
        - The threshold map reaches 0 or 1 where its mask counts it.
        - In the whole batch no pixel of text counts, or none without text, or none at all.

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

    Source:
        Takes the place of the assertion `loss <= 1` in PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """
    checks.eager("validate_batch")
    batch = _read(predicts, labels)
    refusals = [*_refusals(batch.predicted), *batch.refusals]
    if refusals:
        raise ValueError(refusals[0].text)
    sums = _sums(batch)
    for warning in (*_of_gradients(predicts), *_of_labels(batch, sums)):
        checks.LOGGER.warning(warning.text, stacklevel=2)
    ranges = {
        name: (float(values.min()), float(values.max()))
        for name, values in (batch.predicted | batch.labels | batch.weights).items()
    }
    return BatchSummary(*sums, ranges=ranges)


class FirstBatches:
    """Looks at the first batches of a `DBLoss`, and says on the logger what is wrong with them.

    It never raises, and what a later batch has wrong in the same way it does not say again.
    """

    def __init__(self, count: int) -> None:
        self._left = count
        self._said: set[str] = set()

    def look(self, layer: Any, predicts: Any, labels: Any) -> None:
        """Say what `validate_batch` would, if this is one of the first batches."""
        if not self._left or not paddle.in_dynamic_mode():
            return
        self._left -= 1
        try:
            # Of several processes one speaks.
            if paddle.distributed.get_rank() == (layer.group.ranks[0] if layer.group else 0):
                self._report(layer, predicts, labels)
        except Exception:
            checks.LOGGER.debug("A first batch could not be looked at.", exc_info=True)

    def _report(self, layer: Any, predicts: Any, labels: Any) -> None:
        read = [name for name in _AUXILIARY if getattr(layer, name.replace("maps", "weight")) > 0]
        try:
            checks.maps(predicts)  # None is refused here
            batch = _read(predicts, labels, read)
        except (TypeError, ValueError):  # which the loss is about to raise too
            self._left += 1
            return
        shrink_map = labels[3]
        found = [*_of_gradients(predicts)]
        # A part of the caller's own may take what is no probability.
        parts = (layer.bce_loss, layer.l1_loss, layer.dice_loss)
        own = [isinstance(part, LossLayer) for part in parts]
        found += _refusals(
            batch.predicted, [name for name, mine in zip(_CHANNEL_NAMES, own) if mine]
        )
        # Another layer that is still there has spoken of these very labels.
        if _SPOKEN.get("labels") is not shrink_map or _SPOKEN.get("layer") in (None, layer):
            told = not _learns_without_text(layer) and layer._processes().size == 1
            found += batch.refusals or _of_labels(batch, _sums(batch), with_empty=told)
            _SPOKEN.update(labels=shrink_map, layer=layer)
        if not found:
            found += _of_start(layer, batch)
        new = [each.text for each in found if each.kind not in self._said]
        self._said.update(each.kind for each in found)
        if new:
            checks.LOGGER.warning(
                "What DBLoss sees in a first batch (check_batches=0 keeps it from looking):%s",
                "".join(f"\n- {text}" for text in new),
            )


_SPOKEN: WeakValueDictionary[str, Any] = WeakValueDictionary()


def _learns_without_text(layer: Any) -> bool:
    """Tell whether a batch without text gives a `DBLoss` of these settings a gradient."""
    balance, dice = layer.bce_loss, layer.dice_loss
    per_pixel = getattr(balance, "main_loss_type", "") in ("MaskL1Loss", *PIXEL_LOSSES)
    unbalanced = per_pixel and not balance.balance_loss
    return unbalanced or any(
        getattr(part, name, 0) > 0
        for part in (balance, dice)
        for name in ("smooth", "fallback_negatives", "focal_weight")
    )


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return the values of a tensor, float32 for half precision."""
    # NumPy has no bfloat16.
    half = tensor.dtype in (paddle.float16, paddle.bfloat16)
    array: NDArray[Any] = (tensor.detach().astype("float32") if half else tensor.detach()).numpy()
    return array


class _Batch(NamedTuple):
    """The values of a batch, `[N, H, W]` each, by the name that messages give them."""

    predicted: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]]
    weights: dict[str, NDArray[Any]]  # the sixth label, if there is one

    @property
    def refusals(self) -> list["_Finding"]:
        """What its labels have that no label may have."""
        return [*_refusals(self.labels, of_labels=True), *_refused_weights(self.weights)]


class _Finding(NamedTuple):
    kind: str  # that of the same fault in another batch is the same
    text: str


def _read(
    predicts: Mapping[str, Tensor] | None,
    labels: Sequence[Any],
    auxiliary: Sequence[str] = _AUXILIARY,
) -> _Batch:
    """Return the values of what `DBLoss` reads of a batch, raise what it would."""
    predicted = {}
    if predicts is not None:
        maps = predicted["maps"] = checks.maps(predicts)
        targets = checks.labels(labels, maps)
        if "distance_maps" in predicts:
            cbn = checks.maps(predicts, "cbn_maps", channels=1, like=maps)
            predicted["cbn_maps"] = cbn[:, :1]
        for name in auxiliary:
            if name in predicts:
                predicted[name] = checks.maps(predicts, name, like=maps)
    else:
        targets = checks.labels(labels)
    channels = {
        f'predicts["{key}"][:, {channel}] {_CHANNEL_NAMES[channel]}': values
        for key, tensor in predicted.items()
        for channel, values in enumerate(np.moveaxis(to_array(tensor), 1, 0))
    }
    arrays = {checks.label_name(i): to_array(each) for i, each in enumerate(targets, start=1)}
    weights = {name: arrays.pop(name) for name in [*arrays][4:]}
    return _Batch(channels, arrays, weights)


class _Sums(NamedTuple):
    """`sum(g*m)`, `sum((1-g)*m)` and `sum(1-m)` of each image."""

    positive: tuple[float, ...]
    negative: tuple[float, ...]
    ignored: tuple[float, ...]


def _sums(batch: _Batch) -> _Sums:
    *_, g, m = batch.labels.values()
    return _Sums(
        *(
            tuple(weights.sum(axis=(1, 2), dtype=np.float64).tolist())
            for weights in (g * m, (1 - g) * m, 1 - m)
        )
    )


# Values that no map may have


def _refusals(
    maps: Mapping[str, NDArray[Any]],
    bounded: Sequence[str] = _CHANNEL_NAMES,
    of_labels: bool = False,
) -> Iterator[_Finding]:
    """Say of each map what is not finite, or outside [0, 1] where its channel is to be in it."""
    for name, values in maps.items():
        least, greatest = values.min(), values.max()
        if least >= 0 and greatest <= 1:  # not so where there is NaN
            continue
        finite = np.isfinite(values)
        if of_labels or name.endswith(tuple(bounded)):
            outside = finite & ~((values >= 0) & (values <= 1))
        else:
            outside = np.zeros_like(finite)
        if (outside | ~finite).any():
            yield _refusal(name, values, finite, outside, of_labels)


def _refused_weights(maps: Mapping[str, NDArray[Any]]) -> Iterator[_Finding]:
    """Say of weights what is not finite or not above 0."""
    for name, values in maps.items():
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            yield _Finding(
                f"{name} weights",
                f"{name}: expected finite numbers above 0, got {_at(values, _first(wrong))}. Pixels"
                f" of the map that are none: {wrong.sum()} of {wrong.size}. What is to be ignored"
                " is 0 in the shrink mask, and weighs 1.",
            )


def _refusal(
    name: str,
    values: NDArray[Any],
    finite: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    of_labels: bool,
) -> _Finding:
    pixel = _first(outside | ~finite)
    if not finite[pixel]:
        kind, alike = "NaN or Inf", ~finite
        advice = (
            "Look at the polygons and the resizing that made it."
            if of_labels
            else "Lower the learning rate; in half precision make the binary map with"
            " dbloss.differentiable_binarization, which does not overflow."
        )
    else:
        kind, alike = "outside [0, 1]", outside
        advice = (_advice_on_label if of_labels else _advice_on_prediction)(name, values[finite])
    text = (
        f"{name}: expected values in [0, 1], got {_at(values, pixel)}."
        f" Pixels of the map that are {kind}: {alike.sum()} of {alike.size}. {advice}"
    )
    return _Finding(f"{name} {kind}", text)


def _advice_on_prediction(name: str, values: NDArray[Any]) -> str:
    least, greatest = values.min(), values.max()
    if _only_rounded(least, greatest):
        return "Rounding alone puts it outside: clip it to [0, 1]."
    return (
        f"Values from {least:.3g} to {greatest:.3g} look like logits: put a sigmoid at the end of"
        " the head."
    )


def _advice_on_label(name: str, values: NDArray[Any]) -> str:
    least, greatest = values.min(), values.max()
    thresholds = name.endswith("(threshold_map)")
    whole = least >= 0 and bool((values == np.rint(values)).all())
    if _only_rounded(least, greatest):
        return "Rounding alone puts it outside: clip it to [0, 1]."
    if whole and greatest == 255 and not thresholds:
        if np.isin(values, (0, 255)).all():
            return "Its values are 0 or 255: divide it by 255, or compare it with > 0."
        if np.isin(values, (0, 1, 255)).all():
            return (
                "It holds 0, 1 and 255, which marks what is ignored in labels for segmentation:"
                " make the shrink map (labels == 1) and the shrink mask (labels != 255)."
            )
    if whole and not thresholds and greatest < 255:
        return (
            f"It holds whole numbers up to {greatest:.0f}, as numbers of classes or of words are:"
            f" compare it with > 0. Or check the order {_ORDER}."
        )
    if least >= 0 and 32 < greatest <= 255:
        return f"Divide 8-bit values by 255, or check the order {_ORDER}."
    return f"Check the order {_ORDER}: this looks like none of the four maps."


def _only_rounded(least: Any, greatest: Any) -> bool:
    return bool(least >= -_ROUNDING and greatest <= 1 + _ROUNDING)


# What values in [0, 1] can have wrong


def _of_gradients(predicts: Mapping[str, Tensor] | None) -> Iterator[_Finding]:
    if predicts is not None and paddle.is_grad_enabled() and predicts["maps"].stop_gradient:
        yield _Finding(
            "gradient",
            'predicts["maps"]: expected a tensor that requires a gradient, got one whose'
            " stop_gradient is True, so that backward() reaches no model. Pass what the model"
            " returns, not its .detach(), and set stop_gradient = False on a tensor of your own;"
            " compute a loss whose gradient nobody needs under paddle.no_grad().",
        )


def _of_labels(batch: _Batch, sums: _Sums, with_empty: bool = True) -> Iterator[_Finding]:
    """Say what labels in [0, 1] have wrong, `with_empty` also that no pixel of text counts."""
    order = _other_order([*batch.labels.values()])
    if order:
        yield _Finding("order", f"labels: {order}")
        return  # Whatever else there is follows from it.
    t, k, g, m = batch.labels.values()
    threshold_map, _, shrink_map, _ = batch.labels

    between = (g != 0) & (g != 1)
    if between.any():
        yield _Finding(
            "soft",
            f"{shrink_map}: expected 0 and 1, got {_at(g, _first(between))}. Pixels of the map that"
            f" are in between: {between.sum()} of {g.size}. The loss takes such a pixel for a part"
            " of text. Make labels at their final size, or resize them with the nearest neighbour.",
        )
    ends = ((t == 0) | (t == 1)) & (k > 0)
    if ends.any():
        yield _Finding(
            "ends",
            f"{threshold_map}: expected thresholds between 0 and 1, got"
            f" {_at(t, _first(ends))}. Pixels that its mask counts and that are 0 or 1:"
            f" {ends.sum()} of {np.count_nonzero(k)}. A threshold of 0 makes text of every pixel,"
            " one of 1 of none. A map of [0, 1] becomes one from 0.3 to 0.7, as PaddleOCR has"
            f" them, by 0.3 + 0.4 * map; or check the order {_ORDER}.",
        )

    positive, negative, ignored = map(sum, sums)
    shares = (g == 1).mean(axis=(1, 2))
    most = int(shares.argmax())
    if positive and not negative:
        yield _Finding(
            "no negatives",
            "labels: no pixel without text counts in the batch, so that nothing pushes a map down"
            " and mining has nothing to choose from. The shrink mask is 1 on all that is not"
            f" ignored, with or without text. Check the order {_ORDER}, and how the mask is made.",
        )
    elif shares[most] > 0.5:
        more = np.count_nonzero(shares > 0.5) - 1
        yield _Finding(
            "half",
            f"{shrink_map}: expected shrunk text, on a third of an image at the most, got it on"
            f" {shares[most]:.0%} of image {most}{f' and on half of {more} more' if more else ''}."
            f" Are 0 and 1 the wrong way round, or polygons not shrunk? Check the order {_ORDER}.",
        )
    if not positive and with_empty:
        masked = bool(g.any() and m.any())
        yield _Finding("empty", _empty(bool(negative), bool(ignored), masked))


def _of_start(layer: Any, batch: _Batch) -> Iterator[_Finding]:
    """Say that a map which is learned by mining alone does not start as background.

    Detectors that were trained so on photographs and find words, 13 of them, were above the limit
    on 1.2 % or less of the pixels without text, and fresh ones, with one that collapsed, on 98 %.
    """
    balance = layer.bce_loss
    if not isinstance(balance, BalanceLoss) or not balance.balance_loss:
        return
    if not all(mined for _, mined in balance._losses()):
        return
    *_, g, m = batch.labels.values()
    negative = (1 - g) * m > 0
    if not negative.any() or not (g * m).any():
        return
    for name, values in batch.predicted.items():
        if not name.endswith(_CHANNEL_NAMES[0]):
            continue
        share = (values[negative] > _FLAT).mean()
        if share > 0.5:
            yield _Finding(
                f"{name} start",
                f"{name}: expected a map that starts as background, got one above {_FLAT} on"
                f" {share:.0%} of the pixels without text. With trained weights keep the default,"
                f" DiceLoss. From scratch {balance.main_loss_type} looks at text and hard negatives"
                " alone, and from such a start can come to nearly one number for all pixels:"
                " before the training set the bias of the layer before the sigmoid to -4,"
                " layer.bias.set_value(paddle.full([1], -4.0)).",
            )


def _empty(negative: bool, ignored: bool, masked: bool) -> str:
    """Say that no pixel of text counts, though pixels may that are negative."""
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
    if masked:
        advice += (
            " The mask is 0 on all text of the shrink map: if it is 1 on what is ignored, it is the"
            " wrong way round."
        )
    if negative:
        advice += (
            " To learn from such a batch: DBLoss(smooth=1.0) pushes the binary map down,"
            ' DBLoss(main_loss_type="BCELoss", fallback_negatives=1000) the probability map.'
        )
    return (
        f"labels: {found}. With the defaults of DBLoss, loss_shrink_maps is 0, loss_binary_maps"
        f" is exactly 1, and neither gives a gradient.{advice}"
    )


def _other_order(arrays: Sequence[NDArray[Any]]) -> str:
    """Say in which order four label maps stand if it is known and not the right one.

    The threshold map alone has values between 0 and 1. It is above its least value in a band along
    the outline of each text. Its mask covers the band, the shrunk text lies within, and away from
    it all but what is ignored has a shrink mask of 1. On 1,500 label maps of street photographs
    the mask covered 0.90 of the band or more, the shrunk text 0.23 or less; away from it these two
    covered 0.06 or less and the shrink mask 0.74 or more.
    """
    between = [i for i, array in enumerate(arrays) if ((array > 0) & (array < 1)).any()]
    if len(between) != 1:
        return ""
    (t,) = between
    thresholds = arrays[t]
    least, greatest = thresholds.min(), thresholds.max()
    band = thresholds > least + _ROUNDING
    inside, outside = np.count_nonzero(band), np.count_nonzero(~band)
    if inside and outside:
        rest = [i for i in range(4) if i != t]
        on = {i: np.count_nonzero(arrays[i].astype(bool) & band) / inside for i in rest}
        off = {i: np.count_nonzero(arrays[i].astype(bool) & ~band) / outside for i in rest}
        *others, m = sorted(rest, key=off.__getitem__)
        g, k = sorted(others, key=on.__getitem__)
        if on[g] < 0.5 and on[k] > 0.8 and off[m] > max(0.5, off[g] + 0.25, off[k] + 0.25):
            found = [t, k, g, m]
            if found == sorted(found):
                return ""
            names = ["image"] * 5
            for name, place in zip(checks.LABEL_NAMES[1:], found):
                names[place + 1] = name
            places = ", ".join(f"labels[{place + 1}]" for place in found)
            return (
                f"expected the order {_ORDER}, and these look like [{', '.join(names)}]. Pass"
                f" [labels[0], {places}]."
            )
    if t and least > 0 and greatest < 1:
        return (
            f"expected the order {_ORDER}, and {checks.label_name(t + 1)} looks like the threshold"
            f" map: its values go from {least:.3g} to {greatest:.3g}, those of"
            f" {checks.label_name(1)} are 0 or 1. Look where the labels are put together."
        )
    return ""


def _first(pixels: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return image, row and column of the first pixel that is True."""
    return tuple(map(int, np.unravel_index(pixels.argmax(), pixels.shape)))


def _at(values: NDArray[Any], pixel: tuple[int, ...]) -> str:
    image, y, x = pixel
    return f"{values[pixel]!s} in image {image} at pixel (y, x) = ({y}, {x})"


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
