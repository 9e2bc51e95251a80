"""What callers pass, checked: every message says what was expected, what came and what to do.

What is wrong in a label file stands in `dbloss/plot/annotations.py`, which reads it.
"""

import math
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
import paddle
from numpy.typing import NDArray
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
_IMAGE_AXES = (0, -2, -1)  # N, H and W of maps with or without channels
_OPEN = -1  # what a static graph gives for the size of an axis that the run decides
_CHANNEL_NAMES = ("(probability)", "(threshold)", "(binary)")

# Beyond this float32 does not tell one pixel from the next.
_FARTHEST = 2.0**24


# Settings


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> Any:
    """Return `value` as an int or float if it is finite and within the bounds, raise otherwise."""
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"below {below:g}"] if below is not None else []
    bounds += [f"at least {least:g}"] if least is not None else []
    bounds += [f"at most {most:g}"] if most is not None else []
    expected = f"a {'whole' if whole else 'finite'} number {' and '.join(bounds)}".strip()
    if isinstance(value, bool) or not isinstance(value, Real):
        advice = "Pass a Python number."
        if isinstance(value, str) and "e" in value:
            advice += " (YAML takes 1e-6 for text; it reads 1.0e-6 as a number.)"
        raise TypeError(f"{name}: expected {expected}, got {_describe(value)}. {advice}")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    fits = (
        math.isfinite(as_float)
        and (above is None or as_float > above)
        and (below is None or as_float < below)
        and (least is None or as_float >= least)
        and (most is None or as_float <= most)
        and (not whole or as_float.is_integer())
    )
    if not fits:
        raise ValueError(f"{name}: expected {expected}, got {value}. Change {name}.")
    return int(as_float) if whole or isinstance(value, Integral) else as_float


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


def group(value: Any, global_batch: bool) -> Any:
    """Return `value` if it is None, or a group of processes for a global batch, raise otherwise."""
    if value is None:
        return None
    if not hasattr(value, "nranks"):
        raise TypeError(
            f"group: expected a group of processes or None, got {_describe(value)}."
            " Pass what paddle.distributed.new_group returns, or None for all processes."
        )
    if not global_batch:
        raise ValueError(
            "group: expected None with global_batch=False, where nothing reads it, got a group."
            " Add global_batch=True, or leave the group out."
        )
    return value


def member(group: Any) -> None:
    """Raise if this process is not one of the group."""
    # A group of one process has no rank, not even for that process.
    if group is not None and paddle.distributed.get_rank() not in group.ranks:
        raise RuntimeError(
            f"group: expected one that holds this process, rank {paddle.distributed.get_rank()},"
            f" got the ranks {group.ranks}. Compute the loss in those processes alone, or leave"
            " the group out for all processes."
        )


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


def engine_name(variable: str, value: str) -> str:
    """Return what the environment asks for if it is the name of an engine, raise otherwise."""
    if value not in ("auto", "operators", "fused"):
        raise ValueError(
            f"{variable}: expected 'auto', 'operators' or 'fused', got {value!r}."
            " Change the environment variable, or delete it for 'auto'."
        )
    return value


def refuse_fused(variable: str, reason: str) -> NoReturn:
    """Raise because the environment asks for the fused engine, which cannot run."""
    raise RuntimeError(
        f"{variable}=fused: the fused engine cannot run, because {reason}."
        " Delete the environment variable, and the operators engine runs in its place."
    )


def eager(name: str, advice: str = "Call it outside the graph, on the batch that goes in.") -> None:
    """Raise where tensors have no values yet."""
    if not paddle.in_dynamic_mode():
        raise RuntimeError(
            f"{name}: expected eager mode, got a static graph, whose tensors have no values yet."
            f" {advice}"
        )


