"""Photographs with labels, for train_text_detector.py: crops to train on, whole ones to measure on.

A label file is PaddleOCR's: for each photograph a line of its path, a tab, and JSON, a list of
`{"transcription": "...", "points": [[x, y], ...]}`, where "###" and "*" mark text to be ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

SIZE = 256  # of a crop, in pixels
LONGEST = 1280  # side of a photograph; a longer one is reduced when it is read


class Page(NamedTuple):
    """An image, uint8 [H, W, 3], the corners of its texts, and which of them are ignored."""

    image: np.ndarray
    texts: list[np.ndarray]  # each float32 [k, 2]
    ignored: list[bool]


class Photograph(NamedTuple):
    """A line of a label file."""

    path: Path
    texts: list[np.ndarray]
    ignored: list[bool]


def read_labels(file: Path, images: Path | None = None) -> list[Photograph]:
    """Read a label file; paths are relative to `images`, the folder of the file by default."""
    photographs = []
    for line in file.read_text("utf-8").splitlines():
        name, _, entries = line.partition("\t")
        texts = json.loads(entries)
        photographs.append(
            Photograph(
                (images or file.parent) / name,
                [np.float32(text["points"]) for text in texts],
                [text["transcription"] in ("###", "*") for text in texts],
            )
        )
    return photographs


@lru_cache(1000)  # Decoding takes as long as a tenth of a step; this keeps up to 2.8 GB instead.
def read_image(path: Path) -> tuple[np.ndarray, float]:
    """Return a photograph, uint8 [H, W, 3], and by how much it was reduced."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path}: there is no such image, or it cannot be read")
    scale = min(LONGEST / max(image.shape), 1)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), scale


def read_page(photograph: Photograph) -> Page:
    """Return a whole photograph."""
    image, scale = read_image(photograph.path)
    return Page(image, [text * scale for text in photograph.texts], photograph.ignored)


def random_crop(photographs: Sequence[Photograph], rng: np.random.Generator) -> Page:
    """Cut a square out of one of the photographs, scaled and turned; most hold a word.

    A text that the crop cuts stays, as in PaddleOCR, if at least half of it is inside. Of less than
    that one cannot tell that it is text, so it is ignored.
    """
    page = read_page(photographs[rng.integers(len(photographs))])
    size = np.array(page.image.shape[1::-1])
    scale, angle = rng.uniform(0.5, 1.2), rng.uniform(-10, 10)
    centre = rng.uniform(0, size)
    words = [text for text, ignored in zip(page.texts, page.ignored) if not ignored]
    if words and rng.random() < 0.8:
        word = words[rng.integers(len(words))]
        centre = word.mean(axis=0) + rng.uniform(-SIZE / 4, SIZE / 4, 2) / scale
    margin = np.minimum(SIZE / 2 / scale, size / 2)
    centre = np.clip(centre, margin, size - margin)

    turn = cv2.getRotationMatrix2D(centre.tolist(), angle, scale)
    turn[:, 2] += SIZE / 2 - centre
    crop = Page(cv2.warpAffine(page.image, turn, (SIZE, SIZE)), [], [])
    for text, ignored in zip(page.texts, page.ignored):
        corners = cv2.transform(text[None], turn)[0]
        inside = cv2.contourArea(np.clip(corners, 0, SIZE - 1))
        if inside > 0:
            crop.texts.append(corners)
            crop.ignored.append(ignored or inside < cv2.contourArea(corners) / 2)
    return crop
