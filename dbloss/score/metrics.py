"""Precision, recall and hmean from counts of hits, as Paddle metrics."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle
from numpy.typing import ArrayLike, NDArray
from paddle import Tensor

from dbloss.base import checks
from dbloss.base.processes import processes_of
from dbloss.score.matching import IGNORED_SHARE, Match, match, quotient


def rates(hits: Any, found: Any, truth: Any) -> dict[str, NDArray[np.float64]]:
    """Return precision, recall and their harmonic mean, hmean, from counts."""
    precision, recall = quotient(hits, found), quotient(hits, truth)
    hmean = quotient(2 * precision * recall, precision + recall)
    return {"precision": precision, "recall": recall, "hmean": hmean}


class Hmean(paddle.metric.Metric):  # type: ignore[misc]
    """Precision, recall and hmean of the boxes found in any number of images.

    With the sums of `match` over all images, `precision = hits / found`, `recall = hits / truth`
    and their harmonic mean `hmean = 2 * precision * recall / (precision + recall)`; each is 0 where
    it would be 0 / 0.

    `update` adds one image; if it raises, the counts stay as they were. `accumulate` changes
    nothing. With `all_processes=True` it adds up the counts of all processes, and all of them have
    to call it; otherwise each process has the score of its own images.

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
        self.iou = checks.number("iou", iou, least=0, most=1)
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
        return {name: float(rate) for name, rate in rates(*counts).items()}


class MapHmean(paddle.metric.Metric):  # type: ignore[misc]
    """The `Hmean` of predicted maps as a metric of `paddle.Model`: their boxes against the labels'.

    A training loop has label maps and no polygons. So the texts are the boxes that `find_boxes`
    finds in the shrink map. A box or text with more than half of its pixels ignored (shrink mask 0)
    does not count. A model that predicts its labels exactly has `hmean = 1`, whatever the settings,
    if any text counts. It is a score against label maps at the training size, for watching a
    training. To score a test set use `Hmean` with the polygons of its images.

    Args:
        iou: the overlap that a hit exceeds, in [0, 1].
        name: the name of the metric, for a model that has several: with `"strict"` the scores are
            `strict_precision`, `strict_recall` and `strict_hmean`.
        **settings: keywords of `find_boxes`, such as `thresh` and `box_thresh`, but not `height`
            and `width`, since everything is measured in pixels of the maps.

    Raises:
        TypeError: an argument is of the wrong type, or `find_boxes` has no such setting.
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

    _name = ""  # for objects that were pickled by a version without names

    def __init__(self, iou: float = 0.5, name: str = "", **settings: Any) -> None:
        from dbloss.boxes import find_boxes

        super().__init__()
        for size in {"height", "width"} & set(settings):
            expected = "no size, since MapHmean measures in pixels of the maps"
            advice = "Leave it out, or score with Hmean."
            raise checks.wrong_type(size, expected, settings[size], advice)
        self._name = str(name)
        self._hmean = Hmean(iou)
        self._find: Callable[..., Any] = partial(find_boxes, **settings)
        # A wrong setting is then an error here, and not at the first batch.
        find_boxes(np.zeros((1, 1), np.float32), **settings)

    def name(self) -> list[str]:
        """Return the names of what `accumulate` returns."""
        prefix = f"{self._name}_" if self._name else ""
        return [f"{prefix}{rate}" for rate in ("precision", "recall", "hmean")]

    def reset(self) -> None:
        """Forget all images."""
        self._hmean.reset()

    def compute(self, predicts: Any, *labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `update` takes, picked from a batch of `paddle.Model`.

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
        from dbloss.boxes import share_inside

        for p, g, m in zip(probability, shrink_map, shrink_mask):
            ignored = np.asarray(m) == 0
            found, texts = (
                [box for box in boxes.polygons if share_inside(ignored, box) <= IGNORED_SHARE]
                for boxes in (self._find(p), self._find(np.float32(g)))
            )
            self._hmean.update(found, texts, [False] * len(texts))
        return self.accumulate()

    def accumulate(self) -> list[float]:
        """Return precision, recall and hmean of all images since the last reset."""
        return list(self._hmean.accumulate().values())
