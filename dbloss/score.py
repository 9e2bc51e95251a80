"""Boxes and texts to precision, recall and hmean, and the limits at which they are best."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import ArrayLike, NDArray
from paddle import Tensor

from dbloss import checks
from dbloss.engine.processes import processes_of
from dbloss.validate import to_array

with checks.needing("dbloss.score", "shapely"):
    import shapely

_Floats = NDArray[np.float64]
_Geometries = NDArray[np.object_]

# A box of which more than this lies in an ignored text does not count.
_IGNORED_SHARE = 0.5

# An overlap this close to the limit is computed as PaddleOCR does, whose rounding decides there.
_CLOSE = 1e-6


class Match(NamedTuple):
    """What of the boxes of one image are hits.

    `found` boxes and `truth` texts count, `hits` of them belong together, and `pairs` are the
    indices (box, text) of those, text by text.
    """

    hits: int
    found: int
    truth: int
    pairs: list[tuple[int, int]]


def match(
    found: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    ignored: Sequence[bool],
    iou: float = 0.5,
) -> Match:
    """Match the boxes found in an image with its texts, as ICDAR 2015 and PaddleOCR do.

    A polygon that crosses itself or has no area is left out, be it a box or a text. A box does not
    count if for an ignored text `area(box ∩ text) / area(box) > 0.5`. Then, text by text in order
    and box by box in order, the first box that is free and has
    `area(box ∩ text) / area(box ∪ text) > iou` is the hit of the text.

    The order of texts and boxes can therefore change the number of hits. Of two equal boxes the
    second counts as a box without a text. A batch is a loop over its images; texts that are padded
    with points, as (0, 0), are left out by themselves.

    The time taken is in proportion to the number of pairs that overlap.

    Args:
        found: one `[k, 2]` array or list of lists per box, k >= 3, its points (x, y) in pixels, as
            the `polygons` that `find_boxes` returns. They are never changed.
        truth: the same per text.
        ignored: one bool per text, True for text that counts neither way.
        iou: the overlap that a hit exceeds, in [0, 1].

    Returns:
        `Match(hits, found, truth, pairs)`: three numbers and a list of pairs of indices into
        `found` and `truth`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a polygon is not `[k, 2]`, a coordinate is not finite or beyond 2^24, the
            number of flags is not that of texts, or `iou` is out of range.

    Example:
        >>> from dbloss.score import match
        >>> left = [(0, 0), (40, 0), (40, 10), (0, 10)]
        >>> right = [(60, 0), (90, 0), (90, 10), (60, 10)]
        >>> near = [(1, 0), (41, 0), (41, 10), (1, 10)]
        >>> match([right, near], [left, right], ignored=[False, False])
        Match(hits=2, found=2, truth=2, pairs=[(1, 0), (0, 1)])
        >>> match([right, near], [left, right], ignored=[True, False])
        Match(hits=1, found=1, truth=1, pairs=[(0, 1)])

    Source:
        Karatzas et al., "ICDAR 2015 Competition on Robust Reading", 2015, section "Text
        Localization"; PaddleOCR `ppocr/metrics/eval_det_iou.py`.
    """
    iou = _checked_limit("iou", iou)
    candidates = _candidates(_boxes(found), _texts(truth, ignored), iou)
    return candidates.match(np.ones(len(candidates.counts), bool))


class _Texts(NamedTuple):
    """The texts of an image; the polygons that are left out are None."""

    polygons: _Geometries
    ignored: NDArray[np.bool_]

    @property
    def counted(self) -> int:
        """How many of them count."""
        return int((~shapely.is_missing(self.polygons) & ~self.ignored).sum())


class _Candidates(NamedTuple):
    """The boxes that count, the number of such texts, and the pairs (box, text) that can be hits.

    The pairs stand in the order in which they are tried. None of this depends on which other boxes
    there are.
    """

    counts: NDArray[np.bool_]
    truth: int
    pairs: list[tuple[int, int]]

    def match(self, kept: NDArray[np.bool_]) -> Match:
        """Return the match of the boxes that are kept."""
        boxes = self.counts & kept
        free = boxes.tolist()
        hits: dict[int, int] = {}
        for box, text in self.pairs:
            if free[box] and text not in hits:
                hits[text] = box
                free[box] = False
        pairs = [(box, text) for text, box in hits.items()]
        return Match(len(pairs), int(boxes.sum()), self.truth, pairs)


@np.errstate(invalid="ignore")  # older builds of GEOS report it for areas that are right
def _candidates(boxes: _Geometries, texts: _Texts, iou: float) -> _Candidates:
    text, box = shapely.STRtree(boxes).query(texts.polygons, predicate="intersects")
    order = np.lexsort((box, text))
    text, box = text[order], box[order]
    areas = shapely.area(boxes)
    counts = ~shapely.is_missing(boxes)

    # Both times the two stand as PaddleOCR has them, since that decides how an area is rounded.
    skipped = texts.ignored[text]
    common = _common(texts.polygons[text[skipped]], boxes[box[skipped]])
    inside = _quotient(common, areas[box[skipped]]) > _IGNORED_SHARE
    counts[box[skipped][inside]] = False

    text, box = text[~skipped], box[~skipped]
    first, second = boxes[box], texts.polygons[text]
    common = _common(first, second)
    overlap = _quotient(common, areas[box] + shapely.area(second) - common)
    close = np.abs(overlap - iou) < _CLOSE
    union = shapely.area(shapely.union(first[close], second[close]))
    overlap[close] = _quotient(common[close], union)
    hits = overlap > iou
    pairs = list(zip(box[hits].tolist(), text[hits].tolist()))
    return _Candidates(counts, texts.counted, pairs)


def _common(first: _Geometries, second: _Geometries) -> _Floats:
    areas: _Floats = shapely.area(shapely.intersection(first, second))
    return areas


def _quotient(above: Any, below: Any) -> _Floats:
    """Return `above / below`, and 0 where `below` is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), below)
    quotient: _Floats = np.divide(above, below, out=np.zeros(above.shape), where=below > 0)
    return quotient


