"""The training loss of Differentiable Binarization (DB) text detectors for PaddlePaddle."""

__version__ = "0.2.0"

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbloss.base import help as _help

if TYPE_CHECKING or not _help.ALONE:
    from dbloss.base import wheels as _wheels  # noqa: F401, since it imports Paddle
    from dbloss.batch import validate_batch
    from dbloss.losses.balance import BalanceLoss, hard_negative_weights
    from dbloss.losses.binarize import differentiable_binarization
    from dbloss.losses.db import DBLoss
    from dbloss.losses.dice import DiceLoss
    from dbloss.losses.focal import DiceFocalLoss
    from dbloss.losses.mask_l1 import MaskL1Loss
    from dbloss.losses.tversky import TverskyLoss

    # Losses that were pickled by version 0.1.0 look for their classes here.
    for _name in ("balance", "db", "dice", "focal", "mask_l1"):
        sys.modules[f"dbloss.{_name}"] = sys.modules[f"dbloss.losses.{_name}"]
    sys.modules["dbloss.validate"] = sys.modules["dbloss.batch"]

__all__ = [
    "BalanceLoss",
    "DBLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "MaskL1Loss",
    "TverskyLoss",
    "differentiable_binarization",
    "hard_negative_weights",
    "validate_batch",
]

if TYPE_CHECKING:
    from dbloss import boxes as boxes
    from dbloss import labels as labels
    from dbloss import paddleocr as paddleocr
    from dbloss import plot as plot
    from dbloss import score as score
    from dbloss import targets as targets
else:
    _ON_USE = ("boxes", "labels", "paddleocr", "plot", "score", "targets")

    def __getattr__(name: str) -> Any:
        """Import a module that needs more than the losses do, where it is first used.

        A library that is missing makes it an `AttributeError`, the one error that `help(dbloss)`
        skips.
        """
        if name not in _ON_USE:
            raise AttributeError(f"module 'dbloss' has no attribute {name!r}")
        try:
            return import_module(f"dbloss.{name}")
        except ImportError as error:
            raise AttributeError(str(error)) from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ON_USE})
