"""What `search_limits` and `search_calibration` share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray

from dbloss.base import checks
from dbloss.base.tensors import to_array
from dbloss.score.bootstrap import Gain, gain_of_best
from dbloss.score.matching import find_pairs, geometries, texts_of
from dbloss.score.metrics import rates

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]  # `[images, rows, columns, 3]`: hits, boxes found, texts

# For a row of the table: the polygons found, and for each column which of them are kept.
Row = tuple[Sequence[Any], Sequence[NDArray[np.bool_]]]

PADDLEOCR = 0.3, 0.6  # thresh and box_thresh of PaddleOCR's configurations


class Image(NamedTuple):
    """The map of an image, its texts, and its size as keywords of `find_boxes`."""

    probability: Any
    texts: Any
    ignored: Any
    size: dict[str, Any]


def read_images(progress: bool, what: str, **parts: Any) -> Iterator[Image]:
    """Yield the images one by one.

    Args:
        progress: whether to show a progress bar.
        what: what is searched, for the progress bar.
        **parts: the maps, texts, flags and sizes, in this order, by the names of the arguments.
    """
    if parts["sizes"] is None:
        del parts["sizes"]
    count = next((len(part) for part in parts.values() if hasattr(part, "__len__")), None)
    if checks.flag("progress", progress):
        parts["maps"] = _with_progress(parts["maps"], what, count)
    number, missing = 0, object()
    for image in zip_longest(*parts.values(), fillvalue=missing):
        short = [name for name, part in zip(parts, image) if part is missing]
        if short:
            expected = f"as many as {', '.join(parts)}"
            raise checks.wrong(" and ".join(short), expected, number, "Pass one of each per image.")
        size = dict(zip(("height", "width"), image[3])) if len(image) > 3 else {}
        yield Image(image[0], image[1], image[2], size)
        number += 1
    if not number:
        raise checks.wrong(
            "maps", "at least one", "none", "A generator can be read only once: make a new one."
        )


def _with_progress(maps: Iterable[Any], what: str, total: int | None) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ImportError(
            "progress=True needs tqdm, which is not installed. Install it: pip install tqdm"
        ) from error
    bar: Iterable[Any] = tqdm(maps, total=total, desc=what, unit="image")
    return bar


def checked_axis(name: str, values: Any, **bounds: Any) -> list[float]:
    """Return the numbers of an axis of the table in ascending order, without repetitions."""
    if isinstance(values, str | Real) or not np.iterable(values):
        raise checks.wrong_type(
            name, "a sequence of numbers", values, f"Pass a list, as {name}=[0.3, 0.4]."
        )
    numbers = sorted(
        {checks.number(f"{name}[{i}]", value, **bounds) for i, value in enumerate(values)}
    )
    if not numbers:
        raise checks.wrong(name, "at least one number", "an empty list", "Pass some to try.")
    return numbers


def count_hits(
    images: Iterable[Image],
    rows: Sequence[float],
    columns: Sequence[float],
    usual: tuple[float, float],
    find: Callable[[Image, list[float], list[float]], Iterator[Row]],
    iou: float,
) -> tuple[Counts, Counts]:
    """Count the hits, boxes and texts of every image, in each cell of a table and in the usual one.

    The usual cell need not be in the table. If the table has a single cell, so that nothing is
    chosen, that is the usual one.

    Args:
        images: the images.
        rows: the number of each row, ascending.
        columns: the number of each column, ascending.
        usual: the numbers of the usual cell, its row's and its column's.
        find: yields what is found in an image, row by row, for the numbers of rows and columns.
        iou: the overlap that a hit exceeds.

    Returns:
        The counts of the table, `[images, rows, columns, 3]`, and of the usual cell, `[images, 3]`.
    """
    if len(rows) == len(columns) == 1:
        usual = rows[0], columns[0]
    all_rows, all_columns = sorted({*rows, usual[0]}), sorted({*columns, usual[1]})
    counts: list[Any] = []
    for number, image in enumerate(images):
        try:
            texts = texts_of(image.texts, image.ignored)
            if paddle.is_tensor(image.probability):  # copied to the host once, not for each row
                image = image._replace(probability=to_array(image.probability))
            counts.append([])
            for polygons, columns_kept in find(image, all_rows, all_columns):
                pairs = find_pairs(geometries("found", polygons), texts, iou)
                counts[-1].append([pairs.match(kept)[:3] for kept in columns_kept])
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {number}: {error}") from error
    every = np.array(counts, np.int64)
    i, j = [all_rows.index(row) for row in rows], [all_columns.index(each) for each in columns]
    table = every[:, i][:, :, j]
    return table, every[:, all_rows.index(usual[0]), all_columns.index(usual[1])]


def tables(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and hmean of all images, each `[rows, columns]`."""
    precision, recall, hmean = rates(*np.moveaxis(counts.sum(axis=0), -1, 0)).values()
    return precision, recall, hmean


