"""The two sweeps over the pixels: one that makes the losses, one that writes the gradient.

An engine is a module. `sweep(maps, terms, processes)` returns the loss of every term, 0-D float32,
and a function that takes the gradients of those losses and returns the gradient of `maps`; between
the two the processes add up their sums. `hard_negatives(hardness, gt, mask, balance)` returns the
weights that mining gives. The operators engine can do both in a static graph too. Engines know
formulas and tensors, and no Layer.
"""

import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from dbloss import checks
from dbloss.engine import operators
from dbloss.engine.dtypes import cast_gradient, computed, without_amp
from dbloss.engine.processes import Processes
from dbloss.formulas import Loss, PixelLoss
from dbloss.mining import Balance

VARIABLE = "DBLOSS_ENGINE"


class Term(NamedTuple):
    """One loss on one channel of the maps."""

    loss: Loss
    target: Tensor
    mask: Tensor
    channel: int = 0
    balance: Balance | None = None


def evaluate(maps: Tensor, terms: Sequence[Term], processes: Processes) -> tuple[Tensor, ...]:
    """Return the loss of every term, 0-D float32, each differentiable in `maps`.

    `maps` is `[N, C, H, W]`, or `[N, H, W]` for one channel; targets and masks are `[N, H, W]`
    and constant. The losses are those of the images of all processes.
    """
    if not terms:
        return ()
    losses: tuple[Tensor, ...]
    if paddle.in_dynamic_mode():
        losses = _Sweeps.apply(maps, terms, processes)
    else:
        choose(maps)  # raises where the environment asks for the fused engine
        losses = operators.graph(maps, terms, processes)
    return losses


def pixel_map(pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
    """Return the loss of every pixel, the shape of `pred`, differentiable in `pred`.

    Paddle's operators make it, whichever engine does the sweeps.
    """
    if paddle.in_dynamic_mode():
        values: Tensor = _PixelMap.apply(pred, gt, pixel_loss)
        return values
    return operators.pixel_graph(pred, gt, pixel_loss)


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    with paddle.no_grad(), without_amp():
        weights: Tensor = choose(hardness).hard_negatives(hardness, gt, mask, balance)
    return weights


def choose(maps: Tensor, terms: Sequence[Term] = ()) -> ModuleType:
    """Return the engine that the environment asks for, or the fastest that runs."""
    name = checks.engine_name(VARIABLE, os.environ.get(VARIABLE, "auto"))
    if name == "operators":
        return operators
    reason = why_not_fused(maps)
    if reason is None:
        # Not before: it needs numba, which takes a while to import.
        from dbloss.engine import fused

        if all(map(fused.has_kernel, terms)):
            return fused
        reason = "it has no kernel for one of the losses"
    if name == "fused":
        checks.refuse_fused(VARIABLE, reason)
    return operators


def why_not_fused(maps: Tensor) -> str | None:
    """Return what keeps the fused engine from these maps, None if nothing does."""
    if not paddle.in_dynamic_mode():
        return "it runs in eager mode alone and this is a static graph"
    if not maps.place.is_cpu_place():
        return f"it needs tensors on the CPU and these are on {maps.place}"
    if not _has_numba():
        return 'numba is not installed (pip install "dbloss[cpu]")'
    if not hasattr(maps, "__dlpack__"):
        return f"Paddle {paddle.__version__} does not share memory with NumPy; 3.0 and newer do"
    return None


@functools.cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


class _Sweeps(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, terms: Sequence[Term], processes: Processes
    ) -> tuple[Tensor, ...]:
        losses: tuple[Tensor, ...]
        losses, ctx.gradient = choose(maps, terms).sweep(maps, terms, processes)
        ctx.dtype, ctx.processes = maps.dtype, processes
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        with without_amp():
            if ctx.processes.size > 1:
                # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
                upstream = tuple(ctx.processes.size * scale for scale in upstream)
            return cast_gradient(ctx.gradient(upstream), ctx.dtype)


class _PixelMap(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, pred: Tensor, gt: Tensor, pixel_loss: PixelLoss) -> Tensor:
        ctx.save_for_backward(pred, gt)
        ctx.pixel_loss = pixel_loss
        return pixel_loss.value(*_PixelMap._copies(pred, gt))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        pred, gt = ctx.saved_tensor()
        with without_amp():
            slope = ctx.pixel_loss.derivative(*_PixelMap._copies(pred, gt))
            return cast_gradient(slope * upstream, pred.dtype)

    @staticmethod
    def _copies(pred: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        dtype = computed(pred)
        return pred.detach().clone().astype(dtype), gt.astype(dtype)
