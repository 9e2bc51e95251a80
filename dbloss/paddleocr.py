"""Labels, loss, boxes and score with PaddleOCR's signatures, to replace its own.

    python -m dbloss.paddleocr tools/train.py -c configuration.yml -o Global.epoch_num=100

installs them and runs a program of PaddleOCR as `python tools/train.py` would.
"""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import CellType, FunctionType, ModuleType, TracebackType
from typing import Any

from dbloss.base import help as _help

if __name__ == "__main__" and _help.ALONE:
    print(_help.OF_PADDLEOCR, end="")
    sys.exit()

import numpy as np

import dbloss
from dbloss.base import checks
from dbloss.boxes import Boxes, BoxType, ScoreMode, find_boxes
from dbloss.losses.db import DBLoss
from dbloss.score import Hmean
from dbloss.targets.border_map import border_half
from dbloss.targets.make import draw
from dbloss.targets.outlines import Half, Texts
from dbloss.targets.shrink_map import shrink_half

__all__ = [
    "DBLoss",
    "DBPostProcess",
    "DetMetric",
    "MakeBorderMap",
    "MakeShrinkMap",
    "install",
]


class _LabelStep:
    """A step whose shrink ratio grows with the epoch, given by a sample or to the constructor."""

    def __init__(self, shrink_ratio: Any, total_epoch: Any, epoch: Any) -> None:
        self._least = checks.number("shrink_ratio", shrink_ratio)
        self._total = _number("total_epoch", total_epoch, above=0)
        self.shrink_ratio = self._grown(_number("epoch", epoch))
        if self.shrink_ratio >= 1:
            # No error yet: PaddleOCR may build a loader with its seed as the epoch and not use it.
            checks.LOGGER.warning(self._too_much(epoch))

    def _ratio(self, data: Mapping[str, Any]) -> float:
        """Return the ratio for a sample."""
        epoch = _number("epoch", data.get("epoch"))
        if epoch is None or self._total is None:
            return self.shrink_ratio
        ratio = self._grown(epoch)
        if ratio >= 1:
            raise ValueError(self._too_much(epoch))
        return ratio

    def _grown(self, epoch: float | None) -> float:
        if epoch is None or self._total is None:
            return self._least
        return self._least + 0.2 * epoch / self._total

    def _too_much(self, epoch: Any) -> str:
        epoch, total = float(epoch), self._total or 0.0
        return (
            f"{type(self).__name__}: shrink_ratio is {self._grown(epoch):g} at epoch {epoch:g} of"
            f" {total:g}, and has to stay below 1. Some versions of PaddleOCR pass Global.seed as"
            " the epoch, 1024 if there is none: set a seed below"
            f" {(1 - self._least) / 0.2 * total:g}, or leave total_epoch out."
        )


def _number(name: str, value: Any, **bounds: Any) -> float | None:
    """Return a number, or None for None and "None", which PaddleOCR passes for no number."""
    return None if value in (None, "None") else checks.number(name, value, **bounds)


class MakeBorderMap(_LabelStep):
    """Draw threshold map and mask: the half of `make_targets` that is PaddleOCR's border-map step.

    Args:
        shrink_ratio: as in `make_targets`. It grows by `0.2 * epoch / total_epoch` if both are
            given.
        thresh_min: as in `make_targets`.
        thresh_max: as in `make_targets`.
        total_epoch: the number of epochs over which it grows, above 0; None or "None": no growth.
        epoch: the epoch for samples without one of their own; None or "None": no growth.
        **kwargs: left unused: PaddleOCR passes the whole of `Global`. The logger `dbloss` names
            those that come before it.

    Raises:
        TypeError: a setting is no number, or a keyword looks like a known one misspelt, such as
            `shrink_ration`.
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
        _check_keywords(MakeBorderMap, kwargs)
        # Checked here, since PaddleOCR swallows errors in the workers of a data loader.
        border_half(shrink_ratio, thresh_min, thresh_max)
        super().__init__(shrink_ratio, total_epoch, epoch)
        self.thresh_min = thresh_min
        self.thresh_max = thresh_max

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add `threshold_map` and `threshold_mask`, each float32 `[H, W]`, to the data of an image.

        Args:
            data: holds `image`, an array `[H, W, ...]`; `polys`, one `[k, 2]` array of points
                (x, y) in pixels per text; `ignore_tags`, one flag per text; and perhaps `epoch`.
                None of these is changed. A text with a coordinate that is not finite is left out,
                and the logger `dbloss` says so once.

        Returns:
            The same dict.

        Raises:
            TypeError: a polygon or a tag is of the wrong type.
            ValueError: as `make_targets` does, or `shrink_ratio` has grown to 1.
        """
        half = border_half(self._ratio(data), self.thresh_min, self.thresh_max)
        maps, _, _ = _drawn(data, half)
        data.update(maps)
        return data


