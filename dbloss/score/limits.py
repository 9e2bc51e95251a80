"""The score of a set of images over the limits of pixels and boxes, and the best of them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import ArrayLike, NDArray

from dbloss import checks
from dbloss.score.matching import find_pairs, geometries, texts_of
from dbloss.score.metrics import rates
from dbloss.validate import to_array

_Floats = NDArray[np.float64]


class Limit(NamedTuple):
    """A pair of limits, and the score of a set of images at them."""

    thresh: float
    box_thresh: float
    precision: float
    recall: float
    hmean: float


class Limits(NamedTuple):
    """The score of a set of images at every pair of limits, `thresh` by `box_thresh`."""

    thresh: _Floats  # `[t]`, ascending
    box_thresh: _Floats  # `[b]`, ascending
    precision: _Floats  # `[t, b]`
    recall: _Floats  # `[t, b]`
    hmean: _Floats  # `[t, b]`

    @property
    def best(self) -> Limit:
        """The pair of limits with the highest hmean; of equal ones the lowest."""
        return self.at(*np.unravel_index(self.hmean.argmax(), self.hmean.shape))

    def at(self, i: Any, j: Any) -> Limit:
        """Return the score at `thresh[i]` and `box_thresh[j]`."""
        rates = (table[i, j] for table in (self.precision, self.recall, self.hmean))
        return Limit(*map(float, (self.thresh[i], self.box_thresh[j], *rates)))


def search_limits(
    maps: Iterable[Any],
    truths: Iterable[Sequence[ArrayLike]],
    ignored: Iterable[Sequence[bool]],
    *,
    thresh: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6),
    box_thresh: Sequence[float] = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    iou: float = 0.5,
    sizes: Iterable[tuple[int, int]] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Limits:
    """Score a set of images at every pair of limits, and find the pair that is best.

    `thresh` is the probability above which a pixel is text, `box_thresh` the mean probability from
    which a box is kept. Their best values differ from model to model and from loss to loss, so that
    a comparison at fixed limits can compare the limits. Every cell of the table is what
    `find_boxes` at these limits and `Hmean` give, `hmean = 2 * hits / (found + truth)`.

    The boxes of a map are found once for each `thresh`, and so are their overlaps with the texts.
    Maps are taken one by one, so that a generator need not hold the set in memory. Choose limits on
    images that are not those of the final score.

    Args:
        maps: the probability map of each image, `[H, W]`, as `find_boxes` takes it.
        truths: the texts of each image, as `match` takes them, in pixels of the image.
        ignored: for each image one bool per text, True for text that counts neither way.
        thresh: the limits of a pixel, each in [0, 1].
        box_thresh: the limits of a box, each in [0, 1].
        iou: the overlap that a hit exceeds, in [0, 1].
        sizes: the (height, width) of each image, in pixels; None where they are those of the maps.
        progress: whether to show a progress bar, with tqdm.
        **settings: other keywords of `find_boxes`, for every map.

    Returns:
        `Limits(thresh, box_thresh, precision, recall, hmean)`: the limits in ascending order, and
        three float64 arrays `[len(thresh), len(box_thresh)]`. `best` is the best cell.

    Raises:
        ImportError: `find_boxes` or the progress bar needs a library that is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: a limit is out of range, there are none, there are not as many maps, truths,
            flags and sizes, or `find_boxes` or `match` refuse those of an image, which is named.

    Example:
        >>> import numpy as np
        >>> from dbloss.score import search_limits
        >>> page = np.full((64, 128), 0.1, np.float32)
        >>> page[20:40, 20:60] = 0.9  # a text
        >>> page[20:40, 80:120] = 0.5  # paper with a stain
        >>> text = [(12, 12), (68, 12), (68, 48), (12, 48)]
        >>> limits = search_limits([page], [[text]], [[False]], thresh=[0.3, 0.6], box_thresh=[0.4])
        >>> limits.precision.tolist()
        [[0.5], [1.0]]
        >>> limits.best
        Limit(thresh=0.6, box_thresh=0.4, precision=1.0, recall=1.0, hmean=1.0)

    Source:
        PaddleOCR `ppocr/postprocess/db_postprocess.py`, for the limits, and
        `ppocr/metrics/eval_det_iou.py`.
    """
    from dbloss.boxes import find_boxes  # whose libraries are those of another extra

    thresh, box_thresh = (
        _checked_limits(*each) for each in (("thresh", thresh), ("box_thresh", box_thresh))
    )
    iou = checks.number("iou", iou, least=0, most=1)
    settings["box_thresh"] = box_thresh[0]
    hits, found = np.zeros((2, len(thresh), len(box_thresh)), np.int64)
    total = 0
    for number, image in enumerate(_images(maps, truths, ignored, sizes, progress)):
        try:
            probability, truth, flags, size = image
            texts = texts_of(truth, flags)
            if paddle.is_tensor(probability):  # to the host once, and not for each thresh
                probability = to_array(probability)
            for i, limit in enumerate(thresh):
                boxes = find_boxes(probability, thresh=limit, **settings, **size)
                if isinstance(boxes, list):
                    raise ValueError(
                        "maps: expected one map [H, W] per image, got a batch. Pass its maps one"
                        " by one, as maps[0, 0]."
                    )
                pairs = find_pairs(geometries("found", boxes.polygons), texts, iou)
                for j, least in enumerate(box_thresh):
                    matched = pairs.match(boxes.scores >= least)
                    hits[i, j] += matched.hits
                    found[i, j] += matched.found
            total += texts.counted
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {number}: {error}") from error
    return Limits(np.array(thresh), np.array(box_thresh), **rates(hits, found, total))


def _images(
    maps: Any, truths: Any, ignored: Any, sizes: Any, progress: bool
) -> Iterator[tuple[Any, Any, Any, dict[str, Any]]]:
    """Yield the map, the texts, the flags and the size, as keywords, of each image."""
    parts = {"maps": maps, "truths": truths, "ignored": ignored, "sizes": sizes}
    if sizes is None:
        del parts["sizes"]
    count = next((len(part) for part in parts.values() if hasattr(part, "__len__")), None)
    if checks.flag("progress", progress):
        parts["maps"] = _with_progress(maps, count)
    number, missing = 0, object()
    for image in zip_longest(*parts.values(), fillvalue=missing):
        short = [name for name, part in zip(parts, image) if part is missing]
        if short:
            raise ValueError(
                f"{' and '.join(short)}: expected as many as {', '.join(parts)}, got {number}."
                " Pass one of each per image."
            )
        height_and_width = dict(zip(("height", "width"), image[3])) if len(image) > 3 else {}
        yield *image[:3], height_and_width
        number += 1
    if not number:
        raise ValueError(
            "maps: expected at least one, got none. A generator that was read before is empty:"
            " make a new one."
        )


def _with_progress(maps: Iterable[Any], total: int | None) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ImportError(
            "progress=True needs tqdm, which is not installed. Install it: pip install tqdm"
        ) from error
    bar: Iterable[Any] = tqdm(maps, total=total, desc="limits", unit="image")
    return bar


def _checked_limits(name: str, values: Any) -> list[float]:
    """Return limits in ascending order."""
    if isinstance(values, str | Real) or not np.iterable(values):
        raise TypeError(
            f"{name}: expected a sequence of limits, got {checks.describe(values)}."
            f" Pass a list, as {name}=[0.3, 0.4]."
        )
    limits = sorted(
        {checks.number(f"{name}[{i}]", value, least=0, most=1) for i, value in enumerate(values)}
    )
    if not limits:
        raise ValueError(f"{name}: expected at least one limit, got none. Pass a list of them.")
    return limits
