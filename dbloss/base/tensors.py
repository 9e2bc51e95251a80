"""How the package treats a caller's tensors: dtypes, AMP, constants, changes made in place."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import paddle
from numpy.typing import NDArray
from paddle import Tensor

from dbloss.base import checks

_GREATEST_FLOAT16 = 65504.0
_IS_PADDLE_2 = paddle.__version__.startswith("2.")
_CPU = paddle.CPUPlace()
_NO_CONTEXT = nullcontext()
_may_cast = getattr(paddle.amp, "is_autocast_enabled", lambda: True)


def computed(*predictions: Tensor) -> Any:
    """Return the dtype to compute in: float64 if a prediction is float64, else float32."""
    dtypes = [prediction.dtype for prediction in predictions]
    return paddle.float64 if paddle.float64 in dtypes else paddle.float32


def without_amp() -> AbstractContextManager[None]:
    """Return a context in which AMP casts nothing.

    Sums over a million pixels overflow in float16.
    """
    if _IS_PADDLE_2:
        # Paddle 2's AMP would refuse the graph too, without saying what to do.
        checks.eager(
            f"Paddle {paddle.__version__}",
            "Compile the model alone and call the loss on what it returns, or install Paddle 3.",
        )
    if not _may_cast():
        return _NO_CONTEXT
    context: AbstractContextManager[None] = paddle.amp.auto_cast(enable=False)
    return context


def constant(x: Tensor) -> Tensor:
    """Return `x` without gradient: a view in eager mode, a copy in a static graph.

    In a static graph an operator that works in place, in parallel, could overwrite a view.
    """
    if paddle.in_dynamic_mode():
        return x.detach()
    copy = paddle.assign(x)
    copy.stop_gradient = True
    return copy


def unchanged(*tensors: Tensor) -> Callable[[], None]:
    """Return a function that raises if one of the tensors was changed in place in the meantime."""
    versions = [(tensor, tensor.inplace_version) for tensor in tensors]

    def check() -> None:
        for tensor, version in versions:
            if tensor.inplace_version != version:
                raise RuntimeError(
                    "A map or a label was changed in place between the loss and its gradient, which"
                    f" needs it: expected version {version} of a tensor of shape"
                    f" {list(tensor.shape)}, got version {tensor.inplace_version}. Call .clone()"
                    " first and change the copy, or change it after backward()."
                )

    return check


def hold(gradient: Tensor, prediction: Tensor) -> Tensor:
    """Return the gradient in the dtype of the prediction.

    Beyond the range of float16 it becomes infinite, which a `GradScaler` looks for. Where the
    prediction is exactly 0 or 1 it becomes the largest float16 instead: there the backward pass of
    a saturated sigmoid would turn an infinity into NaN, in every step.
    """
    if prediction.dtype == gradient.dtype:
        return gradient
    with without_amp():
        if prediction.dtype == paddle.float16:
            gradient = paddle.where(_saturated(prediction), _held(gradient), gradient)
        return gradient.astype(prediction.dtype)


def _saturated(prediction: Tensor) -> Tensor:
    return (prediction == 0).logical_or(prediction == 1)


def _held(gradient: Tensor) -> Tensor:
    return gradient.clip(-_GREATEST_FLOAT16, _GREATEST_FLOAT16)


def widened(maps: Tensor, dtype: Any) -> Tensor:
    """Return the maps in the dtype to compute in; their gradient is made by `hold`."""
    wide = maps.astype(dtype)
    if maps.dtype != paddle.float16:
        return wide
    if not paddle.in_dynamic_mode():
        holding = paddle.static.nn.static_pylayer(
            lambda x: x.astype(dtype),
            [maps],
            lambda gradient: _held(gradient).astype(paddle.float16),
        )
        return paddle.where(_saturated(constant(wide)), holding, wide)
    if not wide.stop_gradient:
        given = maps.detach()

        def before_the_cast(gradient: Tensor) -> Tensor:
            with without_amp():
                return hold(gradient, given).astype(dtype)

        wide.register_hook(before_the_cast)
    return wide


def on_cpu(array: NDArray[Any], share: bool = False) -> Tensor:
    """Return the values of an array as a tensor on the CPU, whatever the default device.

    A tensor may `share` the memory of the array.
    """
    # Not through DLPack: Paddle holds a lock while the memory of such a tensor is given back, and
    # two threads that do so wait for each other. By keywords it takes longer.
    persistable = False
    return paddle.Tensor(array, _CPU, persistable, share)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return the values of a tensor, as float32 for half precision, since NumPy lacks bfloat16."""
    half = tensor.dtype in (paddle.float16, paddle.bfloat16)
    array: NDArray[Any] = (tensor.detach().astype("float32") if half else tensor.detach()).numpy()
    return array
