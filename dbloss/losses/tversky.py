"""The Tversky loss: Dice in which false finds and misses weigh apart."""

from collections.abc import Sequence
from typing import Any

from dbloss.base import checks
from dbloss.base.static import untraced
from dbloss.engine.formulas import Tversky
from dbloss.engine.mining import Pixels, Term
from dbloss.losses.layer import OverlapLoss


@untraced
class TverskyLoss(OverlapLoss):
    """Tversky loss over the pixels of a mask.

    `L = (1 - T)^gamma` with
    `T = (I + smooth/2) / (alpha*P + beta*G + (1-alpha-beta)*I + smooth/2 + eps/2)`,
    `I = sum(w*p*g)`, `P = sum(w*p)` and `G = sum(w*g)`, summed over the whole batch, and `w` the
    mask, times `weights` where given. `P - I` are false finds and `G - I` misses. With alpha and
    beta 1/2 and gamma 1 it is `DiceLoss`.

    Args:
        alpha: what a false find weighs, at least 0. Above beta the detector finds less that is not
            there, and words that are close to each other stay apart more often.
        beta: what a miss weighs, at least 0.
        gamma: the power, above 0. For one other than 1, `1 - T` is at least 1e-12.
        eps: added to the denominator, above 0, as in `DiceLoss`.
        smooth: added as in `DiceLoss`, at least 0.
        global_batch: as in `DBLoss`.
        group: as in `DBLoss`.

    Raises:
        TypeError: a hyperparameter is of the wrong type.
        ValueError: a hyperparameter is out of its range, or there is a group without a global
            batch.

    Example:
        >>> import paddle
        >>> from dbloss import TverskyLoss
        >>> pred = paddle.to_tensor([[[0.5, 0.5]]])
        >>> gt = paddle.to_tensor([[[1.0, 0.0]]])
        >>> loss = TverskyLoss(alpha=0.75, beta=0.25)(pred, gt, paddle.ones_like(gt))
        >>> round(float(loss), 4)  # I = 0.5 of 0.75 * 1 + 0.25 * 1
        0.5

    Source:
        Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional
        deep networks", MLMI 2017; Abraham and Khan, "A novel focal Tversky loss function",
        ISBI 2019, for gamma.
    """

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        gamma: float = 1.0,
        eps: float = 1e-6,
        smooth: float = 0.0,
        global_batch: bool = False,
        group: Any = None,
    ) -> None:
        super().__init__(eps, smooth, global_batch, group)
        self.alpha = checks.number("alpha", alpha, least=0)
        self.beta = checks.number("beta", beta, least=0)
        self.gamma = checks.number("gamma", gamma, above=0)

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        weights = self.alpha, self.beta, self.gamma
        return [(1, Term(Tversky(self.eps, self.smooth, *weights), pixels))]
