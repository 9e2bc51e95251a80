"""The command `python -m dbloss.plot`: is my data right?"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbloss import checks
from dbloss.plot.annotations import IGNORED, read_texts

with checks.extra("python -m dbloss.plot", "targets", "cv2", "pyclipper", "numba"):
    import cv2

    from dbloss.plot.targets import draw_targets, make_and_sort


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m dbloss.plot",
        description="Draw the targets that an image gives a detector to learn, and print how much"
        " of it is text, ignored, or dropped as too small: narrower or lower than 8 pixels, or"
        " nothing left of it after shrinking.",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path)
    parser.add_argument(
        "annotations",
        metavar="ANNOTATIONS",
        type=Path,
        help="PaddleOCR's label file, of which the line for IMAGE is read: path, tab,"
        ' [{"transcription": ..., "points": [[x, y], ...]}, ...]; or such a list alone.'
        f" The transcriptions {' and '.join(IGNORED)} mark a text as ignored.",
    )
    parser.add_argument("-o", "--output", metavar="PICTURE", type=Path, required=True)
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="make the targets at this size, that of the training crops: the image is scaled to"
        " fit and padded, as a crop of all of it would be (default: the image's own size)",
    )
    args = parser.parse_args()
    if args.size and min(args.size) < 1:
        parser.error("--size: expected two numbers of pixels, each at least 1")
    try:
        print(_run(args.image, args.annotations, args.output, args.size))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _run(path: Path, annotations: Path, output: Path, size: list[int] | None) -> str:
    image = _read_image(path)
    height, width = image.shape[:2]
    where, polygons, ignored = read_texts(annotations, path, height, width)
    made_at = f"targets of {height} x {width} pixels (height x width)"
    if size:
        scale = min(size[0] / height, size[1] / width)
        inner = max(int(height * scale), 1), max(int(width * scale), 1)
        padded = np.zeros((*size, 3), np.uint8)
        padded[: inner[0], : inner[1]] = cv2.resize(image, inner[::-1])
        image, polygons = padded, [polygon * np.float64(scale) for polygon in polygons]
        made_at = (
            f"targets of {size[0]} x {size[1]} pixels (height x width),\n"
            f"the image of {height} x {width} scaled by {scale:.3g}"
        )
    targets, kinds = make_and_sort(polygons, ignored, *image.shape[:2])
    draw_targets(image, polygons, targets, kinds, made_at).savefig(output, dpi=150)

    lines = [where, made_at, "", f"{'':20}  polygons  share of pixels"]
    for kind in kinds:
        lines.append(f"{kind.name:20}  {len(kind.entries):8,}  {kind.pixels.mean():15.2%}")
    rest = 1 - sum(kind.pixels.mean() for kind in kinds)
    lines.append(f"{'background':20}  {'':8}  {rest:15.2%}")
    if kinds.dropped.entries:
        lines.append(f"dropped: entries {', '.join(map(str, kinds.dropped.entries))}")
    return "\n".join(lines)


def _read_image(path: Path) -> NDArray[Any]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    # As PaddleOCR reads it: three channels of 8 bits, turned as its EXIF data says.
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise ValueError(f"{path}: expected an image, got a file that OpenCV cannot read as one.")
    turned: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return turned


if __name__ == "__main__":
    main()
