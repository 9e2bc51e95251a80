"""PaddleOCR's label files: a reader, and what is wrong with the labels of a whole file.

`python -m dbloss.labels Label.txt` prints a summary; `--out` writes a table and a contact sheet.
"""

import argparse
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dbloss import checks

with checks.needing("dbloss.labels", "cv2", "shapely", "PIL", "tqdm"):
    import cv2
    import shapely
    from PIL import Image
    from tqdm import tqdm

from dbloss.score import outlines
from dbloss.targets import shrink

_Array: TypeAlias = NDArray[Any]
_Header: TypeAlias = "tuple[int, int] | str"  # height and width of an image, or why it has none

IGNORED = ("###", "*")  # what PaddleOCR's label reader ignores

KINDS = {
    "unreadable-line": "a line or an entry that PaddleOCR cannot read",
    "missing-image": "an image that is not there, or that cannot be read",
    "repeated-image": "an image listed twice",
    "few-points": "fewer than 3 points",
    "not-finite": "a coordinate that is not a finite number",
    "crossing": "an outline that crosses itself",
    "no-area": "less than half a pixel thick",
    "normalised": "coordinates between 0 and 1, not in pixels",
    "outside": "wholly outside the image",
    "ignored-name": "marked as ignored, but not by a name that PaddleOCR knows",
    "partly-outside": "a point outside the image",
    "repeated-text": "a text given twice",
    "whole-page": "a text over more than half of the image",
    "nested": "a text within another",
    "too-small": "narrower or lower than min_text_size at the training size",
    "gone": "nothing left after shrinking at the training size",
    "touching": "two texts that become one after shrinking",
    "no-text": "an image without text that counts",
    "all-ignored": "an image whose texts are all ignored",
    "mostly-ignored": "an image with more ignored texts than others",
}

_THICKNESS = 0.5  # pixels
_BEYOND = 0.5  # pixels; less is rounding
_SAME = 0.9  # intersection over union of a text given twice; share of a text within another
_MOST_OF_PAGE = 0.5
_FARTHEST = 1e6  # pixels; where nothing can be anyway
_OTHER_MARKS = {
    "dontcare",
    "donotcare",
    "ignore",
    "ignored",
    "illegible",
    "unreadable",
    "\u5f85\u8bc6\u522b",  # PPOCRLabel's "to be recognised"
}
_SIDES = (0, 4, 8, 12, 16, 24, 32, 64, np.inf)  # of the histogram, in pixels
_SIZES = (640, 736, 960, 1280, 1600, 1920)


class Text(NamedTuple):
    """One entry of a label file."""

    transcription: str
    points: NDArray[np.float32]  # `[k, 2]`, (x, y) in pixels; nothing has been checked
    ignored: bool  # by one of the names that PaddleOCR knows, `###` and `*`
    marked: str = ""  # "name" or "difficult" if marked as ignored in a way PaddleOCR does not know


class Page(NamedTuple):
    """One line of a label file."""

    line: int  # its number, from 1
    images: tuple[str, ...]  # as the line names it; several, where PaddleOCR takes one by chance
    texts: list[Text]
    fault: str | None  # why PaddleOCR cannot read the line; `texts` is then empty
    entry: int | None = None  # of the fault, from 1

    @property
    def image(self) -> str:
        """The first of its images, "" where the line has none."""
        return self.images[0] if self.images else ""


class Problem(NamedTuple):
    """What is wrong with a line or with one of its entries."""

    line: int  # from 1
    entry: int | None  # from 1; None for a fault of the whole line
    kind: str  # one of `KINDS`
    place: str  # the image, and left, top, right, bottom of the text in its pixels
    advice: str  # what was found, and what to do


