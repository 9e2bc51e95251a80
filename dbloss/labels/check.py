"""Checks a whole label file."""

import os
import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dbloss.base import checks
from dbloss.labels import shared
from dbloss.labels.images import Header, read_header
from dbloss.labels.page import Measured, Settings, examine
from dbloss.labels.read import Page, read_labels, shown
from dbloss.labels.report import KINDS, Problem, Report


def check_labels(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    size: int | tuple[int, int] = (640, 640),
    min_text_size: float = 8,
    shrink_ratio: float = 0.4,
    ignore: Collection[str] = (),
    progress: bool = False,
    delimiter: str = "\t",
    read_images: bool = False,
) -> Report:
    r"""Return all that is wrong with a label file of PaddleOCR.

    Of several problems a text has only the first in the order of `dbloss.labels.KINDS`, since the
    others may follow from it. A problem that most texts of a page or of the file share is reported
    once: they fit at another scale, with x and y swapped, mirrored, turned or moved, or belong to
    other images. For that the pixels of 64 images, spread over the file, are looked at.

    The size of an image is the one OpenCV gives it, read from its header if that leaves no doubt.
    For an image that is missing only what needs no size is checked.

    Checks at the training size scale the whole image to fit it; PaddleOCR's random crops show words
    at this size or larger. Of ignored texts only the outline is checked; two of them may be the
    same, or lie within each other.

    Args:
        file: the label file.
        images: the folder that its paths start from, `data_dir` in a configuration. None is the
            folder of the label file.
        size: height and width of the training crops, in pixels; one number is both.
        min_text_size: as for `make_targets`, in pixels.
        shrink_ratio: as for `make_targets`.
        ignore: kinds of problems to leave out. A text then has the next of its problems.
        progress: whether to show a progress bar on stderr.
        delimiter: as for `read_labels`.
        read_images: whether to read every image with OpenCV, which finds those that are damaged
            inside.

    Returns:
        A `Report`: its `problems` in the order of lines and entries, those of the whole file first,
        its `remarks` on what need not be changed, `counts()`, `summary()`, and `write(folder)`.

    Raises:
        OSError: the label file cannot be opened.
        TypeError: an argument is of the wrong type.
        ValueError: no line of the file can be read, a kind is unknown, or a number is out of range.

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
    min_text_size = checks.number("min_text_size", min_text_size, least=0)
    shrink_ratio = checks.number("shrink_ratio", shrink_ratio, least=0.01, below=1)
    unwanted = frozenset(checks.choice("ignore", kind, tuple(KINDS)) for kind in ignore)
    settings = Settings(_checked_size(size), min_text_size, shrink_ratio, unwanted)
    file = Path(file)
    folder = file.parent if images is None else Path(images)
    pages = read_labels(file, delimiter)
    mark, count = shared.common_mark(pages)
    settings = settings._replace(common_mark=mark)

    problems: list[Problem] = []
    measured: list[Measured] = []
    sheets: dict[int, shared.Sheet] = {}
    seen: dict[str, int] = {}
    start = _START if _has_byte_order_mark(file) else None
    read_all = checks.flag("read_images", read_images)
    with closing(_read_headers(pages, folder, read_all)) as headers:
        for page, found in tqdm(
            zip(pages, headers),
            total=len(pages),
            unit=" images",
            disable=None if progress else True,
            leave=False,
        ):
            problems += _of_line(page, folder, found, seen, start, delimiter)
            start = None
            if page.fault is None:
                listed, made, sheet = _of_texts(page, folder, found, settings)
                problems += listed
                measured += [] if made is None else [made]
                if sheet is not None:
                    sheets[page.line] = sheet
    cause = None
    if not unwanted.issuperset(shared.KINDS_OF_FILE):
        cause = shared.of_places(list(sheets.values()), str(file))
    if cause is not None and cause.kind not in unwanted:
        problems = [cause, *(p for p in problems if not shared.follows(p))]
        if cause.kind in ("scaled", "normalised"):  # then the sizes of texts say nothing
            measured = []
    problems = shared.of_pages(problems, sheets, pages, unwanted)
    problems = shared.of_file(problems, str(file), pages)
    if mark is not None:
        problems.insert(0, shared.of_mark(str(file), mark, count, pages))
    problems = [problem for problem in problems if problem.kind not in unwanted]
    return Report(
        file,
        folder,
        settings.size,
        min_text_size,
        pages,
        [problem for problem in problems if not KINDS[problem.kind].remark],
        np.array([side for made in measured for side in made.sides]),
        np.array([side for made in measured for side in made.saved]),
        float(np.mean([made.share for made in measured])) if measured else 0.0,
        [problem for problem in problems if KINDS[problem.kind].remark],
    )


_START = (
    "The file starts with a byte order mark, which PaddleOCR takes for a part of the first"
    " image's path"
)


def _has_byte_order_mark(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(3) == b"\xef\xbb\xbf"


def _checked_size(size: Any) -> tuple[int, int]:
    """Return height and width of the training crops."""
    sides = size if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2:
        advice = "Pass (640, 640), or 640 for a square."
        raise checks.wrong("size", "height and width", repr(sides), advice)
    height, width = (checks.whole("size", side, least=1) for side in sides)
    return height, width


def _read_headers(
    pages: list[Page], folder: Path, read_all: bool
) -> Generator[list[Header], None, None]:
    """Yield for each page the sizes of its images, or what is wrong with them."""

    def headers(page: Page) -> list[Header]:
        if page.fault:
            return []
        return [read_header(str(folder / name), read_all) for name in page.images]

    with warnings.catch_warnings():
        # Pillow warns about large images and odd headers, which OpenCV reads all the same.
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if not read_all:
            yield from map(headers, pages)
            return
        pool = ThreadPoolExecutor()
        try:
            yield from pool.map(headers, pages)
        finally:  # after Ctrl-C, forget the images that still wait
            pool.shutdown(cancel_futures=True)


def _of_line(
    page: Page,
    folder: Path,
    headers: Sequence[Header],
    seen: dict[str, int],
    start: str | None,
    delimiter: str,
) -> Iterator[Problem]:
    """Yield what is wrong with a line and its images."""

    def problem(kind: str, **facts: Any) -> Problem:
        advice = KINDS[kind].advice.format(**facts)
        return Problem(page.line, page.entry, kind, shown(page.image), advice)

    if start:
        yield problem("unreadable-line", fault=start, remedy="Save the file without it.")
    if page.fault:
        fault = page.fault[0].upper() + page.fault[1:]
        yield problem("unreadable-line", fault=fault, remedy="Correct it, or leave it out.")
        return
    for name, header in zip(page.images, headers):
        if isinstance(header, str):
            yield problem("missing-image", fault=header, remedy=_folder_remedy(folder, name))
        first = seen.setdefault(os.path.normpath(name), page.line)
        if first != page.line:
            yield problem("repeated-image", image=shown(name), line=first)
    if page.rest:
        named = "tab" if delimiter == "\t" else repr(delimiter)
        yield problem("unread-rest", delimiter=named, rest=page.rest[:40])


def _folder_remedy(folder: Path, name: str) -> str:
    """Return advice on a missing image: the folder it is in, if that can be guessed."""
    if os.path.exists(folder / name):
        return ""
    for other in (folder.resolve().parent, folder / "images"):
        if os.path.isfile(other / name):
            return f" Pass --images {other}, the folder that the paths start from."
    return " Correct the path, or pass with --images the folder that the paths start from."


def _of_texts(
    page: Page, folder: Path, headers: Sequence[Header], settings: Settings
) -> tuple[list[Problem], Measured | None, shared.Sheet | None]:
    """Return the problems of the texts of a line, what training sees of it, and its first image."""
    sizes: dict[tuple[int, int], str] = {}
    for name, header in zip(page.images, headers):
        if not isinstance(header, str):
            sizes.setdefault(header, name)
    # PaddleOCR takes one of several images at random, so the texts have to fit each of them.
    checked = [examine(page, name, image, settings) for image, name in sizes.items()]
    checked = checked or [examine(page, page.image, None, settings)]
    found: dict[int | None, Problem] = {}
    for listed, _ in checked:
        for problem in listed:
            found.setdefault(problem.entry, problem)
    sheets = [shared.Sheet(page, str(folder / name), image) for image, name in sizes.items()]
    problems = sorted(found.values(), key=lambda p: p.entry or 0)
    return problems, checked[0][1], sheets[0] if sheets else None
