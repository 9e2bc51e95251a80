"""What the loss layers have in common."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import paddle
from paddle import Tensor, nn

from dbloss.base import checks
from dbloss.base.processes import ALONE, Processes, processes_of
from dbloss.base.static import untranslated
from dbloss.base.tensors import computed, without_amp
from dbloss.batch import arguments
from dbloss.engine import evaluate
from dbloss.engine.mining import Pixels, Term


class Further(TypedDict, total=False):
    """The keywords beside its own that a layer lets pass, for a type checker.

    It refuses any other that is written out, as a slip. Those of a configuration, `**config`, it
    does not know, and the layer reports them when it runs.
    """

    name: str


class LossLayer(nn.Layer):  # type: ignore[misc]
    """A layer whose batch may be spread over several processes."""

    def __init__(self, global_batch: bool, group: Any) -> None:
        super().__init__()
        self.global_batch = checks.flag("global_batch", global_batch)
        self.group = checks.group(group, global_batch)

    def _processes(self) -> Processes:
        return processes_of(self.group) if self.global_batch else ALONE

    def extra_repr(self) -> str:
        """Return the settings that the layer keeps, for `print(layer)`."""
        names = inspect.signature(type(self).__init__).parameters
        return ", ".join(f"{x}={vars(self)[x]!r}" for x in names if vars(self).get(x) is not None)


class TermLayer(LossLayer):
    """A layer whose loss is a sum of terms, each times its weight, which an engine evaluates."""

    def _terms(self, pixels: Pixels) -> Sequence[tuple[float, Term]]:
        raise NotImplementedError

    def _evaluate(self, weighted_terms: Sequence[tuple[float, Term]]) -> Tensor:
        weights, terms = zip(*weighted_terms)
        with without_amp():
            (loss,) = evaluate(terms, [weights], self._processes())
        return loss


class OverlapLoss(TermLayer):
    """What `DiceLoss` and `TverskyLoss` have in common: all but the formula."""

    def __init__(self, eps: float, smooth: float, global_batch: bool, group: Any) -> None:
        super().__init__(global_batch, group)
        self.eps = checks.number("eps", eps, above=0)
        self.smooth = checks.number("smooth", smooth, least=0)

    @untranslated
    def forward(
        self, pred: Tensor, gt: Tensor, mask: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            pred: predicted probabilities, float `[N, H, W]`, in [0, 1].
            gt: targets, `[N, H, W]`, 1 on text and 0 elsewhere; float, bool or integer.
            mask: `[N, H, W]`, 0 on pixels to ignore and 1 elsewhere; float, bool or integer.
            weights: what a pixel weighs beside, `[N, H, W]`, above 0; float, bool or integer. They
                multiply the mask in every sum over pixels.

        Returns:
            The loss, 0-D float32.

        Raises:
            TypeError: an argument is not a tensor of one of those dtypes.
            ValueError: shapes differ, a map is empty, a label requires a gradient, or
                `DBLOSS_ENGINE` names no engine.
            RuntimeError: this process is not one of the group, or `DBLOSS_ENGINE` asks for an
                engine that cannot run.
        """
        return self._evaluate(
            self._terms(checked_pixels(pred, gt, mask, weights, mask_needed=True))
        )

    if TYPE_CHECKING:
        __call__ = forward


def checked_pixels(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    weights: Tensor | None = None,
    mask_needed: bool = False,
) -> Pixels:
    """Check what a single loss takes and return it; without a mask every pixel counts."""
    masks: dict[str, Any] = {} if mask is None and not mask_needed else {"mask": mask}
    masks |= {} if weights is None else {"weights": weights}
    arguments.single(pred, gt, **masks)
    if mask is None:
        mask = paddle.ones_like(gt)
    return Pixels(pred, 0, gt, weighted_mask(mask, weights, pred), mask)


def weighted_mask(mask: Tensor, weights: Tensor | None, *maps: Tensor) -> Tensor:
    """Return `mask * weights` in the dtype that the maps are computed in."""
    if weights is None:
        return mask
    with without_amp():
        dtype = computed(*maps)
        return mask.astype(dtype) * weights.astype(dtype)
