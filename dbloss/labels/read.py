"""Reads PaddleOCR's label files line by line, and says why PaddleOCR cannot read a line."""

import json
import os
import re
import sys
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbloss.base import checks

IGNORED = ("###", "*")  # transcriptions of texts that PaddleOCR's label reader ignores

_OTHER_MARKS = {
    "dontcare",
    "donotcare",
    "ignore",
    "ignored",
    "illegible",
    "unreadable",
    "\u5f85\u8bc6\u522b",  # PPOCRLabel's "to be recognised"
}
# PPOCRLabel writes the first, ArT and LSVT the second, ReCTS the third.
_MARKING_KEYS = ("difficult", "illegibility", "ignore", "ignored", "illegible")
_YES = (True, "1", "true", "True", "yes")  # 1 and 1.0 are equal to True

# The option `--delimiter` of the commands. A shell passes `\\t` as a backslash and a t.
DELIMITER: Any = {
    "metavar": "TEXT",
    "type": lambda text: text.replace("\\t", "\t"),
    "default": "\t",
    "help": "the text between path and list, delimiter in a configuration (default: a tab)",
}

# In a line without a tab: the path, and what is there instead of the tab.
_UNSEPARATED = re.compile(r"(.*?\S)([\s,;|:]+)\[")

_brief = Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother = 4, 60, 60


class Text(NamedTuple):
    """One entry of a label file."""

    transcription: str
    points: NDArray[np.float32]  # `[k, 2]`, (x, y) in pixels; nothing has been checked
    ignored: bool  # whether its transcription is one of `IGNORED`
    # How it is marked as ignored if PaddleOCR does not know that mark: "name" for its
    # transcription, or the key that says so, such as "difficult".
    marked: str = ""


class Page(NamedTuple):
    """One line of a label file."""

    line: int  # its number, from 1
    images: tuple[str, ...]  # the paths as written; of several PaddleOCR takes one at random
    texts: list[Text]
    fault: str | None  # why PaddleOCR cannot read the line; `texts` is then empty
    entry: int | None = None  # the number of the faulty entry, from 1
    rest: str = ""  # what comes after the second delimiter, which PaddleOCR does not read

    @property
    def image(self) -> str:
        """The first of its images, "" if the line has none."""
        return self.images[0] if self.images else ""


def read_labels(file: str | os.PathLike[str], delimiter: str = "\t") -> list[Page]:
    r"""Return the lines of a label file as PaddleOCR reads them.

    A line is the path of an image, a tab, and a list in JSON of texts, each with a
    `"transcription"` and `"points"`. There may be a list of paths in JSON instead of the path.
    Lines that PaddleOCR cannot read, empty ones too, are returned with the reason as their `fault`:
    PaddleOCR logs an error there and trains on another line.

    Args:
        file: the label file.
        delimiter: the text between path and list, `delimiter` of the dataset in a configuration.

    Returns:
        A `Page` for each line: page i is line i + 1.

    Raises:
        OSError: the file cannot be opened.
        TypeError: the delimiter is no text.
        ValueError: no line can be read, or the delimiter is empty.

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
    delimiter = _checked_delimiter(delimiter)
    content = Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = content.removesuffix(b"\n").split(b"\n")
    pages = [_read_line(number, line, delimiter) for number, line in enumerate(lines, start=1)]
    if all(page.fault for page in pages):
        expected = f"lines of an image's path, {_named(delimiter)} and a list in JSON"
        got = f"none among {len(pages)}; line 1: {pages[0].fault}"
        raise checks.wrong(file, expected, got, "Pass the label file of a detector.")
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
    """A list that PaddleOCR cannot read; `entry` is the number of the entry at fault, if one is."""

    entry: int | None = None


def shown(name: str) -> str:
    """Return a path of a label file, shortened, and escaped so that it can be printed."""
    if len(name) > 120:
        name = f"{name[:60]}...{name[-57:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def printable(text: str) -> str:
    """Return text in which characters that the terminal cannot encode are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def brief(value: Any, most: int = 60) -> str:
    """Return the first characters of a value's `repr`, however deep it is nested."""
    return _brief.repr(value)[:most]


