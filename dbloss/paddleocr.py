"""Labels, loss, boxes and score in the place of PaddleOCR's, with its signatures."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from dbloss import checks
from dbloss.boxes import Boxes, BoxType, ScoreMode, find_boxes
from dbloss.db import DBLoss
from dbloss.score import Hmean
from dbloss.targets import _border_half, _draw, _Half, _shrink_half

__all__ = [
    "DBLoss",
    "DBPostProcess",
    "DetMetric",
    "MakeBorderMap",
    "MakeShrinkMap",
    "install",
]


class MakeBorderMap:
    """Draw threshold map and mask: the half of `make_targets` that is PaddleOCR's border-map step.

    Args:
        shrink_ratio: as in `make_targets`. It grows by `0.2 * epoch / total_epoch` where both are
            given.
        thresh_min: as in `make_targets`.
        thresh_max: as in `make_targets`.
        total_epoch: the epochs over which it grows, above 0. None, also as text, is none.
        epoch: the epoch that it has grown to; the same.
        **kwargs: left unused: PaddleOCR passes the whole of `Global`.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from dbloss.paddleocr import MakeBorderMap
        >>> page = {"image": np.zeros((96, 128, 3), np.uint8), "ignore_tags": [False]}
        >>> page["polys"] = np.float32([[(34, 38), (94, 38), (94, 58), (34, 58)]])
        >>> int(MakeBorderMap()(page)["threshold_mask"].sum())
        2373
        >>> MakeBorderMap(epoch=250, total_epoch=500).shrink_ratio
        0.5

    Source:
        PaddleOCR `ppocr/data/imaug/make_border_map.py`.
    """

    def __init__(
        self,
        shrink_ratio: float = 0.4,
        thresh_min: float = 0.3,
        thresh_max: float = 0.7,
        *,
        total_epoch: float | str | None = None,
        epoch: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        # What is wrong shows where it is built, and not in the worker of a data loader.
        _border_half(shrink_ratio, thresh_min, thresh_max)
        self.shrink_ratio = _grown("MakeBorderMap", shrink_ratio, total_epoch, epoch)
        self.thresh_min = thresh_min
        self.thresh_max = thresh_max

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add `threshold_map` and `threshold_mask`, each float32 `[H, W]`, to the data of an image.

        Args:
            data: holds `image`, an array `[H, W, ...]`; `polys`, one `[k, 2]` array of points
                (x, y) in pixels per text; `ignore_tags`, one flag per text. They are not changed.

        Returns:
            The same dict.

        Raises:
            TypeError: a polygon or a tag is none.
            ValueError: as `make_targets` does, or `shrink_ratio` has grown to 1.
        """
        return _drawn(data, _border_half(self.shrink_ratio, self.thresh_min, self.thresh_max))


