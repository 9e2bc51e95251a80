"""The balance between text and hard negatives (OHEM)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from paddle import Tensor

from dbloss.base import checks
from dbloss.base.static import untraced, untranslated
from dbloss.base.tensors import without_amp
from dbloss.batch import arguments
from dbloss.engine import hard_negatives
from dbloss.engine.formulas import (
    AbsoluteError,
    BinaryCrossEntropy,
    Loss,
    Mean,
    PixelLoss,
    SquaredError,
    Tversky,
)
from dbloss.engine.mining import Balance, Pixels, Term
from dbloss.engine.operators import pixel_map
from dbloss.losses.layer import Further, TermLayer, checked_pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

MinedType = Literal["BCELoss", "CrossEntropy", "Euclidean", "OHEMDiceLoss", "DiceBCELoss"]
BalancedType = Literal["DiceLoss", "TverskyLoss", "MaskL1Loss", MinedType]
MINED_TYPES: tuple[MinedType, ...] = get_args(MinedType)
ALL_MINED = tuple(name for name in MINED_TYPES if name != "DiceBCELoss")
BALANCED_TYPES: tuple[BalancedType, ...] = get_args(BalancedType)
PIXEL_LOSSES: dict[str, PixelLoss] = {
    "BCELoss": BinaryCrossEntropy(),
    "CrossEntropy": BinaryCrossEntropy(),
    "Euclidean": SquaredError(),
}


@untraced
class BalanceLoss(TermLayer):
    """A loss balanced between text and hard negatives by online hard example mining (OHEM).

    With `n_pos = int(sum(g*m))` and `n_neg = int(min(sum((1-g)*m), n_pos * negative_ratio))`:

    - `BCELoss`, `CrossEntropy` (the same) and `Euclidean` (squared error) have a loss `l` at each
      pixel. `L = (sum(g*m*l) + S) / (n_pos + n_neg + eps)`, where S is the sum of the `n_neg`
      largest values of `(1-g)*m*l`. Where several tie for the last of these, each counts with the
      same weight below 1, so neither L nor its gradient depends on the order of the pixels.
    - `OHEMDiceLoss` is Dice over the positives and the `n_neg` negatives of the highest predicted
      probability.
    - `DiceLoss`, `TverskyLoss` and `MaskL1Loss` are one number `d` for the batch. The same formula
      with `l = d` everywhere gives d times a factor near 1: nothing is mined. This is what
      PaddleOCR computes by default, and published configurations were tuned with it.
    - `DiceBCELoss` is the sum of the first and the last: the loss of `DiceLoss` plus `bce_weight`
      times that of `BCELoss`.

    Args:
        balance_loss: False gives the loss without balance: d, or the mean of l over the mask,
            or Dice over the mask.
        main_loss_type: one of the names above. From trained weights take `TverskyLoss`.
        negative_ratio: hard negatives for each positive, at least 0.
        return_origin: True returns the pair of L and the loss before the balance: d, or the map of
            l, `[N, H, W]`, or the loss without balance for `OHEMDiceLoss` and `DiceBCELoss`.
            Without balance it has no effect.
        eps: added to every denominator, above 0.
        fallback_negatives: number of hard negatives where the batch has no positive, at least 0.
        smooth: as in `DiceLoss`; it reaches the Dice losses and `TverskyLoss` alone.
        global_batch: as in `DBLoss`.
        group: as in `DBLoss`.
        bce_weight: weight of the cross-entropy in `DiceBCELoss`, which alone reads it, at least 0.
        tversky_alpha: what a false find weighs in `TverskyLoss`, which alone reads it, at least 0.
        tversky_beta: what a miss weighs there, at least 0.
        tversky_gamma: the power there, above 0.

    Raises:
        TypeError: a hyperparameter is of the wrong type, or a keyword is close to a known one and
            not it, such as `negative_ration`.
        ValueError: a hyperparameter is out of its range, `main_loss_type` is unknown, or there is a
            group without a global batch.

    Example:
        >>> import paddle
        >>> from dbloss import BalanceLoss
        >>> pred = paddle.to_tensor([[[0.5, 0.5, 0.1, 0.2]]])
        >>> gt = paddle.to_tensor([[[1.0, 0.0, 0.0, 0.0]]])
        >>> loss = BalanceLoss(main_loss_type="BCELoss", negative_ratio=1)(pred, gt)
        >>> round(float(loss), 4)  # the positive and the hardest negative, log 2 each
        0.6931

    Source:
        Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
        Mining", CVPR 2016; PaddleOCR `ppocr/losses/det_basic_loss.py`.
    """

    def __init__(
        self,
        balance_loss: bool = True,
        main_loss_type: BalancedType = "DiceLoss",
        negative_ratio: float = 3,
        return_origin: bool = False,
        eps: float = 1e-6,
        fallback_negatives: int = 0,
        smooth: float = 0.0,
        global_batch: bool = False,
        group: Any = None,
        bce_weight: float = 0.2,
        tversky_alpha: float = 0.7,
        tversky_beta: float = 0.3,
        tversky_gamma: float = 1.0,
        **kwargs: "Unpack[Further]",
    ) -> None:
        super().__init__(global_batch, group)
        advice = ""
        if str(main_loss_type) == "DiceFocalLoss":
            advice = "It is not balanced: use dbloss.DiceFocalLoss, or DBLoss, which takes it."
        self.balance_loss = checks.flag("balance_loss", balance_loss)
        self.main_loss_type = checks.choice(
            "main_loss_type", main_loss_type, BALANCED_TYPES, advice
        )
        self.negative_ratio = checks.number("negative_ratio", negative_ratio, least=0)
        self.return_origin = checks.flag("return_origin", return_origin)
        self.eps = checks.number("eps", eps, above=0)
        self.fallback_negatives = checks.whole("fallback_negatives", fallback_negatives, least=0)
        self.smooth = checks.number("smooth", smooth, least=0)
        self.bce_weight = checks.number("bce_weight", bce_weight, least=0)
        self.tversky_alpha = checks.number("tversky_alpha", tversky_alpha, least=0)
        self.tversky_beta = checks.number("tversky_beta", tversky_beta, least=0)
        self.tversky_gamma = checks.number("tversky_gamma", tversky_gamma, above=0)
        checks.unknown(BalanceLoss, kwargs)

    @untranslated
    def forward(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the loss of a batch, and with `return_origin` the loss before the balance.

        Args:
            pred: predicted probabilities, float `[N, H, W]`, in [0, 1].
            gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
            mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer. None
                counts every pixel.
            weights: what a pixel weighs beside, `[N, H, W]`, above 0; float, bool or integer. They
                multiply the mask in every sum over pixels, but not
                where `n_pos` and `n_neg` are counted.

        Returns:
            The loss, 0-D float32. With `return_origin` the pair of it and the loss before the
            balance: 0-D float32, or the map of the loss of each pixel, float32 or float64
            `[N, H, W]`.

        Raises:
            TypeError: an argument is not a tensor of one of those dtypes.
            ValueError: shapes differ, a map is empty, a label requires a gradient, or
                `DBLOSS_ENGINE` names no engine.
            RuntimeError: this process is not one of the group, or `DBLOSS_ENGINE` asks for an
                engine that cannot run.
        """
        pixels = checked_pixels(pred, gt, mask, weights)
        balanced = self._evaluate(self._terms(pixels))
        if not (self.balance_loss and self.return_origin):
            return balanced
        with without_amp():
            if self.main_loss_type in PIXEL_LOSSES:
                return balanced, pixel_map(pred, gt, PIXEL_LOSSES[self.main_loss_type])
            terms = self._terms(pixels)
            return balanced, self._evaluate([(w, x._replace(balance=None)) for w, x in terms])

    if TYPE_CHECKING:
        # A caller knows whether it asked for the pair: `Any` lets it take what comes for either.
        def __call__(
            self,
            pred: Tensor,
            gt: Tensor,
            mask: Tensor | None = None,
            weights: Tensor | None = None,
        ) -> Tensor | Any: ...

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        return [
            (weight, Term(loss, pixels, self._balance(mined)))
            for weight, loss, mined in self._losses()
        ]

    def _losses(self) -> Sequence[tuple[float, Loss, bool]]:
        """Return the weight of each loss that is added up, the loss, and whether it is mined."""
        name, dice = self.main_loss_type, Tversky(self.eps, self.smooth)
        if name == "TverskyLoss":
            weights = self.tversky_alpha, self.tversky_beta, self.tversky_gamma
            return [(1, Tversky(self.eps, self.smooth, *weights), False)]
        if name == "MaskL1Loss":
            return [(1, Mean(AbsoluteError(), self.eps), False)]
        if name == "DiceBCELoss":
            mean = Mean(BinaryCrossEntropy(), self.eps)
            return [(1, dice, False), (self.bce_weight, mean, True)]
        if name in PIXEL_LOSSES:
            return [(1, Mean(PIXEL_LOSSES[name], self.eps), True)]
        return [(1, dice, name == "OHEMDiceLoss")]

    def _balance(self, mined: bool) -> Balance | None:
        if not self.balance_loss:
            return None
        return Balance(self.negative_ratio, self.fallback_negatives, mined, self.eps)


