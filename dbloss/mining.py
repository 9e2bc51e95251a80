"""Which negatives count: how many, and the weight of a tie. Nothing here has a gradient."""

from typing import Any, NamedTuple

from paddle import Tensor

from dbloss import checks, engine
from dbloss._static import plain_python


class Balance(NamedTuple):
    """How a loss is balanced between positives and hard negatives (OHEM).

    `per_pixel` ranks the negatives by the hardness of each and leaves the others out of the loss.
    Without it the one loss of all pixels is scaled by
    `(sum(g*m) + sum of the n_neg largest (1-g)*m) / (n_pos + n_neg + eps)`, as PaddleOCR does.
    """

    ratio: float
    fallback: float
    eps: float
    per_pixel: bool

    def counts(self, positive: Any, negative: Any, xp: Any) -> tuple[Any, Any]:
        """Return `n_pos = int(sum(g*m))` and `n_neg = int(min(sum((1-g)*m), n_pos * ratio))`.

        Both are truncated and never below 0. Where `n_pos` is 0, `fallback` takes the place of
        `n_pos * ratio`. The sums are 0-D arrays of `xp`, which is paddle or numpy.
        """
        n_pos = xp.floor(xp.clip(positive, 0, None))
        wanted = xp.where(n_pos > 0, n_pos * self.ratio, n_pos + self.fallback)
        n_neg = xp.floor(xp.clip(xp.minimum(negative, wanted), 0, None))
        return n_pos, n_neg


def tie_weight(n_neg: Any, n_above: Any, n_equal: Any, xp: Any) -> Any:
    """Return the weight of a value equal to the threshold: an equal share of the places left.

    It is at most 1: where there are more places than values, each value counts fully.
    """
    return xp.clip((n_neg - n_above) / xp.clip(n_equal, 1, None), 0, 1)


@plain_python
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
    v is among the `n_neg` largest. Negatives whose v equals the smallest of these share the places
    left: each has the weight `(n_neg - n_above) / n_equal`.

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
        ValueError: shapes differ, a map is empty, a label requires a gradient, or a number is out
            of its range.

    Example:
        >>> import paddle
        >>> from dbloss import hard_negative_weights
        >>> probability = paddle.to_tensor([[[0.9, 0.2, 0.7, 0.2, 0.1]]])
        >>> text = paddle.to_tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
        >>> weights = hard_negative_weights(probability, text, paddle.ones_like(text), 2)
        >>> weights.tolist()  # two places: one for 0.7, one shared by the two of 0.2
        [[[0.0, 0.5, 1.0, 0.5, 0.0]]]

    Source:
        Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
        Mining", CVPR 2016; PaddleOCR `ppocr/losses/det_basic_loss.py`, whose ties go to the first
        in sorting order.
    """
    checks.single(hardness, gt, name="hardness", mask=mask)
    ratio = checks.number("negative_ratio", negative_ratio, least=0)
    fallback = checks.number("fallback_negatives", fallback_negatives, least=0)
    balance = Balance(ratio, fallback, eps=0.0, per_pixel=True)
    return engine.hard_negatives(hardness, gt, mask, balance)