@contextmanager
def extra(module: str, name: str, *libraries: str) -> Iterator[None]:
    """Say which extra brings a library that cannot be imported for want of it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in libraries:
            raise
        raise ImportError(
            f"{module} needs {error.name}, which is not installed."
            f' Install it: pip install "dbloss[{name}]"'
        ) from error


# Tensors


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
    advice = (
        "Stack the probability, threshold and binary map along axis 1."
        if exact
        else "Add the axis of a single channel with .unsqueeze(1)."
    )
    if len(shape) != 4:
        raise ValueError(f"{where}: expected the shape [N, {wanted}, H, W], got {shape}. {advice}")
    if exact and shape[1] == 1:
        raise ValueError(
            f"{where}: expected 3 channels (probability, threshold, binary), got 1 ({shape})."
            " A DB head in evaluation mode returns the probability map alone:"
            " call model.train() before the forward pass whose loss you want."
        )
    if (shape[1] not in (channels, _OPEN)) if exact else (0 <= shape[1] < channels):
        raise ValueError(f"{where}: expected the shape [N, {wanted}, H, W], got {shape}. {advice}")
    if exact and shape[1] == _OPEN:
        _when_it_runs(_shape(tensor)[1] == channels, tensor)
    _not_empty(where, tensor)
    if like is not None:
        expected = [like.shape[0], shape[1], *like.shape[2:]]
        if not _sizes_agree(tensor, like, _IMAGE_AXES):
            raise ValueError(
                f'{where}: expected the shape {expected}, N, H and W of predicts["maps"],'
                f" got {shape}. Upsample it to the size of the labels."
            )
    return tensor


def labels(values: Any, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four label maps, each `[N, H, W]` with the N, H and W of the maps `like`."""
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise TypeError(
            f"labels: expected a list of 5 tensors [{', '.join(_LABEL_NAMES)}],"
            f" got {_describe(values)}. Pass the batch as PaddleOCR's data loader gives it."
        )
    if len(values) != 5:
        raise ValueError(
            f"labels: expected 5 entries [{', '.join(_LABEL_NAMES)}], got {len(values)}."
            " The image comes first and is not read: None will do for it."
        )
    for index in range(1, len(_LABEL_NAMES)):
        _label(label_name(index), values[index], like, 'predicts["maps"]')
    return tuple(values[1:])


def label_name(index: int) -> str:
    """Return what messages call a label."""
    return f"labels[{index}] ({_LABEL_NAMES[index]})"


def channel_name(key: str, channel: int) -> str:
    """Return what messages call a channel of `predicts[key]`."""
    return f'predicts["{key}"][:, {channel}] {_CHANNEL_NAMES[channel]}'


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
        _label(label_name, label, pred, name)


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
    axes = range(len(other.shape))
    if len(tensor.shape) != len(axes) or not _sizes_agree(tensor, other, axes):
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


# Values of tensors


def fractions(name: str, values: NDArray[Any], label: bool = False) -> tuple[float, float]:
    """Return the least and the greatest of `values`, `[N, H, W]`, if all are in [0, 1]."""
    least, greatest = values.min(), values.max()
    if not (least >= 0 and greatest <= 1):  # as NaN makes it
        _refuse_values(name, values, label)
    return float(least), float(greatest)


def warn_no_text(negative: bool, ignored: bool) -> None:
    """Warn that no pixel of text counts, though pixels may that are negative."""
    if not negative:
        found = "every pixel of the batch is ignored"
    elif ignored:
        found = "no text counts in the batch, and part of it is ignored"
    else:
        found = "the batch has no text, and nothing in it is ignored"
    advice = (
        ' Look for polygons marked "###" or smaller than min_text_size after resizing.'
        if ignored
        else " Look for random crops that miss the words."
    )
    if negative:
        advice += (
            " To learn from such a batch: DBLoss(smooth=1.0) pushes the binary map down,"
            ' DBLoss(main_loss_type="BCELoss", fallback_negatives=1000) the probability map.'
        )
    warnings.warn(
        f"labels: {found}. With the defaults of DBLoss, loss_shrink_maps is 0, loss_binary_maps"
        f" is exactly 1, and neither gives a gradient.{advice}",
        UserWarning,
        stacklevel=3,
    )


# Polygons


