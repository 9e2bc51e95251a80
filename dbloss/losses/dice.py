"""The Dice loss."""

from collections.abc import Sequence
from typing import Any

from dbloss.base.static import untraced
from dbloss.engine.formulas import Tversky
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.layer import OverlapLoss


@untraced
class DiceLoss(OverlapLoss):
    """Dice loss over the pixels of a mask.

    `L = 1 - (2*I + smooth) / (U + smooth)` with `I = sum(w*p*g)`,
    `U = sum(w*p) + sum(w*g) + eps`, summed over the whole batch, and `w` the mask, times `weights`
    where given. With `smooth = 0` the gradient is `w * (2*I - 2*U*g) / U^2`.

    Args:
        eps: added to the denominator, above 0.
        smooth: added to both sides of the fraction, at least 0. Above 0 it gives a batch without
            text a gradient that pushes predictions down; PaddleOCR has none, which is 0.
        global_batch: as in `DBLoss`.
        group: as in `DBLoss`.

    Raises:
        TypeError: a hyperparameter is of the wrong type.
        ValueError: a hyperparameter is out of its range, or there is a group without a global
            batch.

    Example:
        >>> import paddle
        >>> from dbloss import DiceLoss
        >>> pred = paddle.to_tensor([[[0.5, 0.5]]])
        >>> gt = paddle.to_tensor([[[1.0, 0.0]]])
        >>> round(float(DiceLoss()(pred, gt, paddle.ones_like(gt))), 4)
        0.5

    Source:
        Milletari et al., "V-Net", 3DV 2016; PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """

    def __init__(
        self,
        eps: float = 1e-6,
        smooth: float = 0.0,
        global_batch: bool = False,
        group: Any = None,
    ) -> None:
        super().__init__(eps, smooth, global_batch, group)

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        return [(1, Term(Tversky(self.eps, self.smooth), pixels))]
