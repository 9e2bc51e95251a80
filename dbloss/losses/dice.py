"""The Dice loss."""

from typing import TYPE_CHECKING, Any

from paddle import Tensor

from dbloss.base import checks
from dbloss.base.static import untraced, untranslated
from dbloss.engine.formulas import Tversky
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.layer import TermLayer, checked_pixels


@untraced
class DiceLoss(TermLayer):
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
        super().__init__(global_batch, group)
        self.eps = checks.number("eps", eps, above=0)
        self.smooth = checks.number("smooth", smooth, least=0)

    @untranslated
    def forward(
        self, pred: Tensor, gt: Tensor, mask: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: predicted probabilities, float `[N, H, W]`, in [0, 1].
            gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
            mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer.
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
        return self._evaluate(
            self._terms(checked_pixels(pred, gt, mask, weights, mask_needed=True))
        )

    if TYPE_CHECKING:
        __call__ = forward

    def _terms(self, pixels: Pixels) -> tuple[Term, ...]:
        return (Term(Tversky(self.eps, self.smooth), pixels),)

    def extra_repr(self) -> str:
        """Return the settings, for `print(layer)`."""
        return f"eps={self.eps}, smooth={self.smooth}"
