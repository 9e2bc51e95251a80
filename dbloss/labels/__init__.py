"""Reads PaddleOCR's label files, and finds what is wrong in them.

`python -m dbloss.labels Label.txt` prints a summary; `--out` writes a table and a contact sheet.
"""

from typing import TYPE_CHECKING

from dbloss.base import checks
from dbloss.base import help as _help

if TYPE_CHECKING or not _help.ALONE:
    with checks.needing("dbloss.labels", "cv2", "shapely", "PIL", "tqdm"):
        import cv2 as _cv2  # noqa: F401
        import PIL.Image as _Image  # noqa: F401
        import shapely as _shapely  # noqa: F401
        import tqdm as _tqdm  # noqa: F401

    from dbloss.labels.check import check_labels
    from dbloss.labels.images import read_image
    from dbloss.labels.page import check_page
    from dbloss.labels.read import IGNORED, FaultyEntry, Page, Text, read_labels, read_texts
    from dbloss.labels.report import KINDS, Problem, Report

__all__ = [
    "IGNORED",
    "KINDS",
    "FaultyEntry",
    "Page",
    "Problem",
    "Report",
    "Text",
    "check_labels",
    "check_page",
    "read_image",
    "read_labels",
    "read_texts",
]
