"""Reads images as PaddleOCR does, with OpenCV, and their sizes as OpenCV would give them."""

import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dbloss.base import checks
from dbloss.labels.read import shown

# Height and width of an image, or what is wrong with its file.
Header: TypeAlias = "tuple[int, int] | str"

_ORIENTATION = 0x0112  # the tag of EXIF and TIFF


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return an image as PaddleOCR reads it, in RGB `[h, w, 3]`, turned as its EXIF data says."""
    image = _decode(Path(path).read_bytes())
    if image is None:
        advice = "Convert it to PNG or JPEG, or get the file again."
        raise checks.wrong(str(path), "an image", "a file that OpenCV cannot read", advice)
    turned: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return turned


def read_header(path: str, read_all: bool = False) -> Header:
    """Return height and width of an image as OpenCV has them, or what is wrong with its file.

    The first and the last bytes are read. If these leave a doubt, or with `read_all`, OpenCV reads
    the whole image. PaddleOCR reads with OpenCV, which differs from other readers, and from version
    to version, in the formats that it knows and the orientations that it follows.
    """
    if not os.path.isfile(path):
        return f"There is no file {shown(path)}."
    ends = True
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            test = _ENDS.get(image.format)
            ends = test is None or test(image, file)
            if test and ends and not read_all:
                turned = _is_turned(image, file)
                if turned is not None and cv2.haveImageReader(path):
                    width, height = image.size
                    return (width, height) if turned else (height, width)
    except Exception:  # a broken header can raise anything; OpenCV decides if that matters
        pass
    size = _read_size(path)
    if size is not None:
        return size
    if not ends:
        return f"{shown(path)} breaks off, and OpenCV cannot read it. Get the file again."
    return f"{shown(path)} is no image that OpenCV can read. Convert it, or get the file again."


def read_edges(path: str, size: tuple[int, int], longest: int) -> NDArray[np.float32] | None:
    """Return how strong the edges of an image are: the rank of each pixel, from 0 to 1.

    The image, of `size` (height, width), is reduced so that its longer side has `longest` pixels.
    None if it cannot be read, or has no edges at all.
    """
    factor = max(size) // longest
    flag = next((flag for least, flag in _REDUCED if factor >= least), cv2.IMREAD_GRAYSCALE)
    try:
        image = _decode(Path(path).read_bytes(), flag)
        if image is None:
            return None
        scale = longest / max(size)
        across, down = (max(round(side * scale), 1) for side in size[::-1])
        grey = cv2.resize(image, (across, down), interpolation=cv2.INTER_AREA).astype(np.float32)
    except (OSError, ValueError, cv2.error):
        return None
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strength = cv2.blur(strength, (5, 5))
    most = float(strength.max())
    if not most > 0:
        return None
    ranked = cv2.equalizeHist((255 * np.sqrt(strength / most)).astype(np.uint8))
    ranks: NDArray[np.float32] = ranked.astype(np.float32) / 255
    return ranks


_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
)


def _decode(content: bytes, flag: int = cv2.IMREAD_COLOR) -> NDArray[Any] | None:
    """Return the image that OpenCV reads from the content of a file, None if there is none."""
    data = np.frombuffer(content, np.uint8)
    try:
        return cv2.imdecode(data, flag) if data.size else None
    except cv2.error:  # too many pixels, for example
        return None


def _read_size(path: str) -> tuple[int, int] | None:
    try:
        image = _decode(Path(path).read_bytes())
    except (OSError, MemoryError):
        return None
    return None if image is None else (image.shape[0], image.shape[1])


def _is_turned(image: Any, file: BinaryIO) -> bool | None:
    """Tell whether OpenCV swaps height and width, None if only reading the image can tell."""
    if image.format in ("JPEG", "MPO"):
        blocks = [data for name, data in image.applist if name == "APP1" and data[:4] == b"Exif"]
        return bool(blocks) and _turns(blocks)
    if image.format == "PNG":
        end = _last(file, 1 << 16)
        if end.rfind(b"eXIf") > end.rfind(b"IDAT"):  # after the pixels: OpenCV finds it there too
            return None
    # The method of the base class, since PNG's own would read all pixels first.
    orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    return False if orientation == 1 else None


def _turns(blocks: list[bytes]) -> bool:
    """Tell whether OpenCV turns a JPEG with these blocks of EXIF data, by trying it on one."""
    segments = [b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks]
    tiny = _tiny_jpeg()
    image = _decode(b"".join([tiny[:2], *segments, tiny[2:]]))
    return image is not None and image.shape[0] > image.shape[1]


@cache
def _tiny_jpeg() -> bytes:
    """Return a JPEG that is twice as wide as high."""
    content: bytes = cv2.imencode(".jpg", np.zeros((8, 16, 3), np.uint8))[1].tobytes()
    return content


def _last(file: BinaryIO, count: int) -> bytes:
    length = _length(file)
    file.seek(max(length - count, 0))
    return file.read()


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _at(file: BinaryIO, start: int, form: str) -> Any:
    """Return the number that starts at a byte of a file, in a format of `struct`."""
    file.seek(start)
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _jpeg_ends(image: Any, file: BinaryIO) -> bool:
    return _last(file, 64).rstrip(b"\0\r\n ").endswith(b"\xff\xd9")


def _png_ends(image: Any, file: BinaryIO) -> bool:
    return _last(file, 12) == b"\0\0\0\0IEND\xaeB`\x82"


def _gif_ends(image: Any, file: BinaryIO) -> bool:
    return _last(file, 2) == b"\0;"


def _bmp_ends(image: Any, file: BinaryIO) -> bool:
    return bool(_at(file, 2, "<I") == _length(file))


def _tiff_ends(image: Any, file: BinaryIO) -> bool:
    tags = image.tag_v2
    starts, counts = next((tags[s], tags[c]) for s, c in ((273, 279), (324, 325)) if s in tags)
    return bool(max(start + count for start, count in zip(starts, counts)) <= _length(file))


def _webp_ends(image: Any, file: BinaryIO) -> bool:
    return bool(8 + _at(file, 4, "<I") <= _length(file))


def _avif_ends(image: Any, file: BinaryIO) -> bool:
    """Tell whether the boxes that the file is made of fill it."""
    end, length = 0, _length(file)
    while end < length:
        size = _at(file, end, ">I")
        if size == 1:
            size = _at(file, end + 8, ">Q")
        if size < 8:  # 0: up to the end, wherever that is
            return False
        end += size
    return end == length


# For each format, by Pillow's name, what tells whether a file is complete. A file that fails is
# left to OpenCV, since there may be more after its end.
_ENDS: dict[str | None, Callable[[Any, BinaryIO], bool]] = {
    "JPEG": _jpeg_ends,
    "MPO": _jpeg_ends,
    "PNG": _png_ends,
    "GIF": _gif_ends,
    "BMP": _bmp_ends,
    "TIFF": _tiff_ends,
    "WEBP": _webp_ends,
    "AVIF": _avif_ends,
}