@untranslated
def hard_negative_weights(
    hardness: Tensor,
    gt: Tensor,
    mask: Tensor,
    negative_ratio: float = 3,
    fallback_negatives: int = 0,
) -> Tensor:
    """Return which negatives mining chooses: the selection of `BalanceLoss`, to look at.

    With `v = (1-g) * m * hardness`, `n_pos = int(sum(g*m))` and
    `n_neg = int(min(sum((1-g)*m), n_pos * negative_ratio))`, a negative has the weight 1 where its
    v is among the `n_neg` largest. Where several negatives tie for the last of these, each has the
    tie weight `(n_neg - n_above) / n_equal`.

    Args:
        hardness: what the negatives are ranked by, float `[N, H, W]`: the loss of each pixel
            (`BCELoss`, `Euclidean`), or the predicted probability (`OHEMDiceLoss`). Both rank
            negatives alike where the labels are 0 and 1.
        gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
        mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer.
        negative_ratio: hard negatives for each positive, at least 0.
        fallback_negatives: number of hard negatives where the batch has no positive, at least 0.

    Returns:
        float32 `[N, H, W]`, in [0, 1], without gradient: 1 for a chosen negative, the shared weight
        for a tie, 0 elsewhere.

    Raises:
        TypeError: an argument is not a tensor of one of those dtypes, or not a number.
        ValueError: shapes differ, a map is empty, a label requires a gradient, a number is out of
            its range, or `DBLOSS_ENGINE` names no engine.
        RuntimeError: `DBLOSS_ENGINE` asks for an engine that cannot run.

    Example:
        >>> import paddle
        >>> from dbloss import hard_negative_weights
        >>> probability = paddle.to_tensor([[[0.9, 0.2, 0.7, 0.2, 0.1]]])
        >>> text = paddle.to_tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
        >>> weights = hard_negative_weights(probability, text, paddle.ones_like(text), 2)
        >>> weights.tolist()  # two are chosen: 0.7, and half of each 0.2
        [[[0.0, 0.5, 1.0, 0.5, 0.0]]]

    Source:
        Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
        Mining", CVPR 2016; PaddleOCR `ppocr/losses/det_basic_loss.py`, whose ties go to the first
        in sorting order.
    """
    arguments.single(hardness, gt, name="hardness", mask=mask)
    ratio = checks.number("negative_ratio", negative_ratio, least=0)
    fallback = checks.whole("fallback_negatives", fallback_negatives, least=0)
    return hard_negatives(hardness, gt, mask, Balance(ratio, fallback, per_pixel=True))
