"""The command `python -m dbloss.plot`: is my data right?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dbloss.base import help as _help
from dbloss.labels.read import DELIMITER, IGNORED, printable
from dbloss.labels.report import KINDS

if TYPE_CHECKING or not _help.ALONE:
    from dbloss.labels import check_page, read_image
    from dbloss.labels.find import find_page
    from dbloss.plot.targets import draw_targets, make_and_sort


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dbloss.plot",
        description="Draw the targets that an image gives a detector to learn, and print how much"
        " of it is text, ignored, or dropped as too small: narrower or lower than 8 pixels, or"
        " nothing left of it after shrinking; and what else is wrong with its labels.",
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the image")
    parser.add_argument(
        "annotations",
        metavar="ANNOTATIONS",
        type=Path,
        help="PaddleOCR's label file, of which the line for IMAGE is read: path, tab,"
        ' [{"transcription": ..., "points": [[x, y], ...]}, ...]; or such a list alone.'
        f" The transcriptions {' and '.join(IGNORED)} mark a text as ignored.",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PICTURE",
        type=Path,
        required=True,
        help="the file that is drawn, a PNG, PDF or SVG by its name; needed",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="the folder from which the paths of ANNOTATIONS start (default: its own)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="make the targets at this size, that of the training crops: the image is scaled to"
        " fit and padded, as a crop of all of it would be (default: the image's own size)",
    )
    parser.add_argument(
        "--zoom",
        nargs="+",
        type=int,
        metavar="ENTRY",
        help="the entries to show larger, from 1 (default: up to 4, those with problems first)",
    )
    parser.add_argument("--delimiter", **DELIMITER)
    return parser


def main() -> None:
    """Run the command."""
    parser = _parser()
    args = parser.parse_args()
    if args.size and min(args.size) < 1:
        parser.error("--size: expected two numbers of pixels, each at least 1")
    try:
        print(printable(_run(args)))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _run(args: argparse.Namespace) -> str:
    image = read_image(args.image)
    height, width = image.shape[:2]
    page, where, remark = find_page(args.annotations, args.image, args.images, args.delimiter)
    size = tuple(args.size) if args.size else (height, width)
    problems = check_page(page, height, width, size=size)
    polygons = [text.points for text in page.texts]
    ignored = [text.ignored for text in page.texts]
    made = make_and_sort((height, width), polygons, ignored, size, problems)
    made_at = f"targets of {size[0]} x {size[1]} pixels (height x width)"
    if args.size:
        made_at += f",\nthe image of {height} x {width} scaled by {made.scale:.3g}"
    title = "\n".join(filter(None, [remark, made_at]))
    draw_targets(image, polygons, made, title, args.zoom).savefig(args.output, dpi=150)

    lines = [where, *filter(None, [remark]), made_at, "", f"{'':20}  polygons  share of pixels"]
    rest = 1.0
    for kind in made.kinds:
        share = float(kind.pixels[: made.size[0], : made.size[1]].mean())
        rest -= share
        lines.append(f"{kind.name:20}  {len(kind.entries):8,}  {share:15.2%}")
    lines.append(f"{'background':20}  {'':8}  {rest:15.2%}")
    for problem in problems:
        subject = "the image" if problem.entry is None else f"entry {problem.entry}"
        lines.append(f"{subject}: {problem.kind}, {KINDS[problem.kind].meaning}. {problem.advice}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
