"""The training loss of Differentiable Binarization (DB) text detectors for PaddlePaddle."""

__version__ = "0.1.0"

from dbloss import _paddle as _paddle
from dbloss.balance import BalanceLoss, hard_negative_weights
from dbloss.binarize import differentiable_binarization
from dbloss.db import DBLoss
from dbloss.dice import DiceLoss
from dbloss.focal import DiceFocalLoss
from dbloss.mask_l1 import MaskL1Loss
from dbloss.validate import validate_batch

__all__ = [
    "BalanceLoss",
    "DBLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "MaskL1Loss",
    "differentiable_binarization",
    "hard_negative_weights",
    "validate_batch",
]
