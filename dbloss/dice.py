"""The Dice loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

from paddle import Tensor

from dbloss import checks
from dbloss._layer import TermLayer
from dbloss._static import plain_python, untraced
from dbloss.engine import Term, scratch
from dbloss.engine.dtypes import computed, own_dtypes


class Dice(NamedTuple):
    """`L = 1 - (2*I + smooth) / (U + smooth)` over pixels of weight `w`.

    `I = sum(w*p*g)`, `U = sum(w*p) + sum(w*g) + eps`, and
    `dL/dp = w * (a + b*g)` with `a = (2*I + smooth) / (U + smooth)^2`, `b = -2 / (U + smooth)`.
    """

    eps: float
    smooth: float

    def value(self, sums: Any, count: Any) -> Any:
        """Return L from `(sum(w*p*g), sum(w*p), sum(w*g))`."""
        return 1 - self._overlap(sums) / self._union(sums)

    def line(self, sums: Any, count: Any) -> tuple[Any, ...]:
        """Return the coefficients `(a, b)` of the gradient."""
        union = self._union(sums)
        return self._overlap(sums) / (union * union), -2 / union

    def values(self, p: Tensor, g: Tensor) -> Tensor:
        """Return `p`, which mining ranks the negatives by."""
        return p

    def sums(
        self, values: Tensor, g: Tensor, w: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the sums that `value` takes; `values` are overwritten."""
        values = scratch.multiply(values, w)
        predicted = add_up(values)
        values = scratch.multiply(values, g)
        overlap = add_up(values)
        labelled = add_up(scratch.multiply(scratch.replace(values, g), w))
        return overlap, predicted, labelled

    def slope(self, p: Tensor, g: Tensor, line: tuple[Any, ...]) -> Tensor:
        """Return the gradient per unit of weight; `p` is overwritten."""
        constant, per_target = line
        return scratch.add(scratch.multiply(scratch.replace(p, g), per_target), constant)

    def _overlap(self, sums: Any) -> Any:
        return 2 * sums[0] + self.smooth

    def _union(self, sums: Any) -> Any:
        return sums[1] + sums[2] + self.eps + self.smooth


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
        TypeError: a hyperparameter is not a number.
        ValueError: a hyperparameter is out of its range.

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

    @plain_python
    def forward(
        self, pred: Tensor, gt: Tensor, mask: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: predicted probabilities, float `[N, H, W]`, in [0, 1].
            gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
            mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer.
            weights: further weights of the pixels, `[N, H, W]`.

        Returns:
            The loss, 0-D float32.

        Raises:
            TypeError: an argument is not a tensor of one of those dtypes.
            ValueError: shapes differ, a map is empty, or a label requires a gradient.
        """
        if weights is None:
            checks.single(pred, gt, mask=mask)
        else:
            checks.single(pred, gt, mask=mask, weights=weights)
            with own_dtypes():
                mask = mask.astype(computed(pred)) * weights.astype(computed(pred))
        return self._evaluate(pred, gt, mask)

    def _terms(self, gt: Tensor, mask: Tensor, channel: int = 0) -> tuple[Term, ...]:
        return (Term(Dice(self.eps, self.smooth), gt, mask, channel),)

    def extra_repr(self) -> str:
        """Return the settings, for `print(layer)`."""
        return f"eps={self.eps}, smooth={self.smooth}"
