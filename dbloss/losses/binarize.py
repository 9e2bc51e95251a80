"""The step function that turns a probability map and a threshold map into a binary map."""

import paddle.nn.functional as F
from paddle import Tensor

from dbloss.base import checks
from dbloss.base.static import untranslated
from dbloss.batch import arguments


@untranslated
def differentiable_binarization(
    probability_map: Tensor, threshold_map: Tensor, k: float = 50.0
) -> Tensor:
    """Return the approximate binary map `B = sigmoid(k * (P - T))`.

    DB heads write it as `1 / (1 + exp(-k * (P - T)))`. With k = 50 the gradient of that form is NaN
    in float16 once T - P > 0.222: there the exponential is above 65504, the largest float16, and
    the gradient is 0 times infinity. The gradient of the sigmoid is finite everywhere.

    Args:
        probability_map: P, float `[N, H, W]` or any other shape, values in [0, 1].
        threshold_map: T, the shape and dtype of P, values in [0, 1].
        k: steepness of the step; the paper's 50 by default.

    Returns:
        B, the shape and dtype of P, values in [0, 1].

    Raises:
        TypeError: a map is not a tensor of floats, or the two dtypes differ, or `k` is no number.
        ValueError: the two shapes differ, or `k` is not above 0.

    Example:
        >>> import paddle
        >>> from dbloss import differentiable_binarization
        >>> P = paddle.to_tensor([0.2, 0.5, 0.9])
        >>> T = paddle.to_tensor([0.5, 0.5, 0.5])
        >>> [round(b, 4) for b in differentiable_binarization(P, T).tolist()]
        [0.0, 0.5, 1.0]

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, equation 2; PaddleOCR `ppocr/modeling/heads/det_db_head.py`.
    """
    k = checks.number("k", k, above=0)
    arguments.prediction("probability_map", probability_map)
    arguments.prediction("threshold_map", threshold_map)
    _check_alike(threshold_map, probability_map)
    return F.sigmoid(k * (probability_map - threshold_map))


def _check_alike(threshold_map: Tensor, probability_map: Tensor) -> None:
    """Check that the maps have one shape and one dtype."""
    axes = range(len(probability_map.shape))
    if len(threshold_map.shape) != len(axes) or not arguments.sizes_agree(
        threshold_map, probability_map, axes
    ):
        expected = f"the shape of probability_map, {list(probability_map.shape)}"
        advice = "Pass two maps of one size."
        raise checks.wrong("threshold_map", expected, list(threshold_map.shape), advice)
    if threshold_map.dtype != probability_map.dtype:
        expected = f"the dtype of probability_map, {arguments.dtype_name(probability_map)}"
        got, advice = arguments.dtype_name(threshold_map), "Convert one of them with .astype."
        raise checks.wrong("threshold_map", expected, got, advice, TypeError)
