"""The command `python -m dbloss.labels`, which checks a label file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbloss.base import help as _help
from dbloss.labels.read import DELIMITER, printable
from dbloss.labels.report import KINDS

if TYPE_CHECKING or not _help.ALONE:
    from dbloss.labels.check import check_labels


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dbloss.labels",
        description="Say what is wrong with a label file of PaddleOCR: lines, images and texts.",
        epilog="Kinds of problems: "
        + "; ".join(f"{kind}: {what.meaning}" for kind, what in KINDS.items() if not what.remark)
        + ". Remarks, which are shown and not counted: "
        + "; ".join(f"{kind}: {what.meaning}" for kind, what in KINDS.items() if what.remark)
        + ". Exit status: 0 no problems, 1 problems, 2 the file cannot be read.",
    )
    parser.add_argument(
        "labels", metavar="LABELS", type=Path, help="the label file, as PaddleOCR reads it"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="the folder that its paths start from (default: that of LABELS)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        default=[640, 640],
        help="height and width of the training crops, in pixels (default: 640 640)",
    )
    parser.add_argument(
        "--min-text-size",
        type=float,
        default=8,
        metavar="PIXELS",
        help="the least width and height of a text that counts, at --size (default: 8)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="write problems.csv, contact-sheet.png and pages.png there",
    )
    parser.add_argument(
        "--ignore",
        metavar="KIND",
        action="append",
        default=[],
        choices=KINDS,
        help="a kind of problem to leave out; may be given several times",
    )
    parser.add_argument("--delimiter", **DELIMITER)
    parser.add_argument(
        "--read-images",
        action="store_true",
        help="read every image with OpenCV, which finds those that are damaged inside",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        report = check_labels(
            args.labels,
            args.images,
            size=tuple(args.size),
            min_text_size=args.min_text_size,
            ignore=args.ignore,
            progress=True,
            delimiter=args.delimiter,
            read_images=args.read_images,
        )
        print(printable(report.summary()))
        if args.out:
            from dbloss.plot import write_report  # matplotlib, which nothing else here needs

            written = ", ".join(map(str, write_report(report, args.out)))
            print(printable(f"\nwritten: {written}"))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
