"""Finds the line of a label file that belongs to an image."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dbloss.base import checks
from dbloss.labels.read import FaultyEntry, Page, read_labels, read_texts, shown

_MOST = 10  # lines that a message lists


class Found(NamedTuple):
    """The texts of one image, and where they were found."""

    page: Page
    where: str  # the file, and the line in it
    remark: str | None  # if only the name of the image matches


def find_page(
    annotations: Path, image: Path, folder: Path | None = None, delimiter: str = "\t"
) -> Found:
    """Return the line of a label file whose path, from `folder` on, is that of the image.

    If `folder` is None it is that of the label file. A line with the same file name in another
    folder is taken if it is the only one and its own image is missing, which may have been moved.
    A file may also hold nothing but the list of one image. A ValueError says what cannot be read.
    """
    content = annotations.read_bytes()
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*(\{|\]\s*$)", content):
        return Found(_read_list(annotations, content, image), str(annotations), None)
    pages = read_labels(annotations, delimiter)
    folder = annotations.parent if folder is None else folder
    wanted = os.path.realpath(image)

    def meant(page: Page) -> list[str]:
        names = (name.strip().replace("\\", "/") for name in page.images)
        return [path for name in names if (path := _resolved(folder / name))]

    named = [
        page
        for page in pages
        if any(PurePosixPath(path).name == image.name for path in meant(page))
    ]
    exact = [page for page in named if wanted in meant(page)]
    chosen, remark = exact, None
    if not exact and len(named) == 1 and not any(map(os.path.exists, meant(named[0]))):
        chosen = named
        remark = f"found by its name alone: the line means {shown(named[0].image)}"
    if len(chosen) != 1:
        raise ValueError(_not_found(annotations, image, folder, pages, named, exact))
    (page,) = chosen
    where = f"{annotations}, line {page.line}"
    if page.fault:
        entry = "" if page.entry is None else f", entry {page.entry}"
        raise ValueError(f"{where}{entry}: {page.fault}.")
    return Found(page, where, remark)


def _resolved(path: Path) -> str | None:
    """Return the real path of a file, None if no file can have such a path."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a byte 0, for example
        return None


def _read_list(annotations: Path, content: bytes, image: Path) -> Page:
    try:
        texts = read_texts(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        got, advice = "another encoding", "Save the file as UTF-8."
        raise checks.wrong(annotations, "UTF-8", got, advice) from None
    except FaultyEntry as error:
        entry = "" if error.entry is None else f", entry {error.entry}"
        raise ValueError(f"{annotations}{entry}: {error}.") from None
    return Page(1, (str(image),), texts, None)


def _not_found(
    annotations: Path,
    image: Path,
    folder: Path,
    pages: list[Page],
    named: list[Page],
    exact: list[Page],
) -> str:
    if exact:
        advice, listed = "Leave one of them:", exact
    elif named:
        advice = (
            "These have only the name of the file in common, and may be other images. Pass with"
            " --images the folder that their paths start from:"
        )
        listed = named
    else:
        advice, listed = "Correct the path; the file has these:", pages
    lines = [f"  line {page.line}: {shown(page.image)}" for page in listed if page.images]
    more = len(lines) - _MOST
    lines = [*lines[:_MOST], f"  and {more} more"] if more > 0 else lines
    return (
        f"{annotations}: expected one line for {image} among paths that start from {folder},"
        f" got {len(exact)}. " + "\n".join([advice, *lines])
    )
