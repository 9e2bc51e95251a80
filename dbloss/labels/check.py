"""What is wrong with a whole label file."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbloss import checks
from dbloss.labels.images import _Header, _read_header
from dbloss.labels.page import _check_page, _Measured, _Settings
from dbloss.labels.read import Page, read_labels
from dbloss.labels.report import KINDS, Problem, Report


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


def _folder_advice(folder: Path, name: str) -> str:
    """Return where an image is that was looked for in the wrong folder, or what to do."""
    if (folder / name).exists():
        return ""
    for other in (folder.resolve().parent, folder / "images"):
        if (other / name).is_file():
            return f" Pass --images {other}, the folder that the paths start from."
    return " Correct the path, or pass with --images the folder that the paths start from."
