"""The plain formulas, as a PaddleOCR configuration runs them: the baseline of the benchmark.

Each step is an operator of its own in float32, negatives are sorted in full, and the counts are
read on the host. Written from the formulas; `tests/test_benchmarks.py` holds it to PaddleOCR's
own numbers.
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


def balanced(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], p: Tensor, g: Tensor, m: Tensor, ratio: float
) -> Tensor:
    """Return a loss balanced between positives and the hardest negatives."""
    positive, negative = g * m, (1 - g) * m
    n_pos = int(positive.sum())
    n_neg = int(min(float(negative.sum()), n_pos * ratio))
    value = loss(p, g, m)
    positive_loss, negative_loss = positive * value, (negative * value).flatten()
    if n_neg == 0:
        return positive_loss.sum() / (n_pos + EPS)
    hardest = negative_loss.sort(descending=True)[:n_neg]
    return (positive_loss.sum() + hardest.sum()) / (n_pos + n_neg + EPS)


MAIN_LOSSES = {"DiceLoss": dice, "BCELoss": cross_entropy, "MaskL1Loss": masked_l1}


def db_loss(
    maps: Tensor, labels: Sequence[Tensor], main_loss_type: str = "DiceLoss", ratio: float = 3
) -> Tensor:
    """Return the total loss of a batch, with alpha = 5 and beta = 10."""
    t, k, g, m = labels[1:]
    shrink = balanced(MAIN_LOSSES[main_loss_type], maps[:, 0], g, m, ratio)
    return 5 * shrink + 10 * masked_l1(maps[:, 1], t, k) + dice(maps[:, 2], g, m)
