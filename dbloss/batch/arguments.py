"""Checks what the losses take: the maps, the labels and the masks of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from dbloss.base import checks

_FLOATS = (paddle.float32, paddle.float16, paddle.bfloat16, paddle.float64)  # the usual one first
_LABEL_DTYPES = (
    *_FLOATS,
    paddle.bool,
    paddle.uint8,
    paddle.int8,
    paddle.int16,
    paddle.int32,
    paddle.int64,
)
LABEL_NAMES = ("image", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
WEIGHTS_NAME = "text_weights"  # the sixth label, which may be left out
_IN_MESSAGES = [f"labels[{i}] ({name})" for i, name in enumerate((*LABEL_NAMES, WEIGHTS_NAME))]
_IMAGE_AXES = (0, -2, -1)  # N, H and W of maps with or without channels
_OPEN = -1  # in a static graph, the size of an axis that is known only when the graph runs


def maps(
    predicts: Any, name: str = "maps", channels: int = 3, like: Tensor | None = None
) -> Tensor:
    """Return `predicts[name]`: `[N, 3, H, W]`, or `[N, C, H, W]` if one channel is enough.

    N, H and W have to be those of the maps `like`, if these are given.
    """
    advice = f'Pass {{"{name}": tensor}}, as a DB head returns it.'
    if not isinstance(predicts, Mapping):
        raise checks.wrong_type("predicts", f'a dict that holds "{name}"', predicts, advice)
    if name not in predicts:
        got = f"the keys {sorted(map(str, predicts))}"
        raise checks.wrong("predicts", f'the key "{name}"', got, advice)
    tensor = predicts[name]
    where = f'predicts["{name}"]'
    prediction(where, tensor)
    shape = list(tensor.shape)
    exact = channels == 3
    wanted = "3" if exact else f"C >= {channels}"
    if exact and len(shape) == 4 and shape[1] == 1:
        expected, got = "3 channels (probability, threshold, binary)", f"1 ({shape})"
        advice = (
            "A DB head in evaluation mode returns the probability map alone: call model.train()"
            " before the forward pass whose loss you want. An inference model, as paddle.jit.load"
            " returns one, holds the probability map alone in either mode: build the network that"
            " it was exported from, and load its .pdparams."
        )
        raise checks.wrong(where, expected, got, advice)
    fits = len(shape) == 4 and (
        shape[1] in (channels, _OPEN) or (not exact and shape[1] > channels)
    )
    if not fits:
        add = "Add the axis of the channel with .unsqueeze(1)."
        advice = _channels_advice(shape) if exact else add
        raise checks.wrong(where, f"the shape [N, {wanted}, H, W]", shape, advice)
    if exact and shape[1] == _OPEN:
        _when_it_runs(_shape(tensor)[1] == channels, tensor)
    _not_empty(where, tensor)
    if like is not None and not sizes_agree(tensor, like, _IMAGE_AXES):
        fitting = [like.shape[0], shape[1], *like.shape[2:]]
        expected = f'the shape {fitting}, N, H and W of predicts["maps"]'
        raise checks.wrong(where, expected, shape, "Upsample it to the size of the labels.")
    return tensor


def labels(values: Any, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the four or five label maps, `[N, H, W]` with the N, H and W of the maps `like`.

    If `like` is None all must have the shape of the first label.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        expected = f"a list of 5 tensors [{', '.join(LABEL_NAMES)}]"
        advice = "Pass the batch as PaddleOCR's data loader gives it."
        raise checks.wrong_type("labels", expected, values, advice)
    if len(values) not in (5, 6):
        expected = f"5 entries [{', '.join(LABEL_NAMES)}], or text_weights as the sixth"
        advice = "The image comes first and is not read: None will do for it."
        raise checks.wrong("labels", expected, len(values), advice)
    others = [value for value in values[1:] if not _is_tensor(value)]
    if any(isinstance(value, Sequence | np.ndarray) for value in others):
        got = " and ".join(sorted({type(value).__name__ for value in values[1:]}))
        advice = (
            "dbloss.targets.stack_targets makes the labels of a batch of what make_targets returns"
            " for each image; convert arrays [N, H, W] with paddle.to_tensor."
        )
        expected = f"a paddle.Tensor for each of {', '.join(LABEL_NAMES[1:])}"
        raise checks.wrong("labels", expected, got, advice, TypeError)
    like_name = 'predicts["maps"]'
    if like is None:
        like, like_name = values[1], label_name(1)
        _check_tensor(like_name, like)
        if len(like.shape) != 3:
            shape = list(like.shape)
            advice = _shape_advice(shape, [_OPEN] * 3)
            raise checks.wrong(like_name, "the shape [N, H, W]", shape, advice)
        _not_empty(like_name, like)
    for index in range(1, len(values)):
        _label(label_name(index), values[index], like, like_name)
    return tuple(values[1:])


def label_name(index: int) -> str:
    """Return the name of a label in messages."""
    return _IN_MESSAGES[index]


def single(pred: Any, gt: Any, *, name: str = "pred", **masks: Any) -> None:
    """Check what a single loss takes: a prediction, `gt` and the masks, each `[N, H, W]`."""
    prediction(name, pred)
    if len(pred.shape) != 3:
        advice = f"Take one channel, {name}[:, 0], or add the batch axis with {name}.unsqueeze(0)."
        raise checks.wrong(name, "the shape [N, H, W]", list(pred.shape), advice)
    _not_empty(name, pred)
    for label_name, label in {"gt": gt, **masks}.items():
        _label(label_name, label, pred, name)


def prediction(name: str, tensor: Any) -> None:
    """Check that `tensor` is a tensor of floats."""
    _check_dtype(name, tensor, _FLOATS, "a float dtype (float16, bfloat16, float32, float64)")


# What these share


def _label(name: str, tensor: Any, like: Tensor, like_name: str) -> None:
    _check_dtype(name, tensor, _LABEL_DTYPES, "a float, bool or integer dtype")
    if tensor.ndim != 3 or not sizes_agree(tensor, like, _IMAGE_AXES):
        shape, fitting = list(tensor.shape), [like.shape[axis] for axis in _IMAGE_AXES]
        expected = f"the shape {fitting}, N, H and W of {like_name}"
        raise checks.wrong(name, expected, shape, _shape_advice(shape, fitting))
    # In a static graph inputs require a gradient unless told otherwise.
    if not tensor.stop_gradient and paddle.in_dynamic_mode():
        got = "a tensor that requires a gradient (stop_gradient is False)"
        raise checks.wrong(name, "a constant", got, "Labels get no gradient: pass its .detach().")


def _channels_advice(shape: list[int]) -> str:
    if len(shape) == 4 and shape[3] == 3:
        return "Move the channels, which come last, with .transpose([0, 3, 1, 2])."
    if len(shape) == 3 and shape[0] == 3:
        return "If these are the three maps of one image, add the batch axis with .unsqueeze(0)."
    return "Stack the probability, threshold and binary map along axis 1."


def _shape_advice(got: list[int], expected: list[int]) -> str:
    def fits(*shape: int) -> bool:
        return all(a == b or _OPEN in (a, b) for a, b in zip(shape, expected))

    if len(got) == 4:
        n, *_ = got
        if got[1] == 1 and fits(n, *got[2:]):
            return "Drop the channel axis with .squeeze(1)."
        if got[3] == 1 and fits(*got[:3]):
            return "Drop the channel axis with .squeeze(-1)."
        if 3 in (got[1], got[3]):
            return (
                "It has the shape of an image, which is the first of the labels of DBLoss:"
                f" [{', '.join(LABEL_NAMES)}]."
            )
    if len(got) == len(expected) - 1:
        return "Add the batch axis with .unsqueeze(0)."
    if len(got) == len(expected) and sorted(got) == sorted(expected):
        return "The axes are in another order: batch, height, width is expected."
    return "Make the labels at the size of the predicted maps."


def _not_empty(name: str, tensor: Tensor) -> None:
    shape = tensor.shape
    if 0 in shape:
        raise checks.wrong(
            name, "at least one image and one pixel", list(shape), "Skip empty batches."
        )
    if _OPEN in shape:
        _when_it_runs((_shape(tensor) > 0).all(), tensor)


def _is_tensor(value: Any) -> bool:
    # Paddle's own function takes ten times as long, and knows those of static graphs too.
    return isinstance(value, paddle.Tensor) or paddle.is_tensor(value)


def _check_tensor(name: str, value: Any) -> None:
    if not _is_tensor(value):
        raise checks.wrong_type(name, "a paddle.Tensor", value, "Convert it with paddle.to_tensor.")


def _check_dtype(name: str, value: Any, dtypes: Sequence[Any], expected: str) -> None:
    _check_tensor(name, value)
    if value.dtype not in dtypes:
        advice = "Convert it with .astype('float32')."
        raise checks.wrong(name, expected, dtype_name(value), advice, TypeError)


def sizes_agree(tensor: Tensor, like: Tensor, axes: Sequence[int]) -> bool:
    """Tell whether two tensors have the same size along these axes.

    Sizes that a static graph leaves open are compared when it runs.
    """
    shape, shape_of_like = tensor.shape, like.shape  # Paddle makes a new list at each access
    got, expected = [shape[axis] for axis in axes], [shape_of_like[axis] for axis in axes]
    if _OPEN not in got and _OPEN not in expected:
        return got == expected
    shape, shape_of_like = _shape(tensor), _shape(like)
    same = [shape[axis] == shape_of_like[axis] for axis in axes]
    _when_it_runs(paddle.stack(same).all(), tensor, like)
    return all(a == b or _OPEN in (a, b) for a, b in zip(got, expected))


def _when_it_runs(condition: Tensor, *tensors: Tensor) -> None:
    """Let a static graph raise a ValueError with the shapes of `tensors` if this is False."""
    paddle.static.nn.control_flow.Assert(condition, [_shape(tensor) for tensor in tensors])


def _shape(tensor: Tensor) -> Tensor:
    """Return the shape that a tensor of a static graph has when it runs."""
    # Paddle 3.0 has no operator for the shape of a half-precision tensor on a CPU.
    half = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return paddle.shape(tensor.astype(paddle.float32) if half else tensor)


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]
