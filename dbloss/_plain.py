"""The plain formulas, as a PaddleOCR configuration runs them: what speed and numbers are held to.

Each step is an operator of its own, negatives are sorted in full, and the counts are read on the
host. Written from the formulas; `tests/test_plain.py` holds it to PaddleOCR's own numbers.
"""

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor

EPS = 1e-6


def dice(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    """Return the Dice loss over the mask."""
    intersection = paddle.sum(p * g * m)
    union = paddle.sum(p * m) + paddle.sum(g * m) + EPS
    loss = 1 - 2.0 * intersection / union
    if loss > 1:
        raise AssertionError("Dice loss above 1")
    return loss


def masked_l1(p: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """Return the mean absolute error over the mask."""
    return (paddle.abs(p - t) * k).sum() / (k.sum() + EPS)


def cross_entropy(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    """Return the cross-entropy of each pixel."""
    return F.binary_cross_entropy(p, g, reduction="none")


def counts(positive: Tensor, negative: Tensor, ratio: float) -> tuple[int, int]:
    """Return the numbers of positives and of hard negatives."""
    n_pos = int(positive.sum())
    return n_pos, int(min(float(negative.sum()), n_pos * ratio))


def balanced(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], p: Tensor, g: Tensor, m: Tensor, ratio: float
) -> Tensor:
    """Return a loss balanced between positives and the hardest negatives."""
    positive, negative = g * m, (1 - g) * m
    n_pos, n_neg = counts(positive, negative, ratio)
    value = loss(p, g, m)
    positive_loss, negative_loss = positive * value, (negative * value).flatten()
    if n_neg == 0:
        return positive_loss.sum() / (n_pos + EPS)
    hardest = negative_loss.sort(descending=True)[:n_neg]
    return (positive_loss.sum() + hardest.sum()) / (n_pos + n_neg + EPS)


def ohem_dice(p: Tensor, g: Tensor, m: Tensor, ratio: float) -> Tensor:
    """Return the Dice loss over the positives and the hardest negatives."""
    positive, negative = g * m, (1 - g) * m
    _, n_neg = counts(positive, negative, ratio)
    if n_neg == 0:
        return dice(p, g, positive)
    hardness = (p * negative).detach()
    threshold = hardness.flatten().sort(descending=True)[n_neg - 1]
    return dice(p, g, positive + negative * (hardness >= threshold).astype(p.dtype))


def focal(p: Tensor, g: Tensor, m: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the mean focal loss over the mask."""
    p = paddle.clip(p, EPS, 1 - EPS)
    logit = paddle.log(p / (1 - p))
    loss = F.sigmoid_focal_loss(logit, g, alpha=alpha, gamma=gamma, reduction="none")
    return (loss * m).sum() / (m.sum() + EPS)


def squared_error(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    """Return the squared error of each pixel."""
    return F.mse_loss(p, g, reduction="none")


BALANCED = {
    "DiceLoss": dice,
    "MaskL1Loss": masked_l1,
    "BCELoss": cross_entropy,
    "Euclidean": squared_error,
}


def db_loss(
    maps: Tensor,
    labels: Sequence[Tensor],
    main_loss_type: str = "DiceLoss",
    ratio: float = 3,
    gamma: float = 2.0,
) -> Tensor:
    """Return the total loss of a batch, with alpha = 5 and beta = 10."""
    t, k, g, m = labels[1:]
    shrink_map, threshold_map, binary_map = maps[:, 0], maps[:, 1], maps[:, 2]
    binary = dice(binary_map, g, m)
    if main_loss_type == "DiceFocalLoss":
        shrink = dice(shrink_map, g, m) + focal(shrink_map, g, m, gamma=gamma)
        binary = binary + focal(binary_map, g, m, gamma=gamma)
    elif main_loss_type == "OHEMDiceLoss":
        shrink = ohem_dice(shrink_map, g, m, ratio)
    else:
        shrink = balanced(BALANCED[main_loss_type], shrink_map, g, m, ratio)
    return 5 * shrink + 10 * masked_l1(threshold_map, t, k) + binary
