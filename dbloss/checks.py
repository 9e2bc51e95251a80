"""Every error message of the package: what was expected, what came, what to do."""

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import paddle
from paddle import Tensor

_FLOATS = (paddle.float16, paddle.bfloat16, paddle.float32, paddle.float64)
_LABEL_DTYPES = (
    *_FLOATS,
    paddle.bool,
    paddle.uint8,
    paddle.int8,
    paddle.int16,
    paddle.int32,
    paddle.int64,
)
_LABEL_NAMES = ("image", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """Return `value` if it is a finite number within the bounds, raise otherwise."""
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"below {below:g}"] if below is not None else []
    bounds += [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    expected = " ".join(["a finite number", " and ".join(bounds)]).strip()
    if isinstance(value, bool) or not isinstance(value, Real):
        advice = "Pass a Python number."
        if isinstance(value, str):
            advice += " (YAML takes 1e-6 for text; it reads 1.0e-6 as a number.)"
        raise TypeError(f"{name}: expected {expected}, got {_describe(value)}. {advice}")
    number = float(value)
    fits = (
        math.isfinite(number)
        and (above is None or number > above)
        and (below is None or number < below)
        and (least is None or number >= least)
        and (most is None or number <= most)
    )
    if not fits:
        raise ValueError(f"{name}: expected {expected}, got {value}. Change {name}.")
    return value


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False, raise otherwise."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{name}: expected True or False, got {_describe(value)}. Pass a Python bool."
        )
    return value


def choice(name: str, value: Any, allowed: Sequence[str], advice: str = "") -> str:
    """Return `value` if it is one of the allowed names, raise otherwise."""
    if value not in allowed:
        raise ValueError(
            f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}."
            f" {advice or 'Correct the spelling; upper and lower case count.'}"
        )
    return str(value)


def warn_unknown(layer: str, kwargs: Mapping[str, Any]) -> None:
    """Warn of keyword arguments that nothing reads. `name` is PaddleOCR's own and passes."""
    unknown = sorted(set(kwargs) - {"name"})
    if unknown:
        warnings.warn(
            f"{layer} does not know {', '.join(map(repr, unknown))} and leaves it unused."
            " Correct the spelling, or delete it.",
            UserWarning,
            stacklevel=3,
        )


def maps(
    predicts: Any, name: str = "maps", channels: int = 3, like: Tensor | None = None
) -> Tensor:
    """Return `predicts[name]`: `[N, 3, H, W]`, or `[N, C, H, W]` where one channel is enough.

    N, H and W are those of the maps `like`, where given.
    """
    if not isinstance(predicts, Mapping):
        raise TypeError(
            f'predicts: expected a dict that holds "{name}", got {_describe(predicts)}.'
            f' Pass {{"{name}": tensor}}, as a DB head returns it.'
        )
    if name not in predicts:
        raise ValueError(
            f'predicts: expected the key "{name}", got the keys {sorted(map(str, predicts))}.'
            f' Pass {{"{name}": tensor}}, as a DB head returns it.'
        )
    tensor = predicts[name]
    where = f'predicts["{name}"]'
    prediction(where, tensor)
    shape = list(tensor.shape)
    exact = channels == 3
    wanted = "3" if exact else f"C >= {channels}"
    if len(shape) != 4:
        raise ValueError(
            f"{where}: expected the shape [N, {wanted}, H, W], got {shape}."
            " Stack the probability, threshold and binary map along axis 1."
        )
    if exact and shape[1] == 1:
        raise ValueError(
            f"{where}: expected 3 channels (probability, threshold, binary), got 1 ({shape})."
            " A DB head in evaluation mode returns the probability map alone:"
            " call model.train() before the forward pass whose loss you want."
        )
    if (shape[1] != channels) if exact else (0 <= shape[1] < channels):
        raise ValueError(
            f"{where}: expected the shape [N, {wanted}, H, W], got {shape}."
            " Stack the probability, threshold and binary map along axis 1."
        )
    _not_empty(where, tensor)
    if like is not None:
        expected = [like.shape[0], shape[1], *like.shape[2:]]
        if not _shapes_agree(shape, expected):
            raise ValueError(
                f'{where}: expected the shape {expected}, N, H and W of predicts["maps"],'
                f" got {shape}. Upsample it to the size of the labels."
            )
    return tensor