class MakeShrinkMap:
    """Draw shrink map and mask: the half of `make_targets` that is PaddleOCR's shrink-map step.

    PaddleOCR's own writes into `polys`, which it clips to the image, and into `ignore_tags`, which
    it sets for texts that are too small. This one leaves both as they are. No step of PaddleOCR's
    configurations reads them after it.

    Args:
        min_text_size: as in `make_targets`.
        shrink_ratio: as in `MakeBorderMap`.
        total_epoch: as in `MakeBorderMap`.
        epoch: as in `MakeBorderMap`.
        text_balance: as in `make_targets`. Above 0 it adds `text_weights` to the data, which
            PaddleOCR's `KeepKeys` must then name as the sixth, after `shrink_mask`.
        **kwargs: as in `MakeBorderMap`.

    Raises:
        TypeError: a setting is no number.
        ValueError: a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from dbloss.paddleocr import MakeShrinkMap
        >>> page = {"image": np.zeros((96, 128, 3), np.uint8), "ignore_tags": [False]}
        >>> page["polys"] = np.float32([[(34, 38), (94, 38), (94, 58), (34, 58)]])
        >>> int(MakeShrinkMap()(page)["shrink_map"].sum())
        441

    Source:
        PaddleOCR `ppocr/data/imaug/make_shrink_map.py`.
    """

    def __init__(
        self,
        min_text_size: float = 8,
        shrink_ratio: float = 0.4,
        *,
        total_epoch: float | str | None = None,
        epoch: float | str | None = None,
        text_balance: float = 0,
        **kwargs: Any,
    ) -> None:
        _shrink_half(shrink_ratio, min_text_size, text_balance)
        self.min_text_size, self.text_balance = min_text_size, text_balance
        self.shrink_ratio = _grown("MakeShrinkMap", shrink_ratio, total_epoch, epoch)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add `shrink_map` and `shrink_mask`, each float32 `[H, W]`, to the data of an image.

        With `text_balance` also `text_weights`.

        Args:
            data: as in `MakeBorderMap`.

        Returns:
            The same dict.

        Raises:
            TypeError: a polygon or a tag is none.
            ValueError: as `make_targets` does, or `shrink_ratio` has grown to 1.
        """
        return _drawn(data, _shrink_half(self.shrink_ratio, self.min_text_size, self.text_balance))


def _grown(step: str, shrink_ratio: Any, total_epoch: Any, epoch: Any) -> float:
    """Return the ratio at an epoch."""
    ratio: float = checks.number("shrink_ratio", shrink_ratio)
    if total_epoch in (None, "None") or epoch in (None, "None"):
        return ratio
    total = checks.number("total_epoch", total_epoch, above=0)
    epoch = checks.number("epoch", epoch)
    grown: float = ratio + 0.2 * epoch / total
    if grown >= 1:
        # No error yet: PaddleOCR may build a loader with its seed and never draw with it.
        checks.LOGGER.warning(
            "%s: shrink_ratio is %g at epoch %g of %g, and has to stay below 1. Some versions of"
            " PaddleOCR pass Global.seed as the epoch, 1024 if there is none: set one below %g, or"
            " leave total_epoch out.",
            step,
            grown,
            epoch,
            total,
            (1 - ratio) / 0.2 * total,
        )
    return grown


def _drawn(data: dict[str, Any], half: _Half) -> dict[str, Any]:
    ignored = [bool(tag) for tag in data["ignore_tags"]]
    data.update(_draw(data["polys"], ignored, *data["image"].shape[:2], half))
    return data


class DBPostProcess:
    """Find the boxes in the maps of a batch, by `find_boxes`.

    Args:
        thresh: as in `find_boxes`; the defaults are those of PaddleOCR's class.
        box_thresh: as in `find_boxes`.
        max_candidates: as in `find_boxes`.
        unclip_ratio: as in `find_boxes`.
        use_dilation: as in `find_boxes`.
        score_mode: as in `find_boxes`.
        box_type: as in `find_boxes`.
        **kwargs: left unused: PaddleOCR passes the whole of `Global`.

    Raises:
        TypeError: a setting is of the wrong type.
        ValueError: a setting is out of range.

    Example:
        >>> import numpy as np
        >>> from dbloss.paddleocr import DBPostProcess
        >>> maps = np.zeros((1, 1, 64, 96), np.float32)
        >>> maps[..., 20:31, 10:61] = 0.9
        >>> find = DBPostProcess(unclip_ratio=1.5)
        >>> find({"maps": maps}, [(128, 192, 0.5, 0.5)])[0]["points"].tolist()
        [[[8, 28], [132, 28], [132, 72], [8, 72]]]

    Source:
        PaddleOCR `ppocr/postprocess/db_postprocess.py`.
    """

    min_size = 3

    def __init__(
        self,
        thresh: float = 0.3,
        box_thresh: float = 0.7,
        max_candidates: int = 1000,
        unclip_ratio: float = 2.0,
        use_dilation: bool = False,
        score_mode: ScoreMode = "fast",
        box_type: BoxType = "quad",
        **kwargs: Any,
    ) -> None:
        self.thresh = thresh
        self.box_thresh = box_thresh
        self.max_candidates = max_candidates
        self.unclip_ratio = unclip_ratio
        self.use_dilation = use_dilation
        self.score_mode: ScoreMode = score_mode
        self.box_type: BoxType = box_type
        # What is wrong shows now, and not at the first evaluation.
        self._find(np.zeros((1, 1, 1, 1), np.float32))

    def __call__(
        self, outs_dict: Mapping[str, Any], shape_list: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return the boxes of each image in its own pixels.

        Args:
            outs_dict: holds `maps`, `[N, 1, H, W]` or `[N, 3, H, W]`, a Paddle tensor or an array.
            shape_list: for each image its height and width, and the two ratios of the maps' size
                to these, which are not read.

        Returns:
            For each image `{"points": boxes}`: an int32 array `[n, 4, 2]`, `[0]` without boxes;
            with `box_type="poly"` a list of lists of points.

        Raises:
            TypeError: the maps are of the wrong type.
            ValueError: as `find_boxes` does.
        """
        rows = shape_list.numpy() if hasattr(shape_list, "numpy") else shape_list
        sizes = {"height": [row[0] for row in rows], "width": [row[1] for row in rows]}
        found = self._find(outs_dict["maps"], **sizes)
        if self.box_type == "poly":
            return [{"points": [each.tolist() for each in boxes.polygons]} for boxes in found]
        return [{"points": np.array(boxes.polygons, np.int32)} for boxes in found]

    def _find(self, maps: Any, **sizes: Any) -> list[Boxes]:
        found: list[Boxes] = find_boxes(
            maps,
            thresh=self.thresh,
            box_thresh=self.box_thresh,
            unclip_ratio=self.unclip_ratio,
            max_candidates=self.max_candidates,
            min_size=self.min_size,
            use_dilation=self.use_dilation,
            score_mode=self.score_mode,
            box_type=self.box_type,
            **sizes,
        )
        return found


