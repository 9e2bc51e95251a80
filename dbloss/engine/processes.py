"""The processes that a batch is spread over, and what they share: sums."""

from typing import Any, NamedTuple

import paddle
from paddle import Tensor

from dbloss import checks


class Processes(NamedTuple):
    """A number of processes that compute one loss together, each on its own images.

    Each of them returns the loss of the whole batch.
    """

    size: int = 1
    group: Any = None

    def add_up(self, numbers: Tensor) -> Tensor:
        """Return the sum over the processes; `numbers` are overwritten."""
        if self.size > 1:
            paddle.distributed.all_reduce(numbers, group=self.group)
        return numbers


ALONE = Processes()


def processes_of(group: Any) -> Processes:
    """Return the processes of a group, or all for None; without parallelism it is this one alone.

    Raises:
        RuntimeError: this process is not one of the group, or several shall share a static graph.
    """
    if not paddle.distributed.is_initialized():
        return ALONE
    checks.member(group)
    size = paddle.distributed.get_world_size() if group is None else group.nranks
    if size > 1:
        checks.eager(
            "global_batch=True",
            "Compile the model with paddle.jit.to_static, and call the loss on what it returns.",
        )
    return Processes(size, group)