def _checked_delimiter(delimiter: Any) -> str:
    if not isinstance(delimiter, str):
        raise checks.wrong_type("delimiter", "text", delimiter, "Pass a str, as '\\t'.")
    if not delimiter or "\n" in delimiter:
        advice = "Pass the text between path and list, as '\\t'."
        raise checks.wrong("delimiter", "text without a line break", repr(delimiter), advice)
    return delimiter


def _named(delimiter: str) -> str:
    return "a tab" if delimiter == "\t" else repr(delimiter)


def _read_line(number: int, content: bytes, delimiter: str) -> Page:
    def faulty(fault: str, entry: int | None = None) -> Page:
        return Page(number, images, [], fault, entry)

    images: tuple[str, ...] = ()
    try:
        line = content.decode()
    except UnicodeDecodeError as error:
        return faulty(f"not UTF-8: the byte 0x{content[error.start]:02X} at {error.start + 1}")
    if not line.strip():
        return faulty("an empty line")
    name, *columns = line.split(delimiter)
    images = (name,)
    if not columns:
        found = _UNSEPARATED.match(name)
        if not found:
            return faulty(f"no {_named(delimiter).removeprefix('a ')} after the image's path")
        images = (found[1],)
        return faulty(
            f"no {_named(delimiter).removeprefix('a ')} after the image's path,"
            f" but {found[2][:10]!r}"
        )
    if name.startswith("["):
        images = _read_paths(name)
        if not all(isinstance(path, str) for path in images):
            images = (name,)
            return faulty(f"expected a list of the paths of images, got {brief(name)}")
    if not all(images):
        return faulty("no path of an image before the tab")
    try:
        rest = delimiter.join(columns[1:]).strip()
        return Page(number, images, read_texts(columns[0]), None, rest=rest)
    except FaultyEntry as error:
        more = "; PaddleOCR reads up to the second tab" if len(columns) > 1 else ""
        return faulty(f"{error}{more}", error.entry)


def _read_paths(name: str) -> tuple[Any, ...]:
    """Return the paths in a name that begins with a bracket: the name itself if it is no list."""
    try:
        listed = json.loads(name)
    except (ValueError, RecursionError):
        return (name,)
    return tuple(listed) or (name,)


def _read_entry(number: int, entry: Any) -> Text:
    try:
        if not isinstance(entry, dict) or not {"transcription", "points"} <= entry.keys():
            keys = f"the keys {sorted(entry)}" if isinstance(entry, dict) else brief(entry)
            raise FaultyEntry(f'expected a dict with "transcription" and "points", got {keys}')
        text, listed = entry["transcription"], entry["points"]
        points = _read_points(listed) if isinstance(listed, list) and listed else None
        if points is None:
            raise FaultyEntry(
                f'expected "points" [[x, y], ...] of numbers, got {brief(listed)} for {brief(text)}'
            )
    except FaultyEntry as error:
        error.entry = number
        raise
    ignored = text in IGNORED
    marked = "" if ignored else "name" if _is_other_mark(text) else _marking_key(entry)
    if not isinstance(text, str):
        text = json.dumps(text) if not isinstance(text, list | dict) else brief(text)
    return Text(text, points, ignored, marked)


def _read_points(listed: list[Any]) -> NDArray[np.float32] | None:
    """Return points `[k, 2]`, infinite beyond float32, or None if these are not points."""
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
    signs = set(bare) in ({"#"}, {"*"}) or bare == "."
    return not bare or signs or letters in _OTHER_MARKS


def _marking_key(entry: dict[str, Any]) -> str:
    """Return the key by which an entry is marked as ignored, "" if there is none."""
    said = (key for key in _MARKING_KEYS if any(entry.get(key) == yes for yes in _YES))
    if entry.get("legibility") == "illegible":  # COCO-Text
        return "legibility"
    return next(said, "")