class MakeShrinkMap(_LabelStep):
    """Draw shrink map and mask: the half of `make_targets` that is PaddleOCR's shrink-map step.

    PaddleOCR's own step clips `polys` to the image and sets `ignore_tags` for texts that are too
    small, both in place; if the border-map step comes after it, it reads both. This one puts new
    arrays with the same content into the data, and leaves the old ones unchanged.

    Args:
        min_text_size: as in `make_targets`.
        shrink_ratio: as in `MakeBorderMap`.
        total_epoch: as in `MakeBorderMap`.
        epoch: as in `MakeBorderMap`.
        text_balance: as in `make_targets`, in [0, 2]. If it is given it adds `text_weights` to the
            data, which are all 1 with 0. PaddleOCR's `KeepKeys` must then name them as the sixth,
            after `shrink_mask`; with `install`, building the steps fails if only one of the two is
            configured.
        **kwargs: as in `MakeBorderMap`.

    Raises:
        TypeError: as in `MakeBorderMap`.
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
        text_balance: float | None = None,
        **kwargs: Any,
    ) -> None:
        _check_keywords(MakeShrinkMap, kwargs)
        shrink_half(shrink_ratio, min_text_size, text_balance)
        super().__init__(shrink_ratio, total_epoch, epoch)
        self.min_text_size, self.text_balance = min_text_size, text_balance

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Add `shrink_map` and `shrink_mask`, each float32 `[H, W]`, to the data of an image.

        If `text_balance` is given it adds `text_weights` too. `polys` and `ignore_tags` become new
        arrays, or lists if they were lists.

        Args:
            data: as in `MakeBorderMap`. A text with a coordinate that is not finite counts as
                ignored.

        Returns:
            The same dict.

        Raises:
            TypeError: a polygon or a tag is of the wrong type.
            ValueError: as `make_targets` does, or `shrink_ratio` has grown to 1.
        """
        half = shrink_half(self._ratio(data), self.min_text_size, self.text_balance)
        maps, texts, undrawable = _drawn(data, half)
        polygons, tags = (
            given.copy() if isinstance(given, np.ndarray) else list(given)
            for given in (data["polys"], data["ignore_tags"])
        )
        for i in undrawable:
            tags[i] = True
        if texts is not None:
            used = (i for i in range(len(tags)) if i not in undrawable)
            spans = zip(texts.outlines.starts, texts.outlines.ends)
            for i, (start, end), tag in zip(used, spans, texts.ignored):
                polygons[i], tags[i] = texts.outlines.points[start:end], bool(tag)
        data.update(maps, polys=polygons, ignore_tags=tags)
        return data


def _drawn(data: Mapping[str, Any], half: Half) -> tuple[dict[str, Any], Texts | None, set[int]]:
    """Return the maps of a step, the texts after it, and the indices of texts it cannot draw."""
    polygons, tags = data["polys"], [bool(tag) for tag in data["ignore_tags"]]
    undrawable = {i for i, polygon in enumerate(polygons) if _is_undrawable(polygon)}
    if undrawable:
        _warn_once_of(data, min(undrawable))
        polygons = [each for i, each in enumerate(polygons) if i not in undrawable]
        tags = [each for i, each in enumerate(tags) if i not in undrawable]
    maps, texts = draw(polygons, tags, *data["image"].shape[:2], half)
    return maps, texts, undrawable


def _is_undrawable(polygon: Any) -> bool:
    """Tell whether a polygon has a coordinate that is NaN, infinite or too far out."""
    try:
        array = np.asarray(polygon)
    except ValueError:  # rows of different lengths, which raise an error later
        return False
    return array.dtype.kind == "f" and not bool((np.abs(array) <= checks.FARTHEST).all())


_said: set[str] = set()  # which of the messages that come once in a process were logged


def _warn_once_of(data: Mapping[str, Any], i: int) -> None:
    """Log that text i cannot be drawn, if it is the first such text in this process."""
    if "undrawable" in _said:
        return
    _said.add("undrawable")
    texts = data.get("texts")
    named = f", {texts[i]!r}," if isinstance(texts, Sequence) and i < len(texts) else ""
    checks.LOGGER.warning(
        "Text %d%s of %s has a coordinate that is not finite, or further out than %d pixels:"
        " %s. It counts as ignored, and so do all others like it, without another message."
        " python -m dbloss.labels lists them all.",
        i,
        named,
        data.get("img_path", "an image"),
        checks.FARTHEST,
        np.asarray(data["polys"][i]).tolist(),
    )