def _boxes(found: Any) -> _Geometries:
    if hasattr(found, "polygons"):
        raise TypeError(
            f"found: expected a sequence of [k, 2] arrays, got {checks.describe(found)}."
            " Pass its `polygons`."
        )
    return _geometries("found", found)


def _texts(truth: Any, ignored: Any) -> _Texts:
    polygons = _geometries("truth", truth)
    return _Texts(polygons, checks.ignored("ignored", ignored, len(polygons)))


def outlines(arrays: Sequence[NDArray[Any]]) -> _Geometries:
    """Return arrays `[k, 2]` as polygons of shapely."""
    if not arrays:
        return np.empty(0, object)
    of = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    points = np.concatenate(arrays, dtype=np.float64)
    made: _Geometries = shapely.polygons(shapely.linearrings(points, indices=of))
    return made


def _geometries(name: str, values: Any) -> _Geometries:
    """Return shapely's polygons, None for each that crosses itself."""
    polygons = outlines(checks.polygons(name, values))
    # A polygon that is valid is also simple, which PaddleOCR asks for too.
    polygons[~shapely.is_valid(polygons)] = None
    return polygons


def _checked_limit(name: str, value: Any) -> float:
    limit: float = checks.number(name, value, least=0, most=1)
    return limit


def _rates(hits: Any, found: Any, truth: Any) -> dict[str, _Floats]:
    """Return precision, recall and hmean of counts."""
    precision, recall = _quotient(hits, found), _quotient(hits, truth)
    hmean = _quotient(2 * precision * recall, precision + recall)
    return {"precision": precision, "recall": recall, "hmean": hmean}


