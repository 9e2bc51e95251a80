"""The sum of Dice and the focal loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paddle import Tensor

from dbloss.base import checks
from dbloss.base.static import untraced, untranslated
from dbloss.engine.formulas import Focal, Mean, Tversky
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.layer import TermLayer, checked_pixels


@untraced
class DiceFocalLoss(TermLayer):
    """Dice loss plus focal loss over the pixels of a mask.

    `L = dice_weight * Dice + focal_weight * sum(m * l) / (sum(m) + eps)`, with the focal loss
    `l = alpha_t * (1 - p_t)^gamma * BCE(q, g)`, `q = clip(p, eps, 1 - eps)`, where `p_t` is the
    probability given to the truth and `alpha_t` is `focal_alpha` on text, 1 minus it elsewhere.

    Args:
        dice_weight: weight of the Dice loss, at least 0.
        focal_weight: weight of the focal loss, at least 0.
        focal_alpha: share of the positives in the focal loss, in [0, 1].
        focal_gamma: exponent that takes weight from easy pixels, at least 0.
        eps: added to the denominators, and the margin of the clip; at least 1.2e-38 and below 0.5.
        smooth: as in `DiceLoss`.
        global_batch: as in `DBLoss`.
        group: as in `DBLoss`.

    Raises:
        TypeError: a hyperparameter is of the wrong type.
        ValueError: a hyperparameter is out of its range, or there is a group without a global
            batch.

    Example:
        >>> import paddle
        >>> from dbloss import DiceFocalLoss
        >>> pred = paddle.to_tensor([[[0.5, 0.5]]])
        >>> gt = paddle.to_tensor([[[1.0, 0.0]]])
        >>> loss = DiceFocalLoss(focal_alpha=0.5, focal_gamma=0.0)(pred, gt)
        >>> round(float(loss), 4)  # 0.5 of Dice and half of log 2
        0.8466

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017;
        PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        focal_weight: float = 1.0,
        focal_alpha: float = 0.75,
        focal_gamma: float = 2.0,
        eps: float = 1e-6,
        smooth: float = 0.0,
        global_batch: bool = False,
        group: Any = None,
    ) -> None:
        super().__init__(global_batch, group)
        self.dice_weight = checks.number("dice_weight", dice_weight, least=0)
        self.focal_weight = checks.number("focal_weight", focal_weight, least=0)
        self.focal_alpha = checks.number("focal_alpha", focal_alpha, least=0, most=1)
        self.focal_gamma = checks.number("focal_gamma", focal_gamma, least=0)
        # Below the numbers that float32 holds in full, 1 / eps would be infinite.
        self.eps = checks.number("eps", eps, above=0, below=0.5, least=2.0**-126)
        self.smooth = checks.number("smooth", smooth, least=0)

    @untranslated
    def forward(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: predicted probabilities, float `[N, H, W]`, in [0, 1].
            gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
            mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer. None
                counts every pixel.
            weights: what a pixel weighs beside, `[N, H, W]`, above 0; float, bool or integer. They
                multiply the mask in every sum over pixels.

        Returns:
            The loss, 0-D float32.

        Raises:
            TypeError: an argument is not a tensor of one of those dtypes.
            ValueError: shapes differ, a map is empty, a label requires a gradient, or
                `DBLOSS_ENGINE` names no engine.
            RuntimeError: this process is not one of the group, or `DBLOSS_ENGINE` asks for an
                engine that cannot run.
        """
        return self._evaluate(self._terms(checked_pixels(pred, gt, mask, weights)))

    if TYPE_CHECKING:
        __call__ = forward

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        focal = Focal.of(self.focal_alpha, self.focal_gamma, self.eps)
        return [
            (self.dice_weight, Term(Tversky(self.eps, self.smooth), pixels)),
            (self.focal_weight, Term(Mean(focal, self.eps), pixels)),
        ]