# Names that come first in `Global` in PaddleOCR's configurations, or that are in all of them.
_GLOBAL = {"debug", "model_name", "use_gpu", "use_xpu", "use_npu", "use_mlu", "epoch_num"}
_GLOBAL |= {"log_smooth_window", "print_batch_step", "save_model_dir", "save_epoch_step"}
_GLOBAL |= {"eval_batch_step", "distributed"}


def _check_keywords(step: type, kwargs: Mapping[str, Any]) -> None:
    """Log keywords of a step that nothing reads, and raise for a misspelt one.

    PaddleOCR passes the step's own keywords first and then all of `Global`, which is not logged,
    nor are keywords of its inference programs, which begin with `det_`.
    """
    own = list(takewhile(lambda name: name not in _GLOBAL, kwargs))
    checks.unknown(step, kwargs, reported=[name for name in own if not name.startswith("det_")])


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
        **kwargs: as in `MakeBorderMap`.

    Raises:
        TypeError: a setting is of the wrong type, or a keyword looks like a known one misspelt,
            such as `box_tresh`.
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
        _check_keywords(DBPostProcess, kwargs)
        self.thresh = thresh
        self.box_thresh = box_thresh
        self.max_candidates = max_candidates
        self.unclip_ratio = unclip_ratio
        self.use_dilation = use_dilation
        self.score_mode: ScoreMode = score_mode
        self.box_type: BoxType = box_type
        # Checks the settings now rather than at the first evaluation.
        self._find(np.zeros((1, 1, 1, 1), np.float32))

    def __call__(
        self, outs_dict: Mapping[str, Any], shape_list: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return the boxes of each image in its own pixels.

        Args:
            outs_dict: holds `maps`, `[N, 1, H, W]` or `[N, 3, H, W]`, a Paddle tensor or an array.
            shape_list: for each image its height and width, and two ratios of sizes, which are not
                read.

        Returns:
            For each image `{"points": boxes}`: an int32 array `[n, 4, 2]`, or `[0]` if there are no
            boxes; with `box_type="poly"` a list of lists of points.

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

    Like PaddleOCR's own it counts the images of its process only, since PaddleOCR evaluates in one
    process.

    Args:
        main_indicator: the rate by which PaddleOCR chooses the best model.
        **kwargs: left unused, and the logger `dbloss` names them.

    Attributes:
        main_indicator: the same.

    Raises:
        TypeError: a keyword looks like a known one misspelt.

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
        checks.unknown(DetMetric, kwargs)
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


# Install ----------------------------------------------------------------------------------------

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

    `python -m dbloss.paddleocr tools/train.py -c ...` calls it and runs the program. In
    `tools/train.py`, below `from ppocr.losses import build_loss`, it is one line:

        import dbloss.paddleocr; dbloss.paddleocr.install()

    No configuration changes. In every module that has imported one of PaddleOCR's classes it is
    replaced by the one of this package, and so it is in modules that are imported later. Classes
    that derive from PaddleOCR's `DBLoss`, those of distillation, are replaced by copies that derive
    from `dbloss.DBLoss`. Objects that were built before keep their class. The logger `dbloss` says
    what was replaced, what was not, and why, in PaddleOCR's log file as well. A second call finds
    nothing left to do.

    Args:
        loss: `DBLoss`.
        labels: `MakeBorderMap` and `MakeShrinkMap`. `create_operators`, which builds the steps of a
            loader, then raises if `text_weights` are made by `text_balance` and not kept by
            `KeepKeys`, or kept and not made.
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
        look up a class by its name in their own module.
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
            " `from ppocr.losses import build_loss`, or run"
            " `python -m dbloss.paddleocr tools/train.py -c ...` there."
        ) from error
    _log_to_paddleocr()
    replaced = [
        ours.__name__ for option, home, ours in _PLACES if option in wanted and _put(ours, home)
    ]
    if replaced:
        checks.LOGGER.warning(
            "dbloss %s takes the place of PaddleOCR's %s.", dbloss.__version__, _listed(replaced)
        )