class Hmean(paddle.metric.Metric):  # type: ignore[misc]
    """Precision, recall and hmean of the boxes found in any number of images.

    With the sums of `match` over all images, `precision = hits / found`, `recall = hits / truth`
    and `hmean = 2 * precision * recall / (precision + recall)`; each is 0 where it would be 0 / 0.

    `update` takes one image, and an error in it leaves what is counted as it was. `accumulate`
    changes nothing. With `all_processes=True` it adds up the counts of all processes, and then
    every one of them has to call it; otherwise a process has the score of its own images.

    Args:
        iou: the overlap that a hit exceeds, in [0, 1].
        all_processes: whether `accumulate` gives the score of the images of all processes.
        group: with `all_processes`, the group of processes, as `paddle.distributed.new_group`
            returns it; None for all.
        name: what `name()` returns, and `paddle.Model` shows.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `iou` is out of range, or `group` is given without `all_processes`.

    Example:
        >>> from dbloss.score import Hmean
        >>> metric = Hmean()
        >>> text = [(0, 0), (40, 0), (40, 10), (0, 10)]
        >>> metric.update([text], [text, [(60, 0), (90, 0), (90, 10)]], [False, False])
        Match(hits=1, found=1, truth=2, pairs=[(0, 0)])
        >>> metric.accumulate()
        {'precision': 1.0, 'recall': 0.5, 'hmean': 0.6666666666666666}
        >>> metric.reset()

    Source:
        Karatzas et al., "ICDAR 2015 Competition on Robust Reading", 2015; PaddleOCR
        `ppocr/metrics/det_metric.py` and `eval_det_iou.py`.
    """

    def __init__(
        self,
        iou: float = 0.5,
        all_processes: bool = False,
        group: Any = None,
        name: str = "hmean",
    ) -> None:
        super().__init__()
        self.iou = _checked_limit("iou", iou)
        self.all_processes = checks.flag("all_processes", all_processes)
        self.group = checks.group(group, self.all_processes, "all_processes")
        self._name = str(name)
        self.reset()

    def name(self) -> str:
        """Return the name of the metric."""
        return self._name

    def reset(self) -> None:
        """Forget all images."""
        self._counts = np.zeros(3, np.int64)

    def update(
        self, found: Sequence[ArrayLike], truth: Sequence[ArrayLike], ignored: Sequence[bool]
    ) -> Match:
        """Add one image, and return its match.

        Args:
            found: the boxes found in it, as `match` takes them.
            truth: its texts.
            ignored: one bool per text, True for text that counts neither way.

        Returns:
            `Match(hits, found, truth, pairs)` of this image.

        Raises:
            TypeError: as `match` does. Nothing is added then.
            ValueError: the same.
        """
        matched = match(found, truth, ignored, self.iou)
        self._counts += matched[:3]
        return matched

    def accumulate(self) -> dict[str, float]:
        """Return the score of all images since the last reset.

        Returns:
            `{"precision": ..., "recall": ..., "hmean": ...}`, floats in [0, 1].

        Raises:
            RuntimeError: this process is not one of the group.
        """
        counts = self._counts
        if self.all_processes:
            counts = processes_of(self.group).add_up(paddle.to_tensor(counts)).numpy()
        return {name: float(rate) for name, rate in _rates(*counts).items()}


