"""The score of a set of images at many limits, `thresh` and `box_thresh`, and the best pair."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dbloss.base import checks
from dbloss.score import search
from dbloss.score.bootstrap import Gain
from dbloss.score.search import PADDLEOCR, Counts, Floats


class Limit(NamedTuple):
    """A pair of limits (thresholds), and the score of a set of images at them."""

    thresh: float
    box_thresh: float
    precision: float
    recall: float
    hmean: float


class Limits(NamedTuple):
    """The score of a set of images at every pair of limits, `thresh` by `box_thresh`."""

    thresh: Floats  # `[t]`, ascending
    box_thresh: Floats  # `[b]`, ascending
    precision: Floats  # `[t, b]`
    recall: Floats  # `[t, b]`
    hmean: Floats  # `[t, b]`
    counts: Counts | None = None  # `[images, t, b, 3]`: hits, boxes found and texts of each image
    gain: Gain | None = None  # of the best pair over PaddleOCR's limits, 0.3 and 0.6

    @property
    def best(self) -> Limit | None:
        """The pair of limits with the highest hmean; among equals the one with the lowest limits.

        None if every hmean is 0: then no pair is better than another.
        """
        return self.at(*self._best()) if np.any(self.hmean) else None

    def _best(self) -> tuple[int, int]:
        i, j = np.unravel_index(np.argmax(self.hmean), np.shape(self.hmean))
        return int(i), int(j)

    def at(self, thresh: float, box_thresh: float) -> Limit:
        """Return the score at a pair of limits.

        Args:
            thresh: one of the values of `thresh`, a float; or its index, an int.
            box_thresh: likewise, of `box_thresh`.

        Returns:
            The pair with its precision, recall and hmean.

        Raises:
            ValueError: the table has no such value.
            IndexError: the table has no such index.
        """
        i = _index("thresh", self.thresh, thresh)
        j = _index("box_thresh", self.box_thresh, box_thresh)
        scores = (table[i][j] for table in (self.precision, self.recall, self.hmean))
        return Limit(*map(float, (self.thresh[i], self.box_thresh[j], *scores)))

    @property
    def edges(self) -> dict[str, str]:
        """Which of the best two limits is the `"lowest"` or `"highest"` that was searched.

        A better pair may then lie beyond it. A limit is left out if another value of it is as
        good, if no other was searched, and at 0 and 1.
        """
        axes = {"thresh": self.thresh, "box_thresh": self.box_thresh}
        return search.edges(axes, (0, 1), np.asarray(self.hmean), self._best()) if self.best else {}

    @property
    def remarks(self) -> list[str]:
        """What to know before using the best pair, a sentence each; `search_limits` logs it.

        It says if every hmean is 0, if the best lies at the edge of the table, and if its gain over
        PaddleOCR's limits is within noise.
        """
        if not self.best:
            return search.remark_on_zero("limits are", self.counts)
        said = search.remark_on_edges(self.best._asdict(), self.edges)
        if self.gain and self.counts is not None and self.best[:2] != PADDLEOCR:
            over = "PaddleOCR's limits, {} and {},".format(*PADDLEOCR)
            what = "ones, {:g} and {:g}, gain".format(*self.best[:2])
            said += search.remark_on_gain(what, over, self.gain, len(self.counts))
        return said


def _index(name: str, values: Floats, wanted: Any) -> int:
    """Return the index of `wanted`, which is a value, or already an index."""
    try:
        return range(len(values))[operator.index(wanted)]
    except TypeError:
        pass  # a value
    except IndexError:
        expected = f"an index below {len(values)}"
        advice = f"An int is an index: for the value {wanted} pass {float(wanted)}."
        raise checks.wrong(name, expected, wanted, advice, IndexError) from None
    wanted = checks.number(name, wanted)
    for i, value in enumerate(values):
        if np.isclose(value, wanted):
            return i
    expected = f"a {name} of the table, {', '.join(f'{value:g}' for value in values)}"
    advice = f"Choose one of these, or search with it among {name}."
    raise checks.wrong(name, expected, f"{wanted:g}", advice)


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
    """Score a set of images at every pair of limits (thresholds), and find the best pair.

    `thresh` is the probability above which a pixel is text, `box_thresh` the mean probability from
    which a box is kept. Their best values differ from model to model and from loss to loss, so a
    comparison of losses at fixed limits partly compares how well the limits suit them. Every cell
    of the table is what `find_boxes` at these limits and `Hmean` give:
    `hmean = 2 * hits / (found + truth)`, the harmonic mean of precision and recall.

    The logger `dbloss` says, as `Limits.remarks` does, if the best pair lies at the edge of the
    table, so that a better one may lie beyond it; if every hmean is 0, so that no pair is chosen;
    and if the gain over PaddleOCR's limits, 0.3 and 0.6, is within noise. For that the images are
    resampled (paired bootstrap), and the gain is lowered by what it owes to choosing and scoring
    on the same images. PaddleOCR's limits are scored too if they are not in the table.

    The boxes of a map are found once for each `thresh`, and so are their overlaps with the texts.
    Maps are read one by one, so that a generator need not hold all of them in memory. Choose limits
    on other images than those of the final score.

    Args:
        maps: the probability map of each image, `[H, W]`, as `find_boxes` takes it.
        truths: the texts of each image, as `match` takes them, in pixels of the image.
        ignored: for each image one bool per text, True for text that counts neither way.
        thresh: the thresholds of a pixel, each in [0, 1].
        box_thresh: the thresholds of a box's score, each in [0, 1].
        iou: the overlap that a hit exceeds, in [0, 1].
        sizes: the (height, width) of each image, in pixels; None if they are those of the maps.
        progress: whether to show a progress bar, with tqdm.
        **settings: other keywords of `find_boxes`, for every map.

    Returns:
        `Limits(thresh, box_thresh, precision, recall, hmean, counts, gain)`: the limits in
        ascending order; three float64 arrays `[len(thresh), len(box_thresh)]`; the counts of each
        image, int64 `[images, len(thresh), len(box_thresh), 3]`; and the `Gain` over PaddleOCR's
        limits. `best` is the best pair with its score, None if every hmean is 0.

    Raises:
        ImportError: `find_boxes` or the progress bar needs a library that is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: a limit is out of range, there are none, there are not as many maps, truths,
            flags and sizes, or `find_boxes` or `match` refuses an image, which is then named.

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
        >>> limits.remarks[0]
        'The best thresh, 0.6, is the highest that was searched, and a higher one may be better. \
Search further: add higher ones to thresh.'

    Source:
        PaddleOCR `ppocr/postprocess/db_postprocess.py`, for the limits, and
        `ppocr/metrics/eval_det_iou.py`; Efron and Tibshirani, "An Introduction to the Bootstrap",
        1993.
    """
    from dbloss.boxes import find_boxes  # needs the libraries of another extra

    def find(image: search.Image, rows: list[float], columns: list[float]) -> Iterator[search.Row]:
        for limit in rows:
            boxes = find_boxes(
                image.probability, thresh=limit, box_thresh=columns[0], **settings, **image.size
            )
            if isinstance(boxes, list):
                advice = "Pass maps[i, 0] for each image i."
                raise checks.wrong("maps", "one map [H, W] per image", "a batch", advice)
            yield boxes.polygons, [boxes.scores >= least for least in columns]

    thresh = search.checked_axis("thresh", thresh, least=0, most=1)
    box_thresh = search.checked_axis("box_thresh", box_thresh, least=0, most=1)
    iou = checks.number("iou", iou, least=0, most=1)
    images = search.read_images(
        progress, "limits", maps=maps, truths=truths, ignored=ignored, sizes=sizes
    )
    counts, usual = search.count_hits(images, thresh, box_thresh, PADDLEOCR, find, iou)
    limits = Limits(np.array(thresh), np.array(box_thresh), *search.tables(counts), counts)
    limits = limits._replace(gain=search.gain_of(counts, limits._best(), usual))
    for remark in limits.remarks:
        checks.LOGGER.warning("search_limits: %s", remark, stacklevel=2)
    return limits