def _put(ours: type, home: str) -> bool:
    """Replace the class of the same name in a module by `ours`; tell whether it was done."""
    name = ours.__name__
    try:
        module = import_module(home)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        found_none = missing and f"{home}.".startswith(f"{error.name}.")  # type: ignore[attr-defined]
        checks.LOGGER.warning(
            "PaddleOCR's %s stays: %s %s: %s: %s.",
            name,
            home,
            "was not found" if found_none else "was found and could not be imported",
            type(error).__name__,
            error,
        )
        return False
    theirs = getattr(module, name, None)
    if theirs is None:
        checks.LOGGER.warning("PaddleOCR's %s stays: it was not found in %s.", name, home)
    if theirs in (None, ours):
        return False
    _replace(theirs, ours)
    if ours is DBLoss:
        _derive(theirs)
    if ours is MakeShrinkMap:
        _check_built_steps()
    return True


def _replace(theirs: Any, ours: Any) -> None:
    """Replace an object in every module, under every name that it has there."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            for name in [name for name, value in list(vars(module).items()) if value is theirs]:
                setattr(module, name, ours)


class _Distilled(DBLoss):
    """The `DBLoss` that the losses of distillation derive from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "distilled" not in _said:
            _said.add("distilled")
            checks.LOGGER.warning(
                "PaddleOCR's distillation losses build DBLoss without arguments: balance_loss,"
                " main_loss_type, alpha, beta, ohem_ratio and eps of their configuration have no"
                " effect, with dbloss or without."
            )

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return what `forward` does, without text weights if it cannot take them."""
        if type(self).__name__ == "DistillationDilaDBLoss" and len(inputs) == 2:
            # It unpacks the labels itself: the image and four others.
            predicts, batch = inputs
            inputs = predicts, batch[:5]
        return super().__call__(*inputs, **kwargs)


def _derive(theirs: type) -> None:
    """Replace each class that derives from PaddleOCR's loss by a copy that derives from `DBLoss`.

    The class itself keeps its bases, so that existing instances go on working.
    """
    derived: list[type] = []
    waiting = [theirs]
    while waiting:
        found: list[type] = waiting.pop().__subclasses__()
        waiting += found
        derived += found
    copies: dict[type, type] = {}
    for each in sorted(set(derived), key=lambda each: len(each.__mro__)):
        distilled = each.__module__ == "ppocr.losses.distillation_loss"
        ours = {theirs: _Distilled if distilled else DBLoss, **copies}
        copies[each] = _copied(each, tuple(ours.get(base, base) for base in each.__bases__))
        _replace(each, copies[each])


def _copied(original: type, bases: tuple[type, ...]) -> type:
    """Return a copy of a class with other bases.

    `super()` without arguments takes the class from a cell of the method's closure. So methods are
    copied too, with a cell that holds the copied class, and so are functions inside decorators.
    """
    functions: dict[FunctionType, FunctionType] = {}
    of_class: list[CellType] = []

    def copied(value: Any) -> Any:
        if isinstance(value, staticmethod | classmethod):
            return type(value)(copied(value.__func__))
        if not isinstance(value, FunctionType) or not value.__closure__:
            return value
        if value not in functions:
            cells = tuple(CellType() for _ in value.__closure__)
            copy = FunctionType(
                value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
            )
            copy.__kwdefaults__ = value.__kwdefaults__
            functools.update_wrapper(copy, value)
            functions[value] = copy
            for cell, old in zip(cells, value.__closure__):
                with suppress(ValueError):  # an empty cell
                    if old.cell_contents is original:
                        of_class.append(cell)
                    else:
                        cell.cell_contents = copied(old.cell_contents)
        return functions[value]

    content = {
        name: copied(value)
        for name, value in vars(original).items()
        if name not in ("__dict__", "__weakref__")
    }
    content["__qualname__"] = original.__qualname__
    copy = type(original)(original.__name__, bases, content)
    for cell in of_class:
        cell.cell_contents = copy
    return copy


def _check_built_steps() -> None:
    """Let PaddleOCR's `create_operators` check that text weights are made if and only if kept.

    If they were made and not kept they would be dropped without a word. If they were kept and not
    made each image would raise a KeyError, and PaddleOCR's data set would try another image each
    time, until a RecursionError.
    """
    theirs = getattr(import_module("ppocr.data.imaug"), "create_operators", None)
    if theirs is None:
        return

    @functools.wraps(theirs)
    def create_operators(*args: Any, **kwargs: Any) -> Any:
        steps = theirs(*args, **kwargs)
        _check_weights(steps)
        return steps

    _replace(theirs, create_operators)


def _check_weights(steps: Iterable[Any]) -> None:
    steps = list(steps)
    balances = [step.text_balance for step in steps if isinstance(step, MakeShrinkMap)]
    keys = [step.keep_keys for step in steps if hasattr(step, "keep_keys")]
    if not balances or not keys:
        return
    kept = any("text_weights" in each for each in keys)
    given = [each for each in balances if each is not None]
    if kept and not given:
        expected = "a text_balance, since KeepKeys keeps text_weights"
        advice = "Set it, to 0 for weights that are all 1, or remove text_weights from keep_keys."
        raise checks.wrong("MakeShrinkMap", expected, "none", advice)
    if not kept and any(checks.number("text_balance", each) > 0 for each in given):
        expected = (
            "text_weights among its keep_keys, after shrink_mask, since MakeShrinkMap has"
            f" text_balance={given[0]}"
        )
        raise checks.wrong("KeepKeys", expected, keys[0], "Add it there, or remove text_balance.")


# The log ----------------------------------------------------------------------------------------


class _IntoPaddleOCRLog(logging.Handler):
    """Writes what `dbloss` logs into PaddleOCR's log file too, which may be opened later."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[logging.LogRecord] = []
        self._theirs = logging.getLogger("ppocr")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it until PaddleOCR has a log file; to stderr as well."""
        others = [*logging.getLogger().handlers, *checks.LOGGER.handlers]
        if logging.lastResort and others == [self]:  # as Python would do without this handler
            logging.lastResort.handle(record)
        self._kept.append(record)
        self.write()

    def write(self, record: logging.LogRecord | None = None) -> bool:
        """Write what was kept. It serves as a filter of PaddleOCR's logger: every record passes."""
        if self._theirs.handlers:
            kept, self._kept = self._kept, []
            files = [x for x in self._theirs.handlers if isinstance(x, logging.FileHandler)]
            for each in kept:
                for file in files:
                    file.handle(each)
        return True