def size(name: str, value: Any) -> int:
    """Return `value` if it is a whole number of pixels, raise otherwise."""
    try:
        pixels = operator.index(value)
    except TypeError:
        pixels = None
    if pixels is None or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number of pixels, got {type(value).__name__} {value!r}."
            " Pass an int, as in image.shape."
        )
    if pixels < 1:
        raise ValueError(
            f"{name}: expected at least 1 pixel, got {pixels}. Pass the size of the image."
        )
    return pixels


def polygons(values: Any) -> list[NDArray[Any]]:
    """Return polygons as arrays `[k, 2]` if each is one of finite points, raise otherwise."""
    try:
        listed = list(values)
    except TypeError:
        raise TypeError(
            f"polygons: expected a sequence of [k, 2] arrays, got {type(values).__name__}."
            " Pass a list, [] for an image without text."
        ) from None
    arrays = []
    for i, polygon in enumerate(listed):
        try:
            array = np.asarray(polygon)
        except ValueError:
            raise ValueError(
                f"polygons[{i}]: expected points of two coordinates (x, y) each, got rows of"
                " different lengths. Correct this polygon."
            ) from None
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3:
            raise ValueError(
                f"polygons[{i}]: expected the shape [k, 2] with k >= 3 points (x, y),"
                f" got {list(array.shape)}. Pass one array per text; leave out what has fewer"
                " points."
            )
        if array.dtype.kind not in "fiu":
            raise TypeError(
                f"polygons[{i}]: expected coordinates that are numbers, got the dtype"
                f" {array.dtype}. Convert it to float."
            )
        # NaN fails this as well. Not by abs: of the least int64 it is negative.
        if not (float(array.max()) <= _FARTHEST and float(array.min()) >= -_FARTHEST):
            wrong = np.flatnonzero(~(np.abs(array.astype(np.float64)) <= _FARTHEST).all(axis=1))[0]
            raise ValueError(
                f"polygons[{i}]: expected finite coordinates in pixels, none beyond"
                f" {_FARTHEST:.0f}, got {array[wrong].tolist()} as point {wrong}."
                " Correct or leave out this polygon."
            )
        arrays.append(array)
    return arrays


def ignored(values: Any, count: int) -> NDArray[np.bool_]:
    """Return one flag per polygon as an array of bool, raise if they are anything else."""
    flags = np.asarray(values)
    if flags.ndim != 1 or (flags.size and flags.dtype != bool):
        got = f"the dtype {flags.dtype}" if flags.ndim == 1 else type(values).__name__
        raise TypeError(
            f"ignored: expected a sequence of bool, got {got}. Pass True or False per polygon."
        )
    if len(flags) != count:
        raise ValueError(
            f"ignored: expected one bool per polygon, {count}, got {len(flags)}."
            " Pass as many flags as polygons."
        )
    return flags.astype(bool)


# Pictures


