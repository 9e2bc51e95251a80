"""The processes that a batch is spread over: their sums, and the n-th largest of their values."""

from typing import Any, NamedTuple

import paddle
from paddle import Tensor

from dbloss.base import checks

_DIGIT = 11  # bits; with many more a GPU's fast memory could not hold the bins of a histogram


class Processes(NamedTuple):
    """The processes that compute one loss together, each on its own images.

    Each of them gets the loss of the whole batch.
    """

    size: int = 1
    group: Any = None

    def add_up(self, numbers: Tensor) -> Tensor:
        """Return the sum over the processes, written into `numbers`."""
        if self.size > 1:
            paddle.distributed.all_reduce(numbers, group=self.group)
        return numbers

    def nth_largest(self, values: Tensor, n: Tensor) -> Tensor:
        """Return the n-th largest value of all processes.

        It is found digit by digit: a histogram of the leading bits tells which bin it is in, and a
        histogram of the next bits of the values in that bin narrows it down further.

        Tensors are made with `*_like` functions here: others would be put on the default device,
        which is not always that of the maps.
        """
        rest = 64 if values.dtype == paddle.float64 else 32
        bits = _bits(values.flatten(), paddle.int64 if rest == 64 else paddle.int32)
        prefix, above = paddle.zeros_like(n, bits.dtype), paddle.zeros_like(n)
        leading = True
        while rest:
            width = min(_DIGIT, rest)
            rest -= width
            bins = 1 << width
            first = paddle.full_like(prefix, -bins // 2) if leading else prefix * bins
            digits = bits // (1 << rest) - first
            # The last bin is cut off, since it counts the digit above the range too; a histogram
            # leaves out all other digits outside the range. `bincount` would wait for the device.
            counts = self.add_up(paddle.histogram(digits, bins + 1, 0, bins + 1)[:-1])
            rising = (paddle.ones_like(counts).cumsum(0) - 1).astype(bits.dtype)
            falling = rising.flip(0)
            if leading:
                # A float is a sign and a magnitude: from the largest value down come the positive
                # digits, falling, and then the negative ones, rising.
                order = paddle.concat([falling[: bins // 2], rising[: bins // 2]])
            else:
                order = paddle.where(prefix < 0, rising, falling)
            counts = paddle.gather(counts, order).astype(n.dtype)
            at_least = counts.cumsum(0) + above
            # If n is too large this is the last bin that holds a value.
            wanted = paddle.minimum(n.clip(1), at_least[-1])
            index = (at_least < wanted).astype(paddle.int64).sum()
            above = paddle.gather(at_least - counts, index)
            prefix = first + paddle.gather(order, index)
            leading = False
        return _bits(prefix, values.dtype)


def _bits(values: Tensor, dtype: Any) -> Tensor:
    """Return the bits of values as another dtype of the same width."""
    if paddle.get_flags("FLAGS_use_stride_kernel")["FLAGS_use_stride_kernel"]:
        return values.view(dtype)
    # Without `view` Paddle has no operator for this.
    array = values.numpy().view(str(dtype).rsplit(".", 1)[-1])
    return paddle.to_tensor(array, place=values.place)


ALONE = Processes()


def processes_of(group: Any) -> Processes:
    """Return the processes of a group, all for None, or this one alone without parallelism.

    Raises:
        RuntimeError: this process is not one of the group, or there are several and this is a
            static graph.
    """
    if not paddle.distributed.is_initialized():
        return ALONE
    _check_member(group)
    size = paddle.distributed.get_world_size() if group is None else group.nranks
    if size > 1:
        checks.eager(
            "global_batch=True",
            "Compile the model with paddle.jit.to_static, and call the loss on what it returns.",
        )
    return Processes(size, group)


def _check_member(group: Any) -> None:
    """Raise if this process is not one of the group."""
    # A group of one process has no rank, not even for that process.
    if group is not None and paddle.distributed.get_rank() not in group.ranks:
        expected = f"one that holds this process, rank {paddle.distributed.get_rank()}"
        got = f"the ranks {group.ranks}"
        advice = "Call it only in those processes, or leave the group out for all processes."
        raise checks.wrong("group", expected, got, advice, RuntimeError)