class MapHmean(paddle.metric.Metric):  # type: ignore[misc]
    """A `Hmean` as a metric of `paddle.Model`: of the boxes in the maps, by those in their labels.

    A trainer has label maps and no polygons. So the texts are the boxes that `find_boxes` finds in
    the shrink map, and those to be ignored the ones it finds where the shrink mask is 0: a model
    that predicts its labels has `hmean = 1`. It is the score of the labels at the size of the
    training, to watch a training by. That of a test set is `Hmean` with the polygons of its images.

    Args:
        iou: the overlap that a hit exceeds, in [0, 1].
        **settings: of `find_boxes`, as `thresh` and `box_thresh`.

    Raises:
        TypeError: an argument is of the wrong type, or a setting has another name.
        ValueError: a number is out of range, or a name is unknown.

    Example:
        >>> import paddle
        >>> from dbloss import DBLoss
        >>> from dbloss.score import MapHmean
        >>> head = paddle.nn.Sequential(paddle.nn.Conv2D(1, 3, 3, padding=1), paddle.nn.Sigmoid())
        >>> model = paddle.Model(head)
        >>> model.prepare(loss=DBLoss(), metrics=MapHmean(thresh=0.3, box_thresh=0.6))

    Source:
        Karatzas et al., "ICDAR 2015 Competition on Robust Reading", 2015; `paddle.Model`.
    """

    def __init__(self, iou: float = 0.5, **settings: Any) -> None:
        from dbloss.boxes import find_boxes

        super().__init__()
        self._hmean = Hmean(iou)
        self._find: Callable[..., Any] = partial(find_boxes, **settings)
        # What is wrong shows now, and not at the first batch.
        find_boxes(np.zeros((1, 1), np.float32), **settings)

    def name(self) -> list[str]:
        """Return the names of what `accumulate` returns."""
        return ["precision", "recall", "hmean"]

    def reset(self) -> None:
        """Forget all images."""
        self._hmean.reset()

    def compute(self, predicts: Any, *labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `update` takes, of what `paddle.Model` has.

        Args:
            predicts: the maps, float `[N, C, H, W]`, channel 0 the probability, or a dict with
                these as `"maps"`.
            labels: the threshold map and mask, the shrink map and mask, each `[N, H, W]`.

        Returns:
            The probability, the shrink map and the shrink mask.
        """
        maps = predicts["maps"] if isinstance(predicts, Mapping) else predicts
        return maps[:, 0], labels[2], labels[3]

    def update(self, probability: Any, shrink_map: Any, shrink_mask: Any) -> list[float]:
        """Add a batch, and return the score so far.

        Args:
            probability: array `[N, H, W]`, in [0, 1].
            shrink_map: array `[N, H, W]`, 1 on shrunk text.
            shrink_mask: array `[N, H, W]`, 0 on pixels to ignore.

        Returns:
            As `accumulate`.

        Raises:
            TypeError: as `find_boxes` does.
            ValueError: the same.
        """
        for p, g, m in zip(probability, shrink_map, shrink_mask):
            found, texts = self._find(p).polygons, self._find(np.float32(g)).polygons
            # The mask is 0 on whole texts, not on shrunk ones.
            ignored = self._find(1 - np.float32(m), unclip_ratio=0, min_size=0).polygons
            flags = [False] * len(texts) + [True] * len(ignored)
            self._hmean.update(found, texts + ignored, flags)
        return self.accumulate()

    def accumulate(self) -> list[float]:
        """Return precision, recall and hmean of all images since the last reset."""
        return list(self._hmean.accumulate().values())


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
    iou = _checked_limit("iou", iou)
    settings["box_thresh"] = box_thresh[0]
    hits, found = np.zeros((2, len(thresh), len(box_thresh)), np.int64)
    total = 0
    for number, image in enumerate(_images(maps, truths, ignored, sizes, progress)):
        try:
            probability, truth, flags, size = image
            texts = _texts(truth, flags)
            if paddle.is_tensor(probability):  # to the host once, and not for each thresh
                probability = to_array(probability)
            for i, limit in enumerate(thresh):
                boxes = find_boxes(probability, thresh=limit, **settings, **size)
                if isinstance(boxes, list):
                    raise ValueError(
                        "maps: expected one map [H, W] per image, got a batch. Pass its maps one"
                        " by one, as maps[0, 0]."
                    )
                candidates = _candidates(_geometries("found", boxes.polygons), texts, iou)
                for j, least in enumerate(box_thresh):
                    matched = candidates.match(boxes.scores >= least)
                    hits[i, j] += matched.hits
                    found[i, j] += matched.found
            total += texts.counted
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {number}: {error}") from error
    return Limits(np.array(thresh), np.array(box_thresh), **_rates(hits, found, total))


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
    limits = sorted({_checked_limit(f"{name}[{i}]", value) for i, value in enumerate(values)})
    if not limits:
        raise ValueError(f"{name}: expected at least one limit, got none. Pass a list of them.")
    return limits
