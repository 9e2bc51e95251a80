"""A calibration `sigmoid(a * logit(P) + b)` that makes a detector suit given thresholds."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import ArrayLike

from dbloss.base import checks
from dbloss.base.tensors import to_array
from dbloss.score import search
from dbloss.score.bootstrap import Gain
from dbloss.score.search import PADDLEOCR, Counts, Floats

_OWN = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_SLOPES = tuple(2.0 ** (k / 2) for k in range(-4, 9))  # from 1/4 to 16


class Calibration(NamedTuple):
    """`a` and `b` of `sigmoid(a * logit(P) + b)`, and the score of a set of images with them."""

    a: float
    b: float
    own_thresh: float  # the P that becomes `thresh`
    precision: float
    recall: float
    hmean: float


class Calibrations(NamedTuple):
    """The score of a set of images with every pair of `own_thresh` and `a`, at given limits."""

    thresh: float
    box_thresh: float
    own_thresh: Floats  # `[t]`, ascending
    a: Floats  # `[s]`, ascending
    b: Floats  # `[t, s]`
    precision: Floats  # `[t, s]`
    recall: Floats  # `[t, s]`
    hmean: Floats  # `[t, s]`
    counts: Counts  # `[images, t, s, 3]`: hits, boxes found and texts of each image
    gain: Gain | None = None  # of the best calibration over none

    @property
    def best(self) -> Calibration | None:
        """The calibration with the highest hmean; among equals the one that changes P least.

        None if every hmean is 0.
        """
        if not self.hmean.any():
            return None
        i, j = self._best()
        scores = (table[i, j] for table in (self.precision, self.recall, self.hmean))
        return Calibration(*map(float, (self.a[j], self.b[i, j], self.own_thresh[i], *scores)))

    def _best(self) -> tuple[int, int]:
        moved = np.abs(logit(self.own_thresh) - logit(np.float64(self.thresh)))[:, None]
        change = np.where(self.hmean == self.hmean.max(), np.abs(np.log(self.a)) + moved, np.inf)
        i, j = np.unravel_index(change.argmin(), change.shape)
        return int(i), int(j)

    @property
    def edges(self) -> dict[str, str]:
        """Which of the best `own_thresh` and `a` is the `"lowest"` or `"highest"` searched."""
        axes = {"own_thresh": self.own_thresh, "a": self.a}
        return search.edges(axes, (), self.hmean, self._best()) if self.best else {}

    @property
    def remarks(self) -> list[str]:
        """What to know before using the best calibration; `search_calibration` logs it.

        It says if every hmean is 0, if the best lies at the edge of the table, and if its gain over
        no calibration is within noise.
        """
        if not self.best:
            return search.remark_on_zero("calibration is", self.counts)
        said = search.remark_on_edges(self.best._asdict(), self.edges)
        if self.gain and self.best[:2] != (1, 0):
            what = "one, a {:.3g} and b {:.3g}, gains".format(*self.best[:2])
            said += search.remark_on_gain(what, "no calibration", self.gain, len(self.counts))
        return said


def search_calibration(
    maps: Iterable[Any],
    texts: Iterable[Sequence[ArrayLike]],
    ignored: Iterable[Sequence[bool]],
    *,
    thresh: float = PADDLEOCR[0],
    box_thresh: float = PADDLEOCR[1],
    own_thresh: Sequence[float] = _OWN,
    a: Sequence[float] = _SLOPES,
    iou: float = 0.5,
    sizes: Iterable[tuple[int, int]] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Calibrations:
    """Choose a and b of `P' = sigmoid(a * logit(P) + b)` so that a detector suits given limits.

    A detector may be best at limits (thresholds) of its own, and be deployed at others that cannot
    be changed. With a > 0 the calibrated map has the same outlines at `thresh` as P has at
    `own_thresh`, if `b = logit(thresh) - a * logit(own_thresh)`. The slope a says how fast P' rises
    above `thresh` inside them and falls below it outside, and so how far the scores of the boxes
    are from `box_thresh`. The table holds the score for each pair of `own_thresh` and a: that of
    `find_boxes` on P' at the given limits. `fold_calibration` then writes a and b into the network,
    which costs nothing in inference; `calibrate` applies them to a map.

    The logger `dbloss` says, as `Calibrations.remarks` does, if the best lies at the edge of the
    table, if every hmean is 0, so that none is chosen, and if the gain over a = 1, b = 0 is within
    noise (see `search_limits`).

    Outlines and overlaps are found once for each `own_thresh`. Choose on images that were not
    trained on, and measure on yet others.

    Args:
        maps: the probability map of each image, `[H, W]`, as `find_boxes` takes it.
        texts: the texts of each image, as `match` takes them, in pixels of the image.
        ignored: for each image one bool per text, True for text that counts neither way.
        thresh: the given threshold of a pixel, above 0 and below 1.
        box_thresh: the given threshold of a box's score, in [0, 1].
        own_thresh: the values of P that may become `thresh`, each above 0 and below 1; by default
            0.05, 0.1 to 0.9 in steps of 0.1, 0.95, 0.98 and 0.99.
        a: the slopes, each above 0.
        iou: the overlap that a hit exceeds, in [0, 1].
        sizes: the (height, width) of each image, in pixels; None if they are those of the maps.
        progress: whether to show a progress bar, with tqdm.
        **settings: other keywords of `find_boxes`, for every map.

    Returns:
        `Calibrations`, whose `best` is the `Calibration(a, b, own_thresh, precision, recall,
        hmean)` with the highest hmean, among equals the one that changes P least; None if every
        hmean is 0.

    Raises:
        ImportError: `find_boxes` or the progress bar needs a library that is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: a number is out of range, there are not as many maps, texts, flags and sizes, or
            `find_boxes` or `match` refuses an image, which is then named.

    Example:
        >>> import numpy as np
        >>> from dbloss.boxes import find_boxes
        >>> from dbloss.score import calibrate, search_calibration
        >>> page = np.full((64, 128), 0.02, np.float32)
        >>> page[20:40, 20:60] = 0.45  # a text, too faint for a box_thresh of 0.6
        >>> page[20:40, 80:120] = 0.35  # paper with a stain
        >>> text = [(12, 12), (68, 12), (68, 48), (12, 48)]
        >>> best = search_calibration([page] * 9, [[text]] * 9, [[False]] * 9).best
        >>> round(best.a, 2), round(best.b, 2), best.hmean
        (2.0, 0.85, 1.0)
        >>> len(find_boxes(page).polygons), len(find_boxes(calibrate(page, *best[:2])).polygons)
        (0, 1)

    Source:
        Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
        Likelihood Methods", 1999, for the form; a and b are chosen here by the hmean, and there by
        the likelihood.
    """
    from dbloss.boxes import boxes_with_pixels  # needs the libraries of another extra

    thresh = checks.number("thresh", thresh, above=0, below=1)
    box_thresh = checks.number("box_thresh", box_thresh, least=0, most=1)
    levels = search.checked_axis("own_thresh", own_thresh, above=0, below=1)
    slopes = search.checked_axis("a", a, above=0)
    iou = checks.number("iou", iou, least=0, most=1)

    def find(image: search.Image, rows: list[float], columns: list[float]) -> Iterator[search.Row]:
        for level in rows:
            boxes, pixels = boxes_with_pixels(
                image.probability, thresh=level, box_thresh=0, **settings, **image.size
            )
            counts = np.array([each.size for each in pixels], np.int64)
            box = np.repeat(np.arange(len(pixels)), counts)
            logits = logit(np.concatenate([*pixels, np.zeros(0, np.float32)]))
            means = (
                np.bincount(
                    box, sigmoid(slope * logits + _shift(slope, level, thresh)), len(pixels)
                )
                / counts.clip(1)
                for slope in columns
            )
            yield boxes.polygons, [each >= box_thresh for each in means]

    images = search.read_images(
        progress, "calibration", maps=maps, texts=texts, ignored=ignored, sizes=sizes
    )
    counts, usual = search.count_hits(images, levels, slopes, (thresh, 1.0), find, iou)
    rows, columns = np.array(levels), np.array(slopes)
    shifts = _shift(columns, rows[:, None], thresh)
    found = Calibrations(thresh, box_thresh, rows, columns, shifts, *search.tables(counts), counts)
    found = found._replace(gain=search.gain_of(counts, found._best(), usual))
    for remark in found.remarks:
        checks.LOGGER.warning("search_calibration: %s", remark, stacklevel=2)
    return found


def _shift(a: Any, own_thresh: Any, thresh: float) -> Any:
    """Return the b that maps `own_thresh` to `thresh`; exactly 0 if a is 1 and they are equal."""
    return logit(np.float64(thresh)) - a * logit(np.asarray(own_thresh, np.float64))


def logit(p: Any) -> Any:
    """Return `log(p / (1 - p))` in float64, finite at 0 and 1.

    1 is taken to lie half a gap between floats below 1, since larger numbers round to it, and 0 to
    be the least normal float. In float32 their logits are 17.3 and -87.3.
    """
    kind = np.finfo(p.dtype)
    p = p.astype(np.float64)
    return np.log(p.clip(float(kind.tiny))) - np.log((1 - p).clip(float(kind.epsneg) / 2))


def sigmoid(x: Any) -> Any:
    """Return `1 / (1 + exp(-x))`, without an overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def calibrate(probability: Any, a: float, b: float) -> Any:
    """Return the calibrated map `P' = sigmoid(a * logit(P) + b)`.

    It is what a network computes once `fold_calibration` has written a and b into it. Where they
    cannot be folded in, apply this to its maps before `find_boxes`. To keep the logit finite, P = 1
    is taken for a number slightly below it, whose logit is 17.3 in float32, and P = 0 for one with
    logit -87.3. So for a below 1 the result may differ a little from what the network computes from
    its logits.

    Args:
        probability: an array or a Paddle tensor of any shape and float width, in [0, 1]. It is
            never changed.
        a: the slope, above 0.
        b: the shift.

    Returns:
        An array of the same shape, float64 of float64 and float32 otherwise, in [0, 1].

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a or b is not finite, or a is not above 0.

    Example:
        >>> import numpy as np
        >>> from dbloss.score import calibrate
        >>> calibrate(np.float32([0, 0.1, 0.5, 0.9, 1]), 2, 0).round(3).tolist()
        [0.0, 0.012000000104308128, 0.5, 0.9879999756813049, 1.0]

    Source:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    a, b = _checked_parameters(a, b)
    values = to_array(probability) if paddle.is_tensor(probability) else np.asarray(probability)
    if values.dtype.kind != "f":
        advice = "Pass the probability map of a DB head, in [0, 1]."
        raise checks.wrong("probability", "a float dtype", values.dtype, advice, TypeError)
    dtype = np.float64 if values.dtype.itemsize > 4 else np.float32
    return sigmoid(a * logit(values) + b).astype(dtype)


def fold_calibration(layer: Any, a: float, b: float) -> Any:
    """Write a calibration into a detector, so that it returns `sigmoid(a * logit(P) + b)`.

    The last layer of the probability branch computes the logits `z = w * x + c` of P = sigmoid(z).
    Its weight w becomes `a * w` and its bias c becomes `a * c + b`, so that its output is
    `a * z + b`. No operator is added. Do it once, after the training: a second folding comes on top
    of the first, and the threshold map and the binary map, which training needs, are not calibrated
    along with P.

    Args:
        layer: a `DBHead` of PaddleOCR, or a model whose `head` is one; or any last layer of a
            probability branch, with a weight and a bias of one output channel, right before the
            sigmoid. Its parameters are changed in place, in their dtype.
        a: the slope, above 0.
        b: the shift. `search_calibration(...).best[:2]` gives both.

    Returns:
        The layer that was changed.

    Raises:
        TypeError: `layer` is no layer with a weight and a bias, or a number is of the wrong type.
        ValueError: the head is PaddleOCR's `PFHeadLocal`, into which nothing can be folded; the
            layer has several output channels; a or b is out of range, or makes a parameter
            overflow. Nothing is changed then.

    Example:
        >>> import paddle
        >>> from dbloss.score import fold_calibration
        >>> last = paddle.nn.Conv2DTranspose(16, 1, 2, 2)  # model.head.binarize.conv3 in PaddleOCR
        >>> x = paddle.rand([1, 16, 4, 4])
        >>> before = last(x)
        >>> folded = fold_calibration(last, 8, 1.5)
        >>> bool(paddle.allclose(last(x), 8 * before + 1.5, atol=1e-5))
        True

    Source:
        Platt, "Probabilistic Outputs for Support Vector Machines", 1999; PaddleOCR
        `ppocr/modeling/heads/det_db_head.py`.
    """
    a, b = _checked_parameters(a, b)
    last = _last_layer(layer)
    with paddle.no_grad():
        folded = [
            (parameter, (parameter.astype("float64") * a + shift).astype(parameter.dtype))
            for parameter, shift in ((last.weight, 0.0), (last.bias, b))
        ]
        if not all(bool(paddle.isfinite(value).all()) for _, value in folded):
            expected = f"parameters that stay finite in {last.weight.dtype}"
            got = f"an overflow with a = {a:g} and b = {b:g}"
            raise checks.wrong("a, b", expected, got, "Fold them into the float32 weights.")
        for parameter, value in folded:
            parameter.set_value(value)
    return last


def _checked_parameters(a: Any, b: Any) -> tuple[float, float]:
    return checks.number("a", a, above=0), checks.number("b", b)


def _last_layer(layer: Any) -> Any:
    """Return the last layer of the probability branch, whose weight and bias are to change."""
    head = getattr(layer, "_layers", layer)  # of a DataParallel
    head = getattr(head, "head", head)
    if hasattr(head, "cbn_layer"):
        expected = "a DBHead, whose P is one sigmoid"
        got = f"{type(head).__name__}, whose P is the mean of two: no calibration can be folded in"
        advice = "Choose limits with search_limits, or apply dbloss.score.calibrate to its maps."
        raise checks.wrong("layer", expected, got, advice)
    branch = getattr(head, "binarize", head)
    last = getattr(branch, "conv3", branch)
    weight: Any = getattr(last, "weight", None)
    bias: Any = getattr(last, "bias", None)
    if not paddle.is_tensor(weight) or not paddle.is_tensor(bias):
        expected = "a DBHead, or the last layer of a probability branch with a weight and a bias"
        advice = "Pass model.head, or the convolution right before the sigmoid."
        raise checks.wrong("layer", expected, type(last).__name__, advice, TypeError)
    channels = int(np.prod(bias.shape))
    if channels != 1:
        advice = "Pass the last layer of the probability branch alone."
        raise checks.wrong("layer", "one output channel, the logits of P", channels, advice)
    return last