class DetMetric:
    """Score the boxes of any number of batches, by `Hmean`.

    As PaddleOCR's own it counts the images of its own process: PaddleOCR evaluates in one alone.

    Args:
        main_indicator: the rate by which PaddleOCR tells the best model.
        **kwargs: left unused.

    Attributes:
        main_indicator: the same.

    Example:
        >>> from dbloss.paddleocr import DetMetric
        >>> metric = DetMetric()
        >>> text = [(0, 0), (40, 0), (40, 10), (0, 10)]
        >>> metric([{"points": [text]}], [None, None, [[text, text[:3]]], [[False, False]]])
        >>> metric.get_metric()
        {'precision': 1.0, 'recall': 0.5, 'hmean': 0.6666666666666666}

    Source:
        PaddleOCR `ppocr/metrics/det_metric.py`.
    """

    def __init__(self, main_indicator: str = "hmean", **kwargs: Any) -> None:
        self.main_indicator = main_indicator
        self._hmean = Hmean()

    def __call__(
        self, preds: Sequence[Mapping[str, Any]], batch: Sequence[Any], **kwargs: Any
    ) -> None:
        """Count the images of a batch.

        Args:
            preds: for each image `{"points": boxes}`, as `DBPostProcess` returns it.
            batch: `[image, shape, polygons, ignore_tags]`: the texts of each image and one flag
                for each of them. The first two are not read.
            **kwargs: left unused.

        Returns:
            Nothing; `get_metric` returns the rates.

        Raises:
            TypeError: as `dbloss.score.match` does.
            ValueError: the same.
        """
        for pred, texts, tags in zip(preds, batch[2], batch[3]):
            self._hmean.update(pred["points"], texts, [bool(tag) for tag in tags])

    def get_metric(self) -> dict[str, float]:
        """Return `precision`, `recall` and `hmean` of all images since the last call, or `reset`.

        Returns:
            A dict of floats in [0, 1].
        """
        rates = self._hmean.accumulate()
        self.reset()
        return rates

    def reset(self) -> None:
        """Forget all images."""
        self._hmean.reset()


