"""Photographs and their label file, as small as the training examples take them."""

import json

import cv2
import numpy as np

WORD = np.float32([[60, 40], [160, 40], [160, 80], [60, 80]])
SKIPPED = WORD + np.float32([0, 120])
SHADES = {"word": 250, "###": 20}  # of the two on a photograph of grey


def write_label_file(file, count, size=(288, 352)):
    """Write `count` photographs beside a label file; each has a word, and one to be ignored."""
    image, entries = np.full((*size, 3), 120, np.uint8), []
    for text, corners in (("word", WORD), ("###", SKIPPED)):
        cv2.fillConvexPoly(image, np.int32(corners), (SHADES[text],) * 3)
        entries.append({"transcription": text, "points": corners.tolist()})
    lines = []
    for i in range(count):
        cv2.imwrite(str(file.parent / f"{file.stem}_{i}.png"), image)
        lines.append(f"{file.stem}_{i}.png\t{json.dumps(entries)}\n")
    file.write_text("".join(lines), "utf-8")
    return file
