"""What the loss layers have in common."""

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from dbloss.engine import Term, evaluate, own_dtypes


class TermLayer(nn.Layer):  # type: ignore[misc]
    """A layer whose loss is made of terms, which an engine evaluates."""

    def _terms(self, gt: Tensor, mask: Tensor, channel: int = 0) -> tuple[Term, ...]:
        raise NotImplementedError

    def _combine(self, losses: Sequence[Tensor]) -> Tensor:
        (loss,) = losses
        return loss

    def _evaluate(self, pred: Tensor, gt: Tensor, mask: Tensor) -> Tensor:
        with own_dtypes():
            return self._combine(evaluate(pred, self._terms(gt, mask)))

    @staticmethod
    def _mask(gt: Tensor, mask: Tensor | None) -> Tensor:
        return paddle.ones_like(gt) if mask is None else mask