# The option of `install`, the module in which PaddleOCR defines the class, and ours.
_PLACES: tuple[tuple[str, str, type], ...] = (
    ("loss", "ppocr.losses.det_db_loss", DBLoss),
    ("labels", "ppocr.data.imaug.make_border_map", MakeBorderMap),
    ("labels", "ppocr.data.imaug.make_shrink_map", MakeShrinkMap),
    ("boxes", "ppocr.postprocess.db_postprocess", DBPostProcess),
    ("score", "ppocr.metrics.det_metric", DetMetric),
)


def install(loss: bool = True, labels: bool = True, boxes: bool = True, score: bool = True) -> None:
    """Put dbloss in the place of PaddleOCR's own labels, loss, boxes and score.

    In `tools/train.py`, below `from ppocr.losses import build_loss`, it is one line:

        import dbloss.paddleocr; dbloss.paddleocr.install()

    No configuration changes. Every module that has PaddleOCR's class by name gets the one of this
    package, and so does every module that is imported later. The classes that derive from its
    `DBLoss`, those of distillation, derive from `dbloss.DBLoss` from then on. What is built before
    stays as it is. The logger `dbloss` says what was replaced, and what was not found. A second
    call finds nothing left to do.

    Args:
        loss: `DBLoss`.
        labels: `MakeBorderMap` and `MakeShrinkMap`.
        boxes: `DBPostProcess`, which `DistillationDBPostProcess` builds for itself.
        score: `DetMetric`, which `DistillationMetric` builds for itself.

    Returns:
        Nothing.

    Raises:
        ImportError: PaddleOCR's package `ppocr` cannot be imported.
        TypeError: an option is neither True nor False.

    Example:
        >>> import dbloss.paddleocr; dbloss.paddleocr.install()  # doctest: +SKIP

    Source:
        PaddleOCR `build_loss`, `create_operators`, `build_post_process` and `build_metric`, which
        look a class up by its name among those that their module has imported.
    """
    options = {"loss": loss, "labels": labels, "boxes": boxes, "score": score}
    wanted = {name for name, value in options.items() if checks.flag(name, value)}
    try:
        import_module("ppocr")
    except ModuleNotFoundError as error:
        if error.name != "ppocr":
            raise
        raise ImportError(
            "install: expected PaddleOCR's package ppocr, which is not on sys.path. Call it in"
            " tools/train.py of a checkout of PaddleOCR, below the line"
            " `from ppocr.losses import build_loss`."
        ) from error
    for option, home, ours in _PLACES:
        if option in wanted:
            _put(ours, home)


def _put(ours: type, home: str) -> None:
    """Put a class in the place of the one of its name in a module, and wherever else that is."""
    name = ours.__name__
    try:
        theirs = getattr(import_module(home), name)
    except (ImportError, AttributeError) as error:
        checks.LOGGER.warning("PaddleOCR's %s was not found and stays: %s.", name, error)
        return
    if theirs is ours:
        return
    places = []
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            for key in [key for key, value in list(vars(module).items()) if value is theirs]:
                setattr(module, key, ours)
                places.append(module.__name__)
    checks.LOGGER.warning("PaddleOCR's %s is that of dbloss now, in %s.", name, _listed(places))
    if ours is DBLoss:
        _rebase(theirs)


def _rebase(theirs: type) -> None:
    """Let what derives from PaddleOCR's loss derive from `DBLoss`."""
    derived: list[type] = theirs.__subclasses__()
    for each in derived:
        each.__bases__ = tuple(DBLoss if base is theirs else base for base in each.__bases__)
    if derived:
        checks.LOGGER.warning("%s derive from it.", _listed([each.__name__ for each in derived]))
    if any(each.__module__ == "ppocr.losses.distillation_loss" for each in derived):
        checks.LOGGER.warning(
            "PaddleOCR's distillation losses build it without arguments: balance_loss,"
            " main_loss_type, alpha, beta, ohem_ratio and eps of their configuration reach"
            " nothing, with dbloss or without."
        )


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them."""
    *first, last = sorted(names)
    return f"{', '.join(first)} and {last}" if first else last
