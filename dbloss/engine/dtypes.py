"""The dtypes that losses are computed in, whatever the prediction is and AMP would cast to."""

from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import Tensor

from dbloss import checks

_GREATEST_FLOAT16 = 65504.0


def computed(prediction: Tensor) -> Any:
    """Return the dtype of the maps that are worked on: float64 for float64, else float32."""
    return paddle.float64 if prediction.dtype == paddle.float64 else paddle.float32


def without_amp() -> AbstractContextManager[None]:
    """Return a context in which operators keep the dtypes given here, whatever AMP would cast.

    Sums over a million pixels overflow in float16.
    """
    if paddle.__version__.startswith("2."):
        # There AMP itself would refuse the graph, and not say what to do.
        checks.eager(
            f"Paddle {paddle.__version__}",
            "Compile the model alone and call the loss on what it returns, or install Paddle 3.",
        )
    context: AbstractContextManager[None] = paddle.amp.auto_cast(enable=False)
    return context


def cast_gradient(gradient: Tensor, dtype: Any) -> Tensor:
    """Return the gradient in the dtype of the prediction.

    What float16 cannot hold becomes its largest number: the backward pass of a saturated sigmoid
    would make NaN of an infinity.
    """
    if dtype == paddle.float16:
        held = gradient.clip(-_GREATEST_FLOAT16, _GREATEST_FLOAT16)
        gradient = paddle.where(gradient.isnan(), gradient, held)
    return gradient.astype(dtype)