def labels(labels: Any, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four label maps, each `[N, H, W]` with the N, H and W of the maps `like`."""
    if isinstance(labels, str | Mapping) or not isinstance(labels, Sequence):
        raise TypeError(
            f"labels: expected a list of 5 tensors [{', '.join(_LABEL_NAMES)}],"
            f" got {_describe(labels)}. Pass the batch as PaddleOCR's data loader gives it."
        )
    if len(labels) != 5:
        raise ValueError(
            f"labels: expected 5 entries [{', '.join(_LABEL_NAMES)}], got {len(labels)}."
            " The image comes first and is not read: None will do for it."
        )
    shape = [like.shape[0], *like.shape[2:]]
    for index, name in enumerate(_LABEL_NAMES[1:], start=1):
        _label(f"labels[{index}] ({name})", labels[index], shape, 'predicts["maps"]')
    return tuple(labels[1:])


def single(pred: Any, gt: Any, *, name: str = "pred", **masks: Any) -> None:
    """Check what a single loss takes: a prediction, `gt` and the masks, each `[N, H, W]`."""
    prediction(name, pred)
    if len(pred.shape) != 3:
        raise ValueError(
            f"{name}: expected the shape [N, H, W], got {list(pred.shape)}."
            f" Take one channel, {name}[:, 0], or add the batch axis with {name}.unsqueeze(0)."
        )
    _not_empty(name, pred)
    for label_name, label in {"gt": gt, **masks}.items():
        _label(label_name, label, list(pred.shape), name)


def prediction(name: str, tensor: Any) -> None:
    """Check that `tensor` is a tensor of floats."""
    _tensor(name, tensor)
    if tensor.dtype not in _FLOATS:
        raise TypeError(
            f"{name}: expected a float dtype (float16, bfloat16, float32, float64),"
            f" got {_dtype(tensor)}. Convert it with .astype('float32')."
        )


def same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors have one shape."""
    if not _shapes_agree(tensor.shape, other.shape):
        raise ValueError(
            f"{name}: expected the shape of {other_name}, {list(other.shape)},"
            f" got {list(tensor.shape)}. Pass two maps of one size."
        )


def same_dtype(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors have one dtype."""
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{name}: expected the dtype of {other_name}, {_dtype(other)},"
            f" got {_dtype(tensor)}. Convert one of them with .astype."
        )


def _label(name: str, tensor: Any, shape: list[int], like: str) -> None:
    _tensor(name, tensor)
    if tensor.dtype not in _LABEL_DTYPES:
        raise TypeError(
            f"{name}: expected a float, bool or integer dtype, got {_dtype(tensor)}."
            " Convert it with .astype('float32')."
        )
    if not _shapes_agree(tensor.shape, shape):
        raise ValueError(
            f"{name}: expected the shape {shape}, N, H and W of {like}, got {list(tensor.shape)}."
            + _shape_advice(list(tensor.shape), shape)
        )
    if not tensor.stop_gradient:
        raise ValueError(
            f"{name}: expected a constant, got a tensor that requires a gradient"
            " (stop_gradient is False). Labels get no gradient: pass its .detach()."
        )


def _shape_advice(got: list[int], expected: list[int]) -> str:
    if len(got) == len(expected) + 1 and got[1] == 1:
        return " Drop the channel axis with .squeeze(1)."
    if len(got) == len(expected) - 1:
        return " Add the batch axis with .unsqueeze(0)."
    if len(got) == len(expected) and sorted(got) == sorted(expected):
        return " The axes are in another order: batch, height, width is expected."
    return " Make the labels at the size of the predicted maps."


def _not_empty(name: str, tensor: Tensor) -> None:
    if 0 in tensor.shape:
        raise ValueError(
            f"{name}: expected at least one image and one pixel, got {list(tensor.shape)}."
            " Skip empty batches in the training loop."
        )


def _tensor(name: str, value: Any) -> None:
    if not paddle.is_tensor(value):
        raise TypeError(
            f"{name}: expected a paddle.Tensor, got {_describe(value)}."
            " Convert it with paddle.to_tensor."
        )


def _shapes_agree(got: Sequence[int], expected: Sequence[int]) -> bool:
    # A dynamic axis of a static graph has the size -1 until the graph runs.
    return len(got) == len(expected) and all(
        a == b or a == -1 or b == -1 for a, b in zip(got, expected, strict=True)
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    if paddle.is_tensor(value):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, bool | int | float | str):
        return f"{type(value).__name__} {value!r}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"
