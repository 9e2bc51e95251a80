"""What can be wrong with the values of a batch: each rule yields its findings as sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.base.tensors import to_array
from dbloss.batch import arguments

CHANNELS = ("(probability)", "(threshold)", "(binary)")
AUXILIARY = ("aux_maps_p4", "aux_maps_p3", "aux_maps_p2")
FAINT = (1e-3, 1e-12)  # below the second the slope of the cross-entropy grows no more
_MANY = 0.05  # the share of the text from which on faint pixels are reported
_ROUNDING = 1e-3  # rounding puts a value at most this far outside [0, 1]
_FLAT = 0.25  # the best constant P for a cross-entropy with three negatives for each positive
_ORDER = f"[{', '.join(arguments.LABEL_NAMES)}]"


class Batch(NamedTuple):
    """The values of a batch, each `[N, H, W]`, by their name in messages."""

    predicted: dict[str, NDArray[Any]]
    labels: dict[str, NDArray[Any]]
    weights: dict[str, NDArray[Any]]  # the sixth label, if there is one


class Finding(NamedTuple):
    kind: str  # the same for the same fault in another batch
    text: str


def read(
    predicts: Mapping[str, Tensor] | None,
    labels: Sequence[Any],
    auxiliary: Sequence[str] = AUXILIARY,
) -> Batch:
    """Return the values that `DBLoss` reads of a batch, or raise the error that it would raise."""
    predicted = {}
    if predicts is not None:
        maps = predicted["maps"] = arguments.maps(predicts)
        targets = arguments.labels(labels, maps)
        if "distance_maps" in predicts:
            cbn = arguments.maps(predicts, "cbn_maps", channels=1, like=maps)
            predicted["cbn_maps"] = cbn[:, :1]
        for name in auxiliary:
            if name in predicts:
                predicted[name] = arguments.maps(predicts, name, like=maps)
    else:
        targets = arguments.labels(labels)
    channels = {
        f'predicts["{key}"][:, {channel}] {CHANNELS[channel]}': values
        for key, tensor in predicted.items()
        for channel, values in enumerate(np.moveaxis(to_array(tensor), 1, 0))
    }
    arrays = {arguments.label_name(i): to_array(each) for i, each in enumerate(targets, start=1)}
    weights = {name: arrays.pop(name) for name in [*arrays][4:]}
    return Batch(channels, arrays, weights)


class Sums(NamedTuple):
    """`sum(g*m)`, `sum((1-g)*m)` and `sum(1-m)` of each image."""

    positive: tuple[float, ...]
    negative: tuple[float, ...]
    ignored: tuple[float, ...]


def sums_of(batch: Batch) -> Sums:
    *_, g, m = batch.labels.values()
    return Sums(
        *(
            tuple(weights.sum(axis=(1, 2), dtype=np.float64).tolist())
            for weights in (g * m, (1 - g) * m, 1 - m)
        )
    )


# Values that no map may have


def refused_labels(batch: Batch) -> list[Finding]:
    """Return a finding for each label with a value that no label may have."""
    return [*refusals(batch.labels, are_labels=True), *_refused_weights(batch.weights)]


def refusals(
    maps: Mapping[str, NDArray[Any]],
    bounded: Sequence[str] = CHANNELS,
    are_labels: bool = False,
) -> Iterator[Finding]:
    """Name the first value of each map that is not finite, or not in [0, 1] where it has to be.

    It has to be in labels, and in those channels of a prediction that are `bounded`.
    """
    for name, values in maps.items():
        least, greatest = values.min(), values.max()
        if least >= 0 and greatest <= 1:  # False if there is a NaN
            continue
        finite = np.isfinite(values)
        if are_labels or name.endswith(tuple(bounded)):
            outside = finite & ~((values >= 0) & (values <= 1))
        else:
            outside = np.zeros_like(finite)
        if (outside | ~finite).any():
            yield _refusal(name, values, finite, outside, are_labels)


def _refused_weights(maps: Mapping[str, NDArray[Any]]) -> Iterator[Finding]:
    """Name the first weight that is not a finite number above 0."""
    for name, values in maps.items():
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            yield Finding(
                f"{name} weights",
                f"{name}: expected finite numbers above 0, got {_at(values, _first(wrong))}. Pixels"
                f" of the map that are none: {wrong.sum()} of {wrong.size}. To ignore a pixel set"
                " it to 0 in the shrink mask, and leave its weight at 1.",
            )


def _refusal(
    name: str,
    values: NDArray[Any],
    finite: NDArray[np.bool_],
    outside: NDArray[np.bool_],
    are_labels: bool,
) -> Finding:
    pixel = _first(outside | ~finite)
    if not finite[pixel]:
        kind, alike = "NaN or Inf", ~finite
        advice = (
            "Look at the polygons and the resizing that made it."
            if are_labels
            else "Lower the learning rate; in half precision make the binary map with"
            " dbloss.differentiable_binarization, which does not overflow."
        )
    else:
        kind, alike = "outside [0, 1]", outside
        advice = (_advice_on_label if are_labels else _advice_on_prediction)(name, values[finite])
    text = (
        f"{name}: expected values in [0, 1], got {_at(values, pixel)}."
        f" Pixels of the map that are {kind}: {alike.sum()} of {alike.size}. {advice}"
    )
    return Finding(f"{name} {kind}", text)


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


# What can be wrong with values in [0, 1]


def of_gradients(predicts: Mapping[str, Tensor] | None) -> Iterator[Finding]:
    if predicts is not None and paddle.is_grad_enabled() and predicts["maps"].stop_gradient:
        yield Finding(
            "gradient",
            'predicts["maps"]: expected a tensor that requires a gradient, got one whose'
            " stop_gradient is True, so that backward() reaches no model. Pass what the model"
            " returns, not its .detach(), and set stop_gradient = False on a tensor of your own;"
            " compute a loss whose gradient nobody needs under paddle.no_grad().",
        )


def of_labels(batch: Batch, sums: Sums, with_empty: bool = True) -> Iterator[Finding]:
    """Yield what is wrong with labels in [0, 1]; `with_empty` reports a batch without text too."""
    order = _other_order([*batch.labels.values()])
    if order:
        yield Finding("order", f"labels: {order}")
        return  # the rules below would read the wrong maps
    t, k, g, m = batch.labels.values()
    threshold_map, _, shrink_map, _ = batch.labels

    between = (g != 0) & (g != 1)
    if between.any():
        yield Finding(
            "soft",
            f"{shrink_map}: expected 0 and 1, got {_at(g, _first(between))}. Pixels of the map that"
            f" are in between: {between.sum()} of {g.size}. The loss counts such a pixel as partly"
            " text. Make labels at their final size, or resize them with the nearest neighbour.",
        )
    ends = ((t == 0) | (t == 1)) & (k > 0)
    if ends.any():
        yield Finding(
            "ends",
            f"{threshold_map}: expected thresholds between 0 and 1, got"
            f" {_at(t, _first(ends))}. Pixels inside its mask that are 0 or 1: {ends.sum()} of"
            f" {np.count_nonzero(k)}. A threshold of 0 makes every pixel text, one of 1 none. A map"
            " from 0 to 1 becomes one from 0.3 to 0.7, as PaddleOCR's are, by 0.3 + 0.4 * map; or"
            f" check the order {_ORDER}.",
        )

    positive, negative, ignored = map(sum, sums)
    shares = (g == 1).mean(axis=(1, 2))
    most = int(shares.argmax())
    if positive and not negative:
        yield Finding(
            "no negatives",
            "labels: no pixel without text counts in the batch, so that nothing pushes a map down"
            " and mining has nothing to choose from. The shrink mask is 1 on all that is not"
            f" ignored, with or without text. Check the order {_ORDER}, and how the mask is made.",
        )
    elif shares[most] > 0.5:
        more = np.count_nonzero(shares > 0.5) - 1
        yield Finding(
            "half",
            f"{shrink_map}: expected shrunk text on at most a third of an image, got it on"
            f" {shares[most]:.0%} of image {most}{f' and on half of {more} more' if more else ''}."
            f" Are 0 and 1 the wrong way round, or polygons not shrunk? Check the order {_ORDER}.",
        )
    if not positive and with_empty:
        masked = bool(g.any() and m.any())
        yield Finding("empty", _empty(bool(negative), bool(ignored), masked))


def of_start(batch: Batch, mined: str) -> Iterator[Finding]:
    """Report a probability map that does not start as background, as the loss `mined` needs it.

    Of the pixels without text 98 % were above 0.25 for untrained detectors and one that collapsed,
    and 1.2 % or less for 13 that had been trained with such a loss and find words.
    """
    *_, g, m = batch.labels.values()
    negative = (1 - g) * m > 0
    if not negative.any() or not (g * m).any():
        return
    for name, values in _probabilities(batch):
        share = (values[negative] > _FLAT).mean()
        if share > 0.5:
            yield Finding(
                f"{name} start",
                f"{name}: expected a map that starts as background, got one above {_FLAT} on"
                f" {share:.0%} of the pixels without text. With trained weights take TverskyLoss,"
                f" or the default, DiceLoss. From scratch {mined} sees only text and hard"
                " negatives, and from such a start can end with nearly the same number for all"
                " pixels: before the training set the bias of the layer before the sigmoid to -4,"
                " layer.bias.set_value(paddle.full([1], -4.0)).",
            )


def of_faint_text(batch: Batch, logarithm: str) -> Iterator[Finding]:
    """Report a P that is next to 0 on much of the text, for a loss with a logarithm of P.

    For PP-OCRv4's mobile detector P was below 1e-3 on 29 % of the text of photographs, and below
    1e-12 on 19 %. A map that starts at 0.5, or at 0.02 as background, has no such pixel.
    """
    for name, (low, lowest) in faint_text(batch).items():
        if low > _MANY:
            yield Finding(
                f"{name} faint",
                f"{name}: expected P above {FAINT[0]:g} on the text, got less on {low:.0%} of the"
                f" text's pixels, and less than {FAINT[1]:g} on {lowest:.0%}, as is usual for a"
                f" trained detector. {logarithm} is largest on these pixels, yet its gradient"
                f" hardly moves those below {FAINT[1]:g}. With trained weights take TverskyLoss,"
                " or the default, DiceLoss.",
            )


def faint_text(batch: Batch) -> dict[str, tuple[float, float]]:
    """Return the shares of the text where each probability map is below 1e-3 and below 1e-12.

    If no text counts the dict is empty.
    """
    *_, g, m = batch.labels.values()
    text = g * m
    every = text.sum(dtype=np.float64)
    if not every:
        return {}
    shares = {}
    for name, values in _probabilities(batch):
        low, lowest = (float(text[values < limit].sum(dtype=np.float64) / every) for limit in FAINT)
        shares[name] = low, lowest
    return shares


def _probabilities(batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
    return ((name, each) for name, each in batch.predicted.items() if name.endswith(CHANNELS[0]))


def _empty(negative: bool, ignored: bool, masked: bool) -> str:
    """Return the report that no pixel of text counts; `negative`: other pixels do count.

    `ignored`: some pixels are ignored; `masked`: the batch has text, all of it masked out.
    """
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
            " The mask is 0 on all text of the shrink map: is it the wrong way round, 1 on what is"
            " ignored?"
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
    """Say which order the four label maps are in, if it is recognised and not the right one.

    Only the threshold map has values between 0 and 1. It is above its least value in a band along
    the outline of each text. Its mask covers this band, the shrunk text lies inside it, and away
    from it the shrink mask is 1 except on what is ignored. On 1,500 label maps of street
    photographs the threshold mask covered 0.90 of the band or more, the shrunk text 0.23 or less;
    away from the band these two covered 0.06 or less and the shrink mask 0.74 or more.
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
            for name, index in zip(arguments.LABEL_NAMES[1:], found):
                names[index + 1] = name
            in_order = ", ".join(f"labels[{index + 1}]" for index in found)
            return (
                f"expected the order {_ORDER}, and these look like [{', '.join(names)}]. Pass"
                f" [labels[0], {in_order}]."
            )
    if t and least > 0 and greatest < 1:
        return (
            f"expected the order {_ORDER}, and {arguments.label_name(t + 1)} looks like the"
            f" threshold map: its values go from {least:.3g} to {greatest:.3g}, those of"
            f" {arguments.label_name(1)} are 0 or 1. Look where the labels are put together."
        )
    return ""


def _first(pixels: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the indices (image, y, x) of the first pixel that is True."""
    return tuple(map(int, np.unravel_index(pixels.argmax(), pixels.shape)))


def _at(values: NDArray[Any], pixel: tuple[int, ...]) -> str:
    image, y, x = pixel
    return f"{values[pixel]!s} in image {image} at pixel (y, x) = ({y}, {x})"
