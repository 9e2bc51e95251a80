"""Draws the label maps of an image, and stacks those of a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import ArrayLike

from dbloss.base import checks
from dbloss.targets.border_map import border_half
from dbloss.targets.outlines import Half, Maps, Texts, checked_size, join
from dbloss.targets.shrink_map import checked_balance, shrink_half


class Targets(NamedTuple):
    """The four label maps of one image, each float32 `[height, width]`."""

    threshold_map: Maps
    threshold_mask: Maps
    shrink_map: Maps
    shrink_mask: Maps


class WeightedTargets(NamedTuple):
    """The four label maps of one image and its text weights, each float32 `[height, width]`."""

    threshold_map: Maps
    threshold_mask: Maps
    shrink_map: Maps
    shrink_mask: Maps
    text_weights: Maps


def make_targets(
    polygons: Sequence[ArrayLike],
    ignored: Sequence[bool],
    height: int,
    width: int,
    *,
    shrink_ratio: float = 0.4,
    thresh_min: float = 0.3,
    thresh_max: float = 0.7,
    min_text_size: float = 8,
    text_balance: float = 0,
) -> Targets | WeightedTargets:
    """Return the label maps that PaddleOCR's border-map and shrink-map steps make.

    Both steps move the outline of a polygon by `D = area * (1 - shrink_ratio^2) / perimeter`,
    with round joins and corners on whole pixels.

    Threshold map and mask: the mask is 1 inside each polygon grown by its D. The map is
    `thresh_min + (thresh_max - thresh_min) * max(1 - d / D, 0)`, the greatest over the polygons,
    where d is the least distance of a pixel to an edge: to the line through the edge if the pixel
    sees the edge under an angle of 90 degrees or more, else to its nearer end. Ignored polygons are
    left out.

    Shrink map and mask: polygons are clipped to the image first. The map is 1 inside each polygon
    shrunk by its D; if that leaves no piece or several, the ratio is raised in steps of
    `shrink_ratio`. The mask is 0 inside the polygons that are ignored, and 1 elsewhere. Ignored are
    those that the caller names, those narrower or lower than `min_text_size` or with an area below
    1, and those of which shrinking leaves nothing.

    Text weights, if `text_balance` is above 0: `(200 / a)^text_balance`, clipped to [0.25, 6], on
    the a pixels of a shrunk text, with 20 for a if there are fewer; 1 elsewhere. So the pixels of a
    small word weigh more, and with `text_balance=1` all texts weigh the same, within the clip.
    Where two shrunk texts share a pixel the greater weight counts. PaddleOCR has no such weights.

    Edge cases: without polygons the maps are those of a page without text. The direction of a
    polygon and repeated points make no difference. A polygon of zero area is ignored, and is not in
    the threshold map. If a polygon crosses itself, lobes of opposite direction subtract from its
    area; if growing it gives several pieces, the first is drawn. A polygon partly outside the image
    is cut off in the threshold map and clipped in the shrink map. One wholly outside still reaches
    into the threshold map as far as it grows; clipped, it is a line on the border of the image, and
    ignored in the shrink map.

    The length of an edge is computed in float32 if float32 holds all coordinates exactly, as with
    PaddleOCR's label reader, and in float64 otherwise. As in PaddleOCR, rounding in float32 can
    leave out a pixel that is within a few hundredths of a pixel of the edge.

    It runs in a single thread and keeps no state between calls, so it can run in a forked
    DataLoader worker. Its loops are compiled when the module is imported for the first time; later
    processes load them from disk.

    Args:
        polygons: one `[k, 2]` array or list of lists per text, k >= 3, its points (x, y) in pixels.
            They are never changed.
        ignored: one bool per polygon, True for text that counts neither way.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        shrink_ratio: in [0.01, 1).
        thresh_min: the threshold away from text, in [0, `thresh_max`].
        thresh_max: the threshold on the edge of a text, in [0, 1].
        min_text_size: the least width and height of a text that counts, in pixels.
        text_balance: the exponent of the text weights, in [0, 2]; 0 for no weights.

    Returns:
        `Targets(threshold_map, threshold_mask, shrink_map, shrink_mask)`, each float32
        `[height, width]`; with `text_balance` above 0 `WeightedTargets`, whose fifth map is
        `text_weights`. They share one allocation: copy a map to keep it without the others.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a polygon is not `[k, 2]`, a coordinate is not finite or beyond 2^24, the
            numbers of flags and polygons differ, or a number is out of range.

    Example:
        >>> from dbloss.targets import make_targets
        >>> box = [(34, 38), (94, 38), (94, 58), (34, 58)]
        >>> targets = make_targets([box], [False], height=96, width=128)
        >>> [int(target.sum()) for target in targets[1:]]
        [2373, 441, 12288]
        >>> [round(float(t), 3) for t in targets.threshold_map[36:41, 64]]
        [0.573, 0.637, 0.7, 0.637, 0.573]

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, section "Label generation"; PaddleOCR `ppocr/data/imaug/make_border_map.py`
        and `make_shrink_map.py`.
    """
    border = border_half(shrink_ratio, thresh_min, thresh_max)
    balance = checked_balance(text_balance)
    shrink = shrink_half(shrink_ratio, min_text_size, balance if balance > 0 else None)
    maps, _ = draw(polygons, ignored, height, width, border, shrink)
    return WeightedTargets(**maps) if "text_weights" in maps else Targets(**maps)


def draw(
    polygons: Any, ignored: Any, height: Any, width: Any, *halves: Half
) -> tuple[dict[str, Maps], Texts | None]:
    """Return the maps of the steps by name, and the texts as the last step leaves them."""
    height, width = checked_size("height", height), checked_size("width", width)
    arrays = checks.polygons("polygons", polygons)
    skipped = checks.ignored("ignored", ignored, len(arrays))

    blank = {name: value for half in halves for name, value in half.blank.items()}
    # One large allocation for all maps: the system backs it with large pages, so with fewer.
    maps = dict(zip(blank, np.empty((len(blank), height, width), np.float32)))
    for name, value in blank.items():
        maps[name].fill(value)
    if not arrays:
        return maps, None
    texts = Texts(join(arrays), skipped)
    for half in halves:
        texts = half.draw(texts, **{name: maps[name] for name in half.blank})
    return maps, texts


def stack_targets(targets: Sequence[Sequence[Maps]], image: Any = None) -> list[Any]:
    """Return the labels of a batch, stacked from the label maps of its images.

    With a `paddle.io.DataLoader` it is not needed: a dataset that returns
    `(image, *make_targets(...))` gives batches that `DBLoss` takes as its labels.

    Args:
        targets: what `make_targets` returned for each image, all of one height and width.
        image: the first label, which no loss reads.

    Returns:
        `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`, as `DBLoss` and
        `validate_batch` take them: each but the image a float32 tensor `[N, height, width]`. With
        `WeightedTargets` there is a sixth, `text_weights`.

    Raises:
        TypeError: `targets` are those of a single image, or not arrays.
        ValueError: there is no image, sizes differ, or only some images have weights.

    Example:
        >>> from dbloss import validate_batch
        >>> from dbloss.targets import make_targets, stack_targets
        >>> box = [(34, 38), (94, 38), (94, 58), (34, 58)]
        >>> pages = [make_targets([box], [flag], height=96, width=128) for flag in (False, True)]
        >>> labels = stack_targets(pages)
        >>> validate_batch(None, labels).positive
        (441.0, 0.0)

    Source:
        The batch that PaddleOCR's data loader makes with `KeepKeys` of `image`, `threshold_map`,
        `threshold_mask`, `shrink_map` and `shrink_mask`.
    """
    single = isinstance(targets, Targets | WeightedTargets)
    pages = list(targets)
    if single or not all(isinstance(page, Sequence) for page in pages):
        got = "that of a single image" if single else f"a list of {type(pages[0]).__name__}"
        expected = "a list of what make_targets returned for each image"
        advice = "Pass [make_targets(...)] for a batch of one image."
        raise checks.wrong("targets", expected, got, advice, TypeError)
    if not pages:
        raise checks.wrong("targets", "those of at least one image", "none", "Skip the batch.")
    size = np.shape(pages[0][0])
    for i, page in enumerate(pages):
        if len(page) != len(pages[0]):
            expected = f"{len(pages[0])} maps for each image, as for the first"
            advice = "Make all of them with text_balance, or none."
            raise checks.wrong("targets", expected, f"{len(page)} for image {i}", advice)
        for target in page:
            if np.shape(target) != size:
                expected = f"maps of one size, {list(size)} as the first"
                got = f"{list(np.shape(target))} for image {i}"
                advice = "Resize or pad the images of a batch to one size before make_targets."
                raise checks.wrong("targets", expected, got, advice)
    return [image, *(paddle.to_tensor(np.stack(maps)) for maps in zip(*pages))]
