"""Images as PaddleOCR reads them, with OpenCV."""

import os
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_Header: TypeAlias = "tuple[int, int] | str"  # height and width of an image, or why it has none


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