def read_labels(file: str | os.PathLike[str]) -> list[Page]:
    r"""Return the lines of a label file as PaddleOCR reads them.

    A line is the path of an image, a tab, and a list in JSON of texts, each with a
    `"transcription"` and `"points"`. In place of the path a list of paths in JSON may stand. Lines
    that PaddleOCR cannot read, empty ones too, are returned with the reason as their `fault`:
    PaddleOCR logs an error there and trains on another line.

    Args:
        file: the label file.

    Returns:
        A `Page` for each line: page i is line i + 1.

    Raises:
        OSError: the file cannot be opened.
        ValueError: no line can be read.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from dbloss.labels import read_labels
        >>> file = Path(mkdtemp(), "Label.txt")
        >>> entries = '[{"transcription": "word", "points": [[8, 9], [70, 9], [70, 30], [8, 30]]}]'
        >>> _ = file.write_text(f"img_1.jpg\t{entries}\nimg_2.jpg")
        >>> pages = read_labels(file)
        >>> pages[0].image, pages[0].texts[0].transcription, pages[0].texts[0].points.shape
        ('img_1.jpg', 'word', (4, 2))
        >>> pages[1].fault
        "no tab after the image's path"

    Source:
        PaddleOCR `ppocr/data/simple_dataset.py`, and `DetLabelEncode` in
        `ppocr/data/imaug/label_ops.py`.
    """
    content = Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = content.removesuffix(b"\n").split(b"\n")
    pages = [_read_line(number, line) for number, line in enumerate(lines, start=1)]
    if all(page.fault for page in pages):
        raise ValueError(
            f"{file}: expected lines of an image's path, a tab and a list in JSON, got none"
            f" among {len(pages)}; line 1: {pages[0].fault}. Pass the label file of a detector."
        )
    return pages


def read_texts(listed: str) -> list[Text]:
    """Return the texts of a list in JSON; a `FaultyEntry` says what PaddleOCR cannot read."""
    try:
        entries = json.loads(listed)
    except RecursionError:
        raise FaultyEntry("a list in JSON that is nested too deeply") from None
    except ValueError as error:
        if not isinstance(error, json.JSONDecodeError):
            raise FaultyEntry(f"a number that Python does not read: {error}") from None
        near = listed[max(error.pos - 20, 0) : error.pos + 20]
        place = f"line {error.lineno}, column" if "\n" in listed.strip() else "column"
        raise FaultyEntry(
            f"broken JSON, {error.msg!r} at {place} {error.colno} of the list, near {near!r}"
        ) from None
    if not isinstance(entries, list):
        raise FaultyEntry(f"expected a list of texts in JSON, got {listed.strip()[:40]!r}")
    return [_read_entry(number, entry) for number, entry in enumerate(entries, start=1)]


class FaultyEntry(ValueError):  # noqa: N818
    """What PaddleOCR cannot read, with the number of the entry if it is that of one."""

    entry: int | None = None


def _read_line(number: int, content: bytes) -> Page:
    def faulty(fault: str, entry: int | None = None) -> Page:
        return Page(number, images, [], fault, entry)

    images: tuple[str, ...] = ()
    try:
        line = content.decode()
    except UnicodeDecodeError as error:
        return faulty(f"not UTF-8: the byte 0x{content[error.start]:02X} at {error.start + 1}")
    if not line.strip():
        return faulty("an empty line")
    name, *columns = line.split("\t")
    images = (name,)
    if not columns:
        return faulty("no tab after the image's path")
    if name.startswith("["):
        try:
            images = tuple(map(str, json.loads(name)))
        except (json.JSONDecodeError, TypeError):
            return faulty(f"a list of image paths that is no JSON: {name[:40]!r}")
    if not all(images) or not images:
        return faulty("no path of an image before the tab")
    try:
        return Page(number, images, read_texts(columns[0]), None)
    except FaultyEntry as error:
        more = "; PaddleOCR reads up to the second tab" if len(columns) > 1 else ""
        return faulty(f"{error}{more}", error.entry)


def _read_entry(number: int, entry: Any) -> Text:
    try:
        if not isinstance(entry, dict) or not {"transcription", "points"} <= entry.keys():
            keys = f"the keys {sorted(entry)}" if isinstance(entry, dict) else repr(entry)[:60]
            raise FaultyEntry(f'expected a dict with "transcription" and "points", got {keys}')
        text, listed = entry["transcription"], entry["points"]
        points = _read_points(listed) if isinstance(listed, list) else None
        if points is None:
            raise FaultyEntry(
                f'expected "points" [[x, y], ...] of numbers, got {listed!r:.60} for {text!r}'
            )
    except FaultyEntry as error:
        error.entry = number
        raise
    ignored = text in IGNORED
    marked = ""
    if not ignored:
        marked = "name" if _is_other_mark(text) else "difficult" * (entry.get("difficult") is True)
    return Text(text if isinstance(text, str) else json.dumps(text), points, ignored, marked)


