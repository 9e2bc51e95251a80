"""PaddleOCR's label files: for each image a line of its path, a tab and its texts in JSON."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORED = ("###", "*")  # what PaddleOCR's label reader ignores
_FORM = '[{"transcription": "word", "points": [[x, y], [x, y], [x, y], [x, y]]}]'
_MOST = 10  # lines of a message


class Texts(NamedTuple):
    """The texts of one image."""

    where: str  # the file, and the line in it
    polygons: list[NDArray[np.float32]]  # each `[k, 2]`, points (x, y) in pixels
    ignored: list[bool]


def read_texts(annotations: Path, image: Path, height: int, width: int) -> Texts:
    """Return the texts of an image of `height` x `width` pixels.

    The file holds lines `path<TAB>list`, of which the one for `image` is found by its path, or one
    list alone. A ValueError names the line and every entry that is wrong.
    """
    where, text = str(annotations), _decode(annotations)
    alone = re.match(r"\s*\[\s*[{\]]", text)
    if not alone:
        number, text = _find_line(where, text, image)
        where += f", line {number}"
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if alone else "column"
        near = text[max(error.pos - 20, 0) : error.pos + 20]
        raise ValueError(
            f"{where}: expected a list in JSON, got {error.msg!r} at {place} {error.colno}, near"
            f" {near!r}. Correct it; json.dumps writes it."
        ) from None
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list {_FORM}, got {text.strip()[:40]!r}.")
    complaints = [
        f"{where}, entry {number} of {len(entries)}: {complaint}"
        for number, entry in enumerate(entries, start=1)
        if (complaint := _complaint(entry, height, width))
    ]
    if complaints:
        raise ValueError("\n".join(_shorten(complaints)))
    return Texts(
        where,
        [np.array(entry["points"], np.float32) for entry in entries],
        [entry["transcription"] in IGNORED for entry in entries],
    )


def _decode(annotations: Path) -> str:
    content = annotations.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{annotations}, line {line}: expected UTF-8, got the byte"
            f" 0x{content[error.start]:02X}. Save the file as UTF-8."
        ) from None


def _find_line(where: str, content: str, image: Path) -> tuple[int, str]:
    """Return number and list of the line whose path the image's path ends with."""
    found = PurePosixPath(Path(os.path.abspath(image)).as_posix()).parts
    lines: list[tuple[int, str, str]] = []
    # Not by splitlines, which would cut a transcription at other separators too.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            path, tab, text = line.partition("\t")
            if not tab:
                raise ValueError(
                    f"{where}, line {number}: expected the path of an image, a tab and a list,"
                    f" got no tab: {line.strip()[:40]!r}. Put one tab between path and list."
                )
            lines.append((number, path.strip(), text))
    parts = {path: PurePosixPath(path.replace("\\", "/")).parts for _, path, _ in lines}
    ending = [path for path in parts if found[-len(parts[path]) :] == parts[path]]
    # Of paths that end alike the longest says most.
    length = max((len(parts[path]) for path in ending), default=0)
    wanted = [path for path in ending if len(parts[path]) == length]
    wanted = wanted or [path for path in parts if parts[path][-1:] == found[-1:]]
    chosen = [(number, text) for number, path, text in lines if path in wanted]
    if len(chosen) == 1:
        return chosen[0]
    listed = [f"  line {n}: {path}" for n, path, _ in lines if path in wanted or not wanted]
    if chosen:
        advice = "Leave one of them, or give a path that tells them apart:"
    else:
        advice = "Correct the path; the file has these:" if listed else "The file is empty."
    raise ValueError(
        f"{where}: expected one line for {image}, got {len(chosen)}. "
        + "\n".join([advice, *_shorten(listed)])
    )


def _complaint(entry: Any, height: int, width: int) -> str | None:
    """Return what is wrong with an entry, None if nothing is."""
    if not isinstance(entry, dict) or not {"transcription", "points"} <= entry.keys():
        keys = f"the keys {sorted(entry)}" if isinstance(entry, dict) else repr(entry)
        return f'expected a dict with "transcription" and "points", got {keys}.'
    text, points = entry["transcription"], entry["points"]
    if not isinstance(text, str):
        return f'expected a "transcription" that is a string, got {text!r}.'
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return f'{text!r}: expected "points" [[x, y], ...] of numbers, got {points!r}.'
    if len(points) < 3:
        return f"{text!r}: expected at least 3 points, got {len(points)}: {points}."
    # Not finite is outside too.
    outside = [(x, y) for x, y in points if not (0 <= x <= width and 0 <= y <= height)]
    if outside:
        return (
            f"{text!r}: expected points inside the image, {width} pixels wide and {height} high,"
            f" got (x, y) = {', '.join(map(str, outside))}."
        )
    return None


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in point)
    )


def _shorten(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST
    return [*lines[:_MOST], f"  and {more} more"] if more > 0 else lines
