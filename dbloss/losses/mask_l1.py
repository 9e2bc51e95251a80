"""The L1 loss over a mask."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paddle import Tensor

from dbloss.base import checks
from dbloss.base.static import untraced, untranslated
from dbloss.engine.formulas import AbsoluteError, Mean
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.layer import TermLayer, checked_pixels


@untraced
class MaskL1Loss(TermLayer):
    """Mean absolute error over the pixels of a mask.

    `L = sum(|p - t| * k) / (sum(k) + eps)` over the whole batch, with the gradient
    `sign(p - t) * k / (sum(k) + eps)`.

    Args:
        eps: added to the denominator, above 0.
        global_batch: as in `DBLoss`.
        group: as in `DBLoss`.

    Raises:
        TypeError: a hyperparameter is of the wrong type.
        ValueError: `eps` is not above 0, or there is a group without a global batch.

    Example:
        >>> import paddle
        >>> from dbloss import MaskL1Loss
        >>> pred = paddle.to_tensor([[[0.5, 0.9]]])
        >>> gt = paddle.to_tensor([[[0.7, 0.3]]])
        >>> mask = paddle.to_tensor([[[1.0, 0.0]]])
        >>> round(float(MaskL1Loss()(pred, gt, mask)), 4)
        0.2

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, equation 10; PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """

    def __init__(self, eps: float = 1e-6, global_batch: bool = False, group: Any = None) -> None:
        super().__init__(global_batch, group)
        self.eps = checks.number("eps", eps, above=0)

    @untranslated
    def forward(self, pred: Tensor, gt: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: predicted thresholds, float `[N, H, W]`, in [0, 1].
            gt: target thresholds, `[N, H, W]`; float, bool or integer.
            mask: `[N, H, W]`, 1 where the threshold counts; float, bool or integer.

        Returns:
            The loss, 0-D float32.

        Raises:
            TypeError: an argument is not a tensor of one of those dtypes.
            ValueError: shapes differ, a map is empty, a label requires a gradient, or
                `DBLOSS_ENGINE` names no engine.
            RuntimeError: this process is not one of the group, or `DBLOSS_ENGINE` asks for an
                engine that cannot run.
        """
        return self._evaluate(self._terms(checked_pixels(pred, gt, mask, mask_needed=True)))

    if TYPE_CHECKING:
        __call__ = forward

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        return [(1, Term(Mean(AbsoluteError(), self.eps), pixels))]
