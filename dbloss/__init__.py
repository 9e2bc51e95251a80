"""The training loss of Differentiable Binarization (DB) text detectors for PaddlePaddle."""

__version__ = "0.1.0"

try:
    import paddle as _paddle  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "paddle":
        raise
    raise ImportError(
        "dbloss needs PaddlePaddle, which is not installed. Install one of the two:\n"
        '  CPU: pip install "dbloss[cpu]"\n'
        "  GPU: pip install dbloss paddlepaddle-gpu   "
        "(the wheel for your CUDA version: https://www.paddlepaddle.org.cn/en/install/quick)"
    ) from error

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
