"""What the loss layers have in common."""

from collections.abc import Iterable, Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from dbloss import checks
from dbloss._tensors import without_amp
from dbloss.engine import evaluate
from dbloss.engine.processes import ALONE, Processes, processes_of
from dbloss.mining import Term


def weighted(weight: float, loss: Tensor) -> Tensor:
    """Return `weight * loss`; a weight of 1 does without the product, on a GPU a launch."""
    return loss if weight == 1 else weight * loss


def total(losses: Iterable[Tensor]) -> Tensor:
    """Return the sum of losses, in one operator."""
    return paddle.add_n(list(losses))


class LossLayer(nn.Layer):  # type: ignore[misc]
    """A layer whose batch may be spread over several processes."""

    def __init__(self, global_batch: bool, group: Any) -> None:
        super().__init__()
        self.global_batch = checks.flag("global_batch", global_batch)
        self.group = checks.group(group, global_batch)

    def _processes(self) -> Processes:
        return processes_of(self.group) if self.global_batch else ALONE


class TermLayer(LossLayer):
    """A layer whose loss is made of terms, which an engine evaluates."""

    def _terms(self, gt: Tensor, mask: Tensor, channel: int = 0) -> tuple[Term, ...]:
        raise NotImplementedError

    def _combine(self, losses: Sequence[Tensor]) -> Tensor:
        (loss,) = losses
        return loss

    def _evaluate(self, pred: Tensor, gt: Tensor, mask: Tensor) -> Tensor:
        with without_amp():
            return self._combine(evaluate(pred, self._terms(gt, mask), self._processes()))

    @staticmethod
    def _checked_mask(pred: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
        """Check what a layer with an optional mask takes; return the mask, or ones for None."""
        if mask is None:
            checks.single(pred, gt)
            return paddle.ones_like(gt)
        checks.single(pred, gt, mask=mask)
        return mask