def _log_to_paddleocr() -> None:
    if not any(isinstance(each, _IntoPaddleOCRLog) for each in checks.LOGGER.handlers):
        handler = _IntoPaddleOCRLog()
        checks.LOGGER.addHandler(handler)
        logging.getLogger("ppocr").addFilter(handler.write)


def _listed(names: Sequence[str]) -> str:
    """Return names with commas and "and"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# The command ------------------------------------------------------------------------------------

_PROGRAM = "DBLOSS_PADDLEOCR_PROGRAM"  # environment variable for processes that it spawns


def _run(main: dict[str, Any]) -> None:
    """Run a program in the namespace of the main module, as Python itself does with a script.

    A spawned process runs the module that its parent was started with, which is this one, under
    the name `__mp_main__`.
    """
    spawned = main["__name__"] == "__mp_main__"
    if not spawned:
        del sys.argv[0]
        if sys.argv[:1] in (["-h"], ["--help"]):
            print(_help.OF_PADDLEOCR, end="")
            return
        if not sys.argv or sys.argv[0].startswith("-"):
            print(_help.OF_PADDLEOCR, end="", file=sys.stderr)
            sys.exit(2)
        os.environ[_PROGRAM] = os.path.abspath(sys.argv[0])
        if not getattr(sys.flags, "safe_path", False):  # new in Python 3.11
            sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
    path = os.environ[_PROGRAM]
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        print(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        sys.exit(2)
    if not spawned:
        sys.excepthook = functools.partial(_show, sys.excepthook, path)
    else:
        sys.argv[0] = path
    _install_beside(path)
    for name in set(main) - {"__name__", "__spec__", "__builtins__"}:
        del main[name]
    main.update(__file__=path, __doc__=None, __package__=None, __cached__=None, __loader__=None)
    exec(compile(source, path, "exec", dont_inherit=True), main)


def _install_beside(path: str) -> None:
    """Install into the checkout of PaddleOCR that a program belongs to."""
    roots = [str(each) for each in Path(path).parents if (each / "ppocr/__init__.py").is_file()]
    sys.path[:0] = roots[:1]
    try:
        install()
    except ImportError as error:
        sys.exit(f"{error}\nNo folder above {path} holds it.")
    finally:
        if roots:
            sys.path.remove(roots[0])


def _show(
    show: Callable[..., object],
    path: str,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Show an error with the program's own frames only, without those that started it."""
    while trace and trace.tb_frame.f_code.co_filename != path:
        trace = trace.tb_next
    show(kind, error.with_traceback(trace), trace)


if __name__ in ("__main__", "__mp_main__"):
    # The module of the package, not this copy of it: its classes are the ones to install.
    from dbloss import paddleocr

    paddleocr._run(globals())