def _read_points(listed: list[Any]) -> NDArray[np.float32] | None:
    """Return points `[k, 2]`, None if they are none. What float32 cannot hold is infinite."""
    if not listed:
        return np.zeros((0, 2), np.float32)
    try:
        points = np.array(listed, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        points = np.array([[np.inf, np.inf] for _ in listed])
    except (TypeError, ValueError):
        return None
    with np.errstate(over="ignore"):
        single = points.astype(np.float32)
    return single if single.ndim == 2 and single.shape[1] == 2 else None


def _is_other_mark(text: Any) -> bool:
    if not isinstance(text, str):
        return text is None
    letters = "".join(filter(str.isalpha, text.lower()))
    bare = text.strip()
    repeated = len(bare) > 1 and set(bare) in ({"#"}, {"*"})
    return not bare or repeated or bare in IGNORED or letters in _OTHER_MARKS


class _Settings(NamedTuple):
    size: tuple[int, int]
    min_text_size: float
    shrink_ratio: float
    ignore: frozenset[str]


class _Measured(NamedTuple):
    """What a page is to a training at its size."""

    sides: list[float]  # of the texts that should count, in pixels
    saved: list[float]  # the sides of the too small ones that shrinking would leave something of
    share: float  # of its pixels that are text


class Report(NamedTuple):
    """What is in a label file, and what is wrong with it."""

    file: Path
    folder: Path  # from which the paths of images start
    size: tuple[int, int]
    min_text_size: float
    pages: list[Page]
    problems: list[Problem]
    sides: NDArray[np.float64]  # of each text that should count, at `size`, in pixels
    saved: NDArray[np.float64]  # of those that are too small, but would be left by shrinking
    text_share: float  # mean over the images, of pixels that the shrink map has as text

    def counts(self) -> dict[str, int]:
        """Return how many problems there are of each kind that there is."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def summary(self) -> str:
        """Return the report in a few lines: problems by kind, sizes of words, advice."""
        return "\n".join(_summary(self))

    def write(self, folder: str | os.PathLike[str], most: int = 24) -> list[Path]:
        """Write `problems.csv` and `contact-sheet.png` into a folder, and return their paths.

        The contact sheet is written where there is a text to show; it shows at most `most`.
        """
        # Pictures are matplotlib's, which reading labels does without.
        from dbloss.plot.problems import plot_problems

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        written = [out / "problems.csv"]
        with written[0].open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(Problem._fields)
            table.writerows(self.problems)
        figure = plot_problems(self, most=most)
        if figure is not None:
            written.append(out / "contact-sheet.png")
            figure.savefig(written[1], dpi=100)
        return written


def check_labels(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] = (640, 640),
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
    ignore: Collection[str] = (),
    progress: bool = False,
) -> Report:
    r"""Return all that is wrong with a label file of PaddleOCR.

    A text has the first of its causes in the order of `dbloss.labels.KINDS`, and not what follows
    from it. The sizes of images are read from their headers. What depends on the training size is
    that of the image scaled to fit it, as a crop of all of it would be; PaddleOCR's random crops
    show words at this size or larger. Of texts that are ignored only the outline matters; two of
    them may be the same, or lie within each other.

    An image that is missing has no size: of its texts what needs none is checked.

    Args:
        file: the label file.
        images: the folder from which its paths start, `data_dir` in a configuration. None is the
            folder of the label file.
        size: height and width of the training crops, in pixels.
        min_text_size: as for `make_targets`, in pixels.
        shrink_ratio: as for `make_targets`.
        ignore: kinds that are no problem here. A text has the next of its causes then.
        progress: whether to show a progress bar on stderr.

    Returns:
        A `Report`: its `problems` in the order of lines and entries, `counts()`, `summary()`, and
        `write(folder)`.

    Raises:
        OSError: the label file cannot be opened.
        TypeError: an argument is of the wrong type.
        ValueError: no line of it can be read, a kind is unknown, or a number is out of range.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from dbloss.labels import check_labels
        >>> file = Path(mkdtemp(), "Label.txt")
        >>> points = [[8, 9], [70, 9], [8, 30], [70, 30]]  # top left, top right, bottom left, ...
        >>> entries = f'[{{"transcription": "word", "points": {points}}}]'
        >>> _ = file.write_text(f"img_1.jpg\t{entries}")
        >>> report = check_labels(file, ignore=["missing-image"])
        >>> problem = report.problems[0]
        >>> problem.line, problem.entry, problem.kind, problem.place
        (1, 1, 'crossing', 'img_1.jpg: 8, 9 to 70, 30')
        >>> problem.advice
        'The outline crosses itself. Give its points in the order 1, 2, 4, 3.'

    Source:
        What PaddleOCR makes of a label: `ppocr/data/simple_dataset.py`,
        `ppocr/data/imaug/label_ops.py`, `random_crop_data.py` and `make_shrink_map.py`.
    """
    height, width = (checks.number("size", side, least=1, whole=True) for side in size)
    min_text_size = checks.number("min_text_size", min_text_size, least=0)
    shrink_ratio = checks.number("shrink_ratio", shrink_ratio, least=0.01, below=1)
    unwanted = frozenset(checks.choice("ignore", kind, tuple(KINDS)) for kind in ignore)
    settings = _Settings((height, width), min_text_size, shrink_ratio, unwanted)
    file = Path(file)
    folder = file.parent if images is None else Path(images)
    pages = read_labels(file)
    problems: list[Problem] = []
    measured: list[_Measured] = []
    seen: dict[str, int] = {}
    with file.open("rb") as content:
        marked = content.read(3) == b"\xef\xbb\xbf"
    for page in tqdm(pages, unit=" images", disable=None if progress else True, leave=False):
        start = _BYTE_ORDER_MARK if marked and page.line == 1 else None
        headers = [_read_header(folder / name) for name in page.images]
        for kind, advice in _line_problems(page, folder, headers, seen, start):
            if kind not in unwanted:
                problems.append(Problem(page.line, page.entry, kind, page.image, advice))
        if page.fault is None:
            # Of several images for a line one is taken by chance: they are of one size.
            image = next((header for header in headers if not isinstance(header, str)), None)
            found, made = _check_page(page, image, settings)
            problems += found
            measured += [] if made is None else [made]
    return Report(
        file,
        folder,
        settings.size,
        min_text_size,
        pages,
        problems,
        np.array([side for made in measured for side in made.sides]),
        np.array([side for made in measured for side in made.saved]),
        float(np.mean([made.share for made in measured])) if measured else 0.0,
    )


_BYTE_ORDER_MARK = (
    "The file starts with a byte order mark, which PaddleOCR takes for a part of the first"
    " image's path. Save it as UTF-8 without one."
)


def _line_problems(
    page: Page, folder: Path, headers: Sequence[_Header], seen: dict[str, int], start: str | None
) -> Iterator[tuple[str, str]]:
    """Yield kind and advice of what is wrong with a line and its images."""
    if start:
        yield "unreadable-line", start
    if page.fault:
        yield "unreadable-line", f"{page.fault[0].upper()}{page.fault[1:]}. {_LINE_ADVICE}"
        return
    for name, header in zip(page.images, headers):
        if isinstance(header, str):
            yield "missing-image", header + _folder_advice(folder, name)
        first = seen.setdefault(os.path.normpath(name), page.line)
        if first != page.line:
            yield (
                "repeated-image",
                f"{name} is in line {first} too. Leave one line, with all of its texts.",
            )


_LINE_ADVICE = "PaddleOCR trains on another line in its place. Correct it, or leave it out."


def _read_header(path: Path) -> _Header:
    """Return height and width of an image, turned as its EXIF data says, as OpenCV does it.

    Only its first bytes are read. Of what PaddleOCR cannot read the reason is returned.
    """
    if not path.is_file():
        return f"There is no file {path}."
    try:
        with Image.open(path) as image:
            width, height = image.size
            # The method of the base: that of PNG would read all pixels first.
            turned = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, Image.DecompressionBombError):
        width = height = 0
    if not width or not cv2.haveImageReader(str(path)):
        return f"{path} is no image that OpenCV can read. Convert it, or fetch it anew."
    return (width, height) if turned else (height, width)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return an image as PaddleOCR reads it, in RGB `[h, w, 3]`, turned as its EXIF data says."""
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise ValueError(f"{path}: expected an image, got a file that OpenCV cannot read as one.")
    turned: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return turned


def _folder_advice(folder: Path, name: str) -> str:
    """Return where an image is that was looked for in the wrong folder, or what to do."""
    if (folder / name).exists():
        return ""
    for other in (folder.resolve().parent, folder / "images"):
        if (other / name).is_file():
            return f" Pass --images {other}, the folder that the paths start from."
    return " Correct the path, or pass with --images the folder that the paths start from."


def check_page(
    page: Page,
    height: int,
    width: int,
    *,
    size: tuple[int, int] | None = None,
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
) -> list[Problem]:
    """Return what is wrong with the texts of one image of `height` x `width` pixels.

    The other arguments are those of `check_labels`; the training size None is that of the image.
    """
    settings = _Settings(size or (height, width), min_text_size, shrink_ratio, frozenset())
    return _check_page(page, (height, width), settings)[0]


class _Causes:
    """Of each text the first cause that was found, but for kinds that are ignored."""

    def __init__(self, page: Page, ignore: frozenset[str]) -> None:
        self.page, self.ignore = page, ignore
        self.found: dict[int | None, tuple[str, str]] = {}

    def blame(self, kind: str, entry: int | None, advice: str) -> None:
        if kind not in self.ignore:
            self.found.setdefault(entry, (kind, advice))

    def problems(self) -> list[Problem]:
        """Return those of the line first, then those of its entries, in order."""
        listed = sorted(self.found.items(), key=lambda item: -1 if item[0] is None else item[0])
        return [
            Problem(
                self.page.line,
                None if i is None else i + 1,
                kind,
                self.page.image if i is None else _place(self.page, i),
                advice,
            )
            for i, (kind, advice) in listed
        ]


def _place(page: Page, i: int) -> str:
    points = page.texts[i].points
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return page.image
    (left, top), (right, bottom) = finite.min(axis=0), finite.max(axis=0)
    return f"{page.image}: {left:.7g}, {top:.7g} to {right:.7g}, {bottom:.7g}"


def _check_page(
    page: Page, image: tuple[int, int] | None, settings: _Settings
) -> tuple[list[Problem], _Measured | None]:
    """Return what is wrong with the texts of a page, and what a training has of it."""
    causes = _Causes(page, settings.ignore)
    texts = page.texts
    ignored = np.array([text.ignored for text in texts], bool)
    whole = _find_unfit(causes, texts)
    sound = _check_outlines(causes, texts, whole)
    inside = _check_place(causes, texts, sound, image)
    for i, text in enumerate(texts):
        if text.marked:
            causes.blame("ignored-name", i, _name_advice(text))
    _check_edges(causes, texts, inside, image)
    related = _check_pairs(causes, texts, inside, image)
    wanted = [i for i in whole if not ignored[i]]
    measured, counting = None, wanted
    if image is not None:
        measured, counting = _check_training(
            causes, texts, wanted, set(inside), related, image, settings
        )
    _check_balance(causes, ignored, len(counting))
    return causes.problems(), measured


def _find_unfit(causes: _Causes, texts: list[Text]) -> list[int]:
    """Return the texts that have an outline at all."""
    whole = []
    for i, text in enumerate(texts):
        if len(text.points) < 3:
            causes.blame(
                "few-points",
                i,
                f"{len(text.points)} points have no inside. Give the corners of the text in order,"
                " 4 of a box.",
            )
        elif not np.isfinite(text.points).all():
            wrong = int(np.flatnonzero(~np.isfinite(text.points).all(axis=1))[0])
            causes.blame(
                "not-finite",
                i,
                f"Point {wrong + 1} is {text.points[wrong].tolist()}. Correct it.",
            )
        else:
            whole.append(i)
    return whole


def _outlines(texts: list[Text], chosen: Sequence[int]) -> _Array:
    """Return the chosen texts as polygons of shapely."""
    # Closed here: a ring that shapely closes itself must have 3 points that differ.
    return outlines([np.concatenate((texts[i].points, texts[i].points[:1])) for i in chosen])


def _check_outlines(causes: _Causes, texts: list[Text], whole: list[int]) -> list[int]:
    """Return the texts whose outline has an inside and does not cross itself."""
    polygons = _outlines(texts, whole)
    hulls = shapely.convex_hull(polygons)
    # Of a thin text the perimeter is twice its length. The hull has an area even where an outline
    # that crosses itself has none.
    thickness = 2 * shapely.area(hulls) / np.maximum(shapely.length(hulls), 1e-9)
    valid = shapely.is_valid(polygons)
    sound = []
    for i, thick, fits in zip(whole, thickness, valid):
        points = texts[i].points
        if points.min() >= 0 and points.max() <= 1 and np.ptp(points, axis=0).min() > 0:
            causes.blame(
                "normalised",
                i,
                "All coordinates are between 0 and 1. Multiply x by the width of the image and y"
                " by its height: PaddleOCR reads pixels.",
            )
        elif thick < _THICKNESS:
            causes.blame(
                "no-area",
                i,
                f"It is {thick:.2g} pixels thick. Draw it anew around the text, or leave it out.",
            )
        elif not fits:
            causes.blame("crossing", i, _crossing_advice(points))
        else:
            sound.append(i)
    return sound


def _crossing_advice(points: _Array) -> str:
    n = len(points)
    if n == 4:
        orders = [[0, 1, 3, 2], [0, 2, 1, 3]]
    else:  # both sides of a line of text given from left to right
        orders = [[*range(n // 2), *reversed(range(n // 2, n))]]
    made = [shapely.Polygon(points[order].astype(np.float64)) for order in orders]
    fitting = [(p.area, order) for p, order in zip(made, orders) if p.is_valid and p.area > 0]
    if not fitting:
        return "The outline crosses itself. Draw it anew around the text."
    order = ", ".join(str(place + 1) for place in max(fitting)[1])
    return f"The outline crosses itself. Give its points in the order {order}."


def _name_advice(text: Text) -> str:
    known = " or ".join(IGNORED)
    if text.marked == "name":
        read = f"PaddleOCR reads {text.transcription!r} as a text that counts."
    else:
        read = f"PaddleOCR does not read that it is difficult: {text.transcription!r} counts."
    return f"{read} Write {known} if it is to be ignored."


def _frame(image: tuple[int, int] | None) -> tuple[float, float]:
    """Return height and width of an image; of one that is missing no text is outside."""
    return image or (np.inf, np.inf)


def _check_place(
    causes: _Causes, texts: list[Text], sound: list[int], image: tuple[int, int] | None
) -> list[int]:
    """Return the texts of which something is in the image."""
    height, width = _frame(image)
    inside = []
    for i in sound:
        (left, top), (right, bottom) = texts[i].points.min(axis=0), texts[i].points.max(axis=0)
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            causes.blame(
                "outside",
                i,
                f"It is outside the image, {_describe_size(image)}. Are these the labels of this"
                " image, at this size?",
            )
        else:
            inside.append(i)
    return inside


def _describe_size(image: tuple[int, int] | None) -> str:
    if image is None:
        return "which starts at 0, 0"
    return f"{image[1]} pixels wide and {image[0]} high"


def _check_edges(
    causes: _Causes, texts: list[Text], inside: list[int], image: tuple[int, int] | None
) -> None:
    height, width = _frame(image)
    for i in inside:
        points = texts[i].points
        over = np.maximum(-points, points - np.array((width, height))).max()
        if over > _BEYOND:
            seen = ": PaddleOCR's random crop does not see it there, and may cut through it"
            causes.blame(
                "partly-outside",
                i,
                f"It reaches {over:.3g} pixels beyond the image, {_describe_size(image)}."
                f" Cut it off at the border{seen if points.min() < 0 else ''}.",
            )


def _check_pairs(
    causes: _Causes, texts: list[Text], inside: list[int], image: tuple[int, int] | None
) -> set[tuple[int, int]]:
    """Return the pairs that are one text, or one within the other."""
    height, width = _frame(image)
    polygons = _outlines(texts, inside)
    limits = np.minimum((width, height), _FARTHEST)
    visible = shapely.intersection(polygons, shapely.box(0, 0, *limits))
    area = shapely.area(visible)
    first, second = _near(visible)
    overlap = shapely.area(shapely.intersection(visible[first], visible[second]))
    union = area[first] + area[second] - overlap
    related = set()
    pairs = list(zip(first.tolist(), second.tolist(), overlap, union))
    for a, b, common, both in pairs:
        i, j = inside[a], inside[b]
        if common > _SAME * both > 0:
            related.add((i, j))
            if not (texts[i].ignored and texts[j].ignored):
                causes.blame(
                    "repeated-text",
                    j,
                    f"It covers what entry {i + 1} covers, {texts[i].transcription!r}: the IoU is"
                    f" {common / both:.2f}. Leave one of them.",
                )
    for i, covered in zip(inside, area / (height * width)):
        if covered > _MOST_OF_PAGE:
            causes.blame(
                "whole-page",
                i,
                f"It covers {covered:.0%} of the image. Give each word or line its own outline.",
            )
    for a, b, common, _ in pairs:
        inner, outer = (a, b) if area[a] <= area[b] else (b, a)
        i, j = inside[inner], inside[outer]
        pair = (min(i, j), max(i, j))
        if common > _SAME * area[inner] > 0 and pair not in related:
            related.add(pair)
            if not (texts[i].ignored and texts[j].ignored):
                causes.blame("nested", i, _nested_advice(texts[i], texts[j], j))
    return related


def _nested_advice(inner: Text, outer: Text, place: int) -> str:
    where = f"It lies within entry {place + 1}, {outer.transcription!r}"
    if outer.ignored:
        return f"{where}, which is ignored: nothing of it is trained. Leave one of them."
    if inner.ignored:
        return f"{where}, and its pixels are taken from that text. Leave one of them."
    return f"{where}: both become one text. Leave the word or the line, the same in all images."


def _near(shapes: _Array, distance: float = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs first < second of shapes that are as near as `distance`."""
    tree = shapely.STRtree(shapes)
    if distance:
        first, second = tree.query(shapes, predicate="dwithin", distance=distance)
    else:
        first, second = tree.query(shapes, predicate="intersects")
    once = first < second
    order = np.lexsort((second[once], first[once]))
    return first[once][order], second[once][order]


def _check_training(
    causes: _Causes,
    texts: list[Text],
    wanted: list[int],
    inside: set[int],
    related: set[tuple[int, int]],
    image: tuple[int, int],
    settings: _Settings,
) -> tuple[_Measured, list[int]]:
    """Return what the training has of a page, and its texts that count there."""
    scale = min(settings.size[0] / image[0], settings.size[1] / image[1])
    at = f"at {settings.size[0]} x {settings.size[1]}"
    polygons = [(texts[i].points * np.float64(scale)).clip(-_FARTHEST, _FARTHEST) for i in wanted]

    def shrunk(chosen: list[_Array], least: float) -> Any:
        ratio = settings.shrink_ratio
        return shrink(chosen, *settings.size, shrink_ratio=ratio, min_text_size=least)

    made = shrunk(polygons, settings.min_text_size)
    sides, saved = [], []
    for i, polygon, (side, too_small, pieces) in zip(wanted, polygons, made):
        if i in inside:
            sides.append(side)
            if too_small and shrunk([polygon], 0)[0].pieces:
                saved.append(side)
        if too_small:
            causes.blame(
                "too-small",
                i,
                f"It is {side:.1f} pixels high or wide {at}, below {settings.min_text_size:g}, and"
                " is ignored there. Train at a larger size, lower min_text_size, or write ###.",
            )
        elif not pieces:
            causes.blame(
                "gone",
                i,
                f"Shrinking {at} leaves nothing of it, for it is so thin, and it is ignored there."
                " Train at a larger size, or write ###.",
            )
    canvas = np.zeros(settings.size, np.uint8)
    for _, _, pieces in made:
        for piece in pieces:
            cv2.fillPoly(canvas, [piece], 1)
    share = np.count_nonzero(canvas) / max(image[0] * image[1] * scale**2, 1)
    _check_touching(causes, texts, wanted, [pieces for _, _, pieces in made], related, at)
    counting = [i for i, (_, _, pieces) in zip(wanted, made) if pieces]
    return _Measured(sides, saved, float(share)), counting


def _check_touching(
    causes: _Causes,
    texts: list[Text],
    wanted: list[int],
    made: list[list[_Array]],
    related: set[tuple[int, int]],
    at: str,
) -> None:
    """Find the texts whose shrunk pixels are neighbours, be it by a corner."""
    pieces = [piece for listed in made for piece in listed]
    owners = [i for i, listed in zip(wanted, made) for _ in listed]
    if len(pieces) < 2:
        return
    boxes = [(*piece.min(axis=0), *piece.max(axis=0)) for piece in pieces]
    for a, b in zip(*_near(shapely.box(*np.array(boxes, float).T), 1.5)):
        i, j = owners[a], owners[b]
        if i == j or (i, j) in related or not _are_neighbours(pieces[a], pieces[b]):
            continue
        for place, other in ((j, i), (i, j)):
            if place not in causes.found:
                causes.blame(
                    "touching",
                    place,
                    f"Shrunk {at}, it touches entry {other + 1}, {texts[other].transcription!r}:"
                    " they become one text. Draw them apart, train at a larger size, or lower"
                    " the shrink ratio.",
                )
                break


def _are_neighbours(one: _Array, other: _Array) -> bool:
    corner = np.minimum(one.min(axis=0), other.min(axis=0)) - 1
    across, down = np.maximum(one.max(axis=0), other.max(axis=0)) - corner + 2
    drawn = []
    for piece in (one, other):
        canvas = np.zeros((down, across), np.uint8)
        cv2.fillPoly(canvas, [(piece - corner).astype(np.int32)], 1)
        drawn.append(canvas)
    return bool((cv2.dilate(drawn[0], np.ones((3, 3), np.uint8)) & drawn[1]).any())


def _check_balance(causes: _Causes, ignored: NDArray[np.bool_], counting: int) -> None:
    """Find out whether a page has text that counts."""
    n_ignored = int(ignored.sum())
    if not len(ignored):
        causes.blame(
            "no-text",
            None,
            "No texts: PaddleOCR leaves such an image out and trains on another in its place."
            " Leave out the line, or label its texts.",
        )
    elif n_ignored == len(ignored):
        causes.blame(
            "all-ignored",
            None,
            f"All {n_ignored} texts are ignored: nothing here is learnt as text. Leave out the"
            " line, or write what can be read.",
        )
    elif not counting:
        causes.blame(
            "no-text",
            None,
            f"{len(ignored) - n_ignored} of its {len(ignored)} texts are not ignored, and none of"
            " these counts: each has a fault of its own or is too small. Correct them, train at a"
            " larger size, or leave out the line.",
        )
    elif n_ignored > len(ignored) - n_ignored:
        causes.blame(
            "mostly-ignored",
            None,
            f"{n_ignored} of its {len(ignored)} texts are ignored. Write what can be read.",
        )


def _summary(report: Report) -> Iterator[str]:
    texts = [text for page in report.pages for text in page.texts]
    ignored = sum(text.ignored for text in texts)
    height, width = report.size
    yield (
        f"{report.file}: {len(report.pages):,} lines, {len(texts):,} texts,"
        f" {ignored:,} of them ignored"
    )
    yield ""
    counts = report.counts()
    if not counts:
        yield "no problems"
    for kind, count in counts.items():
        lines = len({problem.line for problem in report.problems if problem.kind == kind})
        yield f"{count:8,}  {kind:16} in {lines:,} lines: {KINDS[kind]}"
    if not len(report.sides):
        return
    yield ""
    yield f"the {len(report.sides):,} texts that count, by the lesser of height and width in pixels"
    yield f"where an image is scaled to fit {height} x {width} (height x width):"
    numbers, _ = np.histogram(report.sides, _SIDES)
    for least, most, count in zip(_SIDES, _SIDES[1:], numbers.tolist()):
        name = f"{least:g} and more" if most == np.inf else f"{least:g} to {most:g}"
        bar = "#" * round(40 * count / max(numbers)) or "." * (count > 0)
        yield f"{name:>12}  {count:6,}  {bar}".rstrip()
    yield f"text is {report.text_share:.2%} of the pixels of an image, after shrinking"
    yield from _size_advice(report)


def _size_advice(report: Report) -> Iterator[str]:
    least, sides = report.min_text_size, report.sides
    small = int((sides < least).sum())
    if not small:
        return
    yield ""
    yield (
        f"{small:,} of them ({small / len(sides):.1%}) are below min_text_size={least:g}, and"
        " ignored. They would be fewer with"
    )
    height, width = report.size
    for side in (side for side in _SIZES if side > max(report.size)):
        factor = side / max(report.size)
        left = int((sides * factor < least).sum())
        name = f"--size {round(height * factor)} {round(width * factor)}"
        yield f"  {name:20}  {left:,} ({left / len(sides):.1%})"
        if not left:
            break
    lower = f"{least / 2:g}"
    left = small - int((report.saved >= least / 2).sum())
    yield f"  {f'--min-text-size {lower}':20}  {left:,} ({left / len(sides):.1%})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dbloss.labels",
        description="Say what is wrong with a label file of PaddleOCR: lines, images and texts.",
        epilog="Kinds of problems: "
        + "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
        + ". Exit status: 0 no problems, 1 problems, 2 the file cannot be read.",
    )
    parser.add_argument(
        "labels", metavar="LABELS", type=Path, help="the label file, as PaddleOCR reads it"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="the folder from which its paths start (default: that of LABELS)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        default=[640, 640],
        help="of the training crops, in pixels (default: 640 640)",
    )
    parser.add_argument(
        "--min-text-size",
        type=float,
        default=8,
        metavar="PIXELS",
        help="the least width and height of a text that counts, at --size (default: 8)",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="write problems.csv and contact-sheet.png there"
    )
    parser.add_argument(
        "--ignore",
        metavar="KIND",
        action="append",
        default=[],
        choices=KINDS,
        help="a kind that is no problem here; may be given several times",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        report = check_labels(
            args.labels,
            args.images,
            size=tuple(args.size),
            min_text_size=args.min_text_size,
            ignore=args.ignore,
            progress=True,
        )
        print(report.summary())
        if args.out:
            print("\nwritten:", ", ".join(map(str, report.write(args.out))))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    # The classes of the module, not second ones of the program.
    from dbloss.labels import main as run

    sys.exit(run())