def gain_of(counts: Counts, best: tuple[int, int], usual: Counts) -> Gain | None:
    """Return what the best cell of a table gains over the usual one, None where none was chosen."""
    images, rows, columns, _ = counts.shape
    if rows * columns == 1 or not counts[..., 0].any():
        return None
    return gain_of_best(counts.reshape(images, -1, 3), usual, best[0] * columns + best[1])


def edges(
    axes: Mapping[str, Floats], bounds: Sequence[float], hmean: Floats, best: tuple[int, int]
) -> dict[str, str]:
    """Return at which end of each axis the best cell lies, `"lowest"` or `"highest"`.

    An axis is left out if it has a single number, so that nothing was chosen, if another number is
    as good, or if the range of the argument ends there.

    Args:
        axes: the numbers of the rows and of the columns, by the name of the argument.
        bounds: the ends of the range of the arguments.
        hmean: the table, `[rows, columns]`.
        best: the row and column of the best cell.

    Returns:
        The ends by the names of the axes.
    """
    found: dict[str, str] = {}
    highest = hmean == hmean.max()
    for axis, (name, values) in enumerate(axes.items()):
        equal = np.count_nonzero(highest.any(axis=1 - axis))
        at_end = best[axis] in (0, len(values) - 1)
        if at_end and equal == 1 < len(values) and values[best[axis]] not in bounds:
            found[name] = "highest" if best[axis] else "lowest"
    return found


def remark_on_edges(best: Mapping[str, float], ends: Mapping[str, str]) -> list[str]:
    """Return a remark for each axis on which the best cell lies at the edge of the table."""
    return [
        f"The best {name}, {best[name]:g}, is the {end} that was searched, and a {side} one may be"
        f" better. Search further: add {side} ones to {name}."
        for name, end in ends.items()
        for side in ["lower" if end == "lowest" else "higher"]
    ]


def remark_on_zero(what: str, counts: Counts | None) -> list[str]:
    """Return the remark on a table with no hmean above 0, and the likely cause."""
    return [f"Every hmean is 0, so that no {what} chosen{_why_zero(counts)}"]


def _why_zero(counts: Counts | None) -> str:
    if counts is None:
        return "."
    _, found, truth = counts.max(axis=(1, 2)).sum(axis=0)
    if not truth:
        return ": no text counts. Search on images with texts that are not ignored."
    if not found:
        return (
            ": no box was found anywhere in the table. Search lower limits, or train longer: a"
            " detector that has not learned yet finds nothing."
        )
    return (
        ": boxes were found, and none overlaps a text enough to be a hit. Draw some on an image."
        " If maps and images differ in size, pass `sizes`."
    )


def remark_on_gain(what: str, over: str, gain: Gain, images: int) -> list[str]:
    """Return a remark if a gain over the usual settings is within noise."""
    if gain.low > 0:
        return []
    points, low, high = (f"{100 * each:+.1f}" for each in gain)
    said = f"Over {over} the best {what} {points} points of hmean on "
    if images == 1:
        return [f"{said}this image, and one image tells little of others. Choose on more images."]
    verdict = "within noise. Choose on more images" if gain.hmean >= 0 else "no gain. Search others"
    return [
        f"{said}these {images} images, and between {low} and {high} on others like them (paired"
        f" bootstrap, 95 %): {verdict}, or change nothing."
    ]