def index(name: str, value: Any, count: int, things: str) -> int:
    """Return `value` if it is a whole number from 0 to below `count`, raise otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, got {_describe(value)}. Pass an int.")
    place = int(value)
    if not 0 <= place < count:
        raise ValueError(
            f"{name}: expected 0 to {count - 1}, for there are {count} {things}, got {value}."
            " Count from 0."
        )
    return place


def picture(name: str, shape: Sequence[int]) -> None:
    """Check that `shape` is that of an image whose channels, if it has any, come last."""
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or 0 in shape:
        raise ValueError(
            f"{name}: expected the shape [h, w], [h, w, C] or [C, h, w] with 1, 3 or 4 channels,"
            f" got {list(shape)}. Of a batch pass one image."
        )


def records(values: Any) -> list[dict[str, float]]:
    """Return the losses of each step as dicts of floats."""
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise TypeError(
            f"records: expected a list with one dict of losses per step, got {_describe(values)}."
            " Append what the loss returns to a list, and pass that."
        )
    if not values:
        raise ValueError(
            "records: expected at least one step, got an empty list. Append the losses of each"
            " step: records.append({name: float(loss) for name, loss in losses.items()})."
        )
    return [_record(f"records[{step}]", record) for step, record in enumerate(values)]


# What these share


def _refuse_values(name: str, values: NDArray[Any], label: bool) -> NoReturn:
    finite = np.isfinite(values)
    outside = finite & ~((values >= 0) & (values <= 1))
    image, y, x = np.argwhere(outside | ~finite)[0].tolist()
    alike = outside if finite[image, y, x] else ~finite
    if not finite[image, y, x]:
        advice = (
            "Look at the polygons and the resizing that made it."
            if label
            else "Lower the learning rate; in half precision make the binary map with"
            " dbloss.differentiable_binarization, which does not overflow."
        )
    elif not label:
        advice = "Put a sigmoid at the end of the head; clip what rounding alone puts outside."
    elif np.isin(values, (0, 255)).all():
        advice = "It holds 0 and 255: divide it by 255, or compare it with > 0."
    else:
        advice = f"Check the order [{', '.join(_LABEL_NAMES)}], and divide 8-bit values by 255."
    kind = "outside [0, 1]" if finite[image, y, x] else "NaN or Inf"
    raise ValueError(
        f"{name}: expected values in [0, 1], got {values[image, y, x]!s} in image {image} at pixel"
        f" (y, x) = ({y}, {x}). Pixels of the map that are {kind}: {alike.sum()} of {alike.size}."
        f" {advice}"
    )


def _label(name: str, tensor: Any, like: Tensor, like_name: str) -> None:
    _tensor(name, tensor)
    if tensor.dtype not in _LABEL_DTYPES:
        raise TypeError(
            f"{name}: expected a float, bool or integer dtype, got {_dtype(tensor)}."
            " Convert it with .astype('float32')."
        )
    if len(tensor.shape) != 3 or not _sizes_agree(tensor, like, _IMAGE_AXES):
        shape = [like.shape[axis] for axis in _IMAGE_AXES]
        raise ValueError(
            f"{name}: expected the shape {shape}, N, H and W of {like_name},"
            f" got {list(tensor.shape)}." + _shape_advice(list(tensor.shape), shape)
        )
    # In a static graph every input without another word requires a gradient.
    if paddle.in_dynamic_mode() and not tensor.stop_gradient:
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
    if _OPEN in tensor.shape:
        _when_it_runs((_shape(tensor) > 0).all(), tensor)


def _tensor(name: str, value: Any) -> None:
    if not paddle.is_tensor(value):
        raise TypeError(
            f"{name}: expected a paddle.Tensor, got {_describe(value)}."
            " Convert it with paddle.to_tensor."
        )


def _sizes_agree(tensor: Tensor, like: Tensor, axes: Sequence[int]) -> bool:
    """Tell whether two tensors are equal in these axes; open ones are compared when they run."""
    pairs = [(tensor.shape[axis], like.shape[axis]) for axis in axes]
    if any(_OPEN in pair for pair in pairs):
        got, expected = _shape(tensor), _shape(like)
        same = [got[axis] == expected[axis] for axis in axes]
        _when_it_runs(paddle.stack(same).all(), tensor, like)
    return all(a == b or _OPEN in (a, b) for a, b in pairs)


def _when_it_runs(condition: Tensor, *tensors: Tensor) -> None:
    """Let a static graph raise a ValueError, with the shapes of tensors, where this is False."""
    paddle.static.nn.control_flow.Assert(condition, [_shape(tensor) for tensor in tensors])


def _shape(tensor: Tensor) -> Tensor:
    """Return the shape that a tensor of a static graph has when it runs."""
    # Paddle 3.0 has no operator for that of a half on a CPU.
    half = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return paddle.shape(tensor.astype(paddle.float32) if half else tensor)


def _record(name: str, record: Any) -> dict[str, float]:
    if not isinstance(record, Mapping):
        raise TypeError(
            f"{name}: expected a dict of losses, got {_describe(record)}."
            " Append the dict that the loss returns."
        )
    for key, value in record.items():
        if not isinstance(value, Real) and getattr(value, "size", None) != 1:
            raise TypeError(
                f"{name}[{key!r}]: expected a number or a tensor that holds one,"
                f" got {_describe(value)}. Leave out what is no loss."
            )
    return {
        str(key): float(value if isinstance(value, Real) else value.item())
        for key, value in record.items()
    }


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
