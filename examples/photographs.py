"""Photographs with labels, for train_text_detector.py: crops to train on, whole ones to measure on.

A label file is PaddleOCR's: a line for each photograph with its path, a tab, and a list in JSON of
`{"transcription": "...", "points": [[x, y], ...]}`, where "###" and "*" mark text to be ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dbloss import labels

import cv2
import numpy as np

SIZE = 256  # of a crop, in pixels
LONGEST = 1280  # side of a photograph; a longer one is reduced when it is read


class Page(NamedTuple):
    """An image, uint8 [H, W, 3], the corners of its texts, and which of these are ignored."""

    image: np.ndarray
    texts: list[np.ndarray]  # each float32 [k, 2]
    ignored: list[bool]


class Label(NamedTuple):
    """A line of a label file."""

    image: Path
    texts: list[np.ndarray]
    ignored: list[bool]


def read_labels(file: Path, images: Path | None = None, least: int = 1) -> list[Label]:
    """Read a label file; its paths are relative to `images`, or to the folder it is in.

    Lines that PaddleOCR cannot read are left out; `python -m dbloss.labels` names them. An image
    that is not there, or none by its first bytes, is an error, and so are fewer than `least` lines.
    """
    lines = [
        Label(
            (images or file.parent) / page.image,
            [text.points for text in page.texts],
            [text.ignored for text in page.texts],
        )
        for page in labels.read_labels(file)
        if not page.fault
    ]
    advice = f"`python -m dbloss.labels {file}` says what is wrong with the file."
    if len(lines) < least:
        raise ValueError(
            f"{file}: expected {least} or more photographs with labels, got {len(lines)}. {advice}"
        )
    missing = [line.image for line in lines if not cv2.haveImageReader(str(line.image))]
    if missing:
        raise FileNotFoundError(
            f"{file}: {len(missing)} of {len(lines)} images are not there, or none that OpenCV can"
            f" read; the first is {missing[0]}. Paths start from {images or file.parent};"
            f" --images sets another folder. {advice}"
        )
    return lines


# Without this a step would spend a twentieth of its time on decoding. Kept are 2.8 GB at most.
@lru_cache(1000)
def read_image(path: Path) -> tuple[np.ndarray, float]:
    """Return a photograph, uint8 [H, W, 3], and the factor by which it was reduced."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path}: no such image, or none that OpenCV can read")
    scale = min(LONGEST / max(image.shape), 1.0)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), scale


class Photographs(Sequence[Page]):
    """The pages of a label file, each read when it is asked for."""

    def __init__(self, lines: Iterable[Label]) -> None:
        self.labels = list(lines)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Photographs(self.labels[i])
        label = self.labels[i]
        image, scale = read_image(label.image)
        return Page(image, [text * scale for text in label.texts], label.ignored)


def random_crop(photographs: Sequence[Page], rng: np.random.Generator, side: int = SIZE) -> Page:
    """Cut a square out of a photograph, scaled and turned, in most cases around a word.

    A text that the crop cuts stays, as in PaddleOCR's crops, if half of it or more is inside; its
    labels are those of the part inside. With less than that one can hardly tell that it is text,
    so there it is ignored.
    """
    image, texts, ignored = photographs[rng.integers(len(photographs))]
    size = np.array(image.shape[1::-1])
    scale, angle = rng.uniform(0.5, 1.2), rng.uniform(-10, 10)
    centre = rng.uniform(0, size)
    words = [text for text, skipped in zip(texts, ignored) if not skipped]
    if words and rng.random() < 0.8:
        centre = words[rng.integers(len(words))].mean(axis=0)
        centre += rng.uniform(-side / 4, side / 4, 2) / scale
    margin = np.minimum(side / 2 / scale, size / 2)
    centre = np.clip(centre, margin, size - margin)

    turn = cv2.getRotationMatrix2D(centre.tolist(), angle, scale)
    turn[:, 2] += side / 2 - centre
    crop = Page(cv2.warpAffine(image, turn, (side, side)), [], [])
    for text, skipped in zip(texts, ignored):
        corners = cv2.transform(text[None], turn)[0]
        inside = cv2.contourArea(corners.clip(0, side - 1))
        if inside > 0:
            crop.texts.append(corners)
            crop.ignored.append(skipped or inside < cv2.contourArea(corners) / 2)
    return crop
