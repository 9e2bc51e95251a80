"""The two sweeps over the pixels: one that makes the losses, one that writes the gradient.

An engine is a module with two functions. `sweep(maps, terms, processes)` returns the loss of every
term, 0-D float32, and a function that takes the gradients of those losses and returns the gradient
of `maps`; between the two the processes add up their sums. `hard_negatives(hardness, gt, mask,
balance)` returns the weights that mining gives. Engines know formulas and tensors, and no Layer.
"""

import functools
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from dbloss.engine import operators
from dbloss.engine.dtypes import cast_gradient, computed, own_dtypes
from dbloss.engine.processes import Processes

if TYPE_CHECKING:
    from dbloss.dice import Dice
    from dbloss.mean import Mean, PixelLoss
    from dbloss.mining import Balance


VARIABLE = "DBLOSS_ENGINE"


class Term(NamedTuple):
    """One loss on one channel of the maps."""

    loss: "Dice | Mean"
    target: Tensor
    mask: Tensor
    channel: int = 0
    balance: "Balance | None" = None


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
        choose(maps)
        losses = operators.graph(maps, terms, processes)
    return losses


def pixel_map(pred: Tensor, gt: Tensor, pixel_loss: "PixelLoss") -> Tensor:
    """Return the loss of every pixel, the shape of `pred`, differentiable in `pred`."""
    if paddle.in_dynamic_mode():
        values: Tensor = _PixelMap.apply(pred, gt, pixel_loss)
        return values
    return operators.pixel_graph(pred, gt, pixel_loss)


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: "Balance") -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    with paddle.no_grad(), own_dtypes():
        weights: Tensor = choose(hardness).hard_negatives(hardness, gt, mask, balance)
    return weights


def choose(maps: Tensor) -> ModuleType:
    """Return the engine that the environment asks for, or the fastest that runs."""
    name = os.environ.get(VARIABLE, "auto")
    if name not in ("auto", "operators", "fused"):
        raise ValueError(
            f"{VARIABLE}: expected 'auto', 'operators' or 'fused', got {name!r}."
            " Change the environment variable, or delete it for 'auto'."
        )
    if name != "operators":
        reason = hindrance(maps)
        if reason is None:
            from dbloss.engine import fused

            return fused
        if name == "fused":
            raise RuntimeError(
                f"{VARIABLE}=fused: the fused engine cannot run, because {reason}."
                " Delete the environment variable, and the operators engine runs in its place."
            )
    return operators


def hindrance(maps: Tensor) -> str | None:
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
        losses, ctx.gradient = choose(maps).sweep(maps, terms, processes)
        ctx.dtype, ctx.processes = maps.dtype, processes
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        with own_dtypes():
            if ctx.processes.size > 1:
                # `paddle.DataParallel` takes the mean over the processes; the gradient is the sum.
                upstream = tuple(ctx.processes.size * scale for scale in upstream)
            return cast_gradient(ctx.gradient(upstream), ctx.dtype)


class _PixelMap(PyLayer):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, pred: Tensor, gt: Tensor, pixel_loss: "PixelLoss") -> Tensor:
        ctx.save_for_backward(pred, gt)
        ctx.pixel_loss = pixel_loss
        return pixel_loss.value(*_PixelMap._copies(pred, gt))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        pred, gt = ctx.saved_tensor()
        with own_dtypes():
            slope = ctx.pixel_loss.derivative(*_PixelMap._copies(pred, gt))
            return cast_gradient(slope * upstream, pred.dtype)

    @staticmethod
    def _copies(pred: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        dtype = computed(pred)
        return pred.detach().clone().astype(dtype), gt.astype(dtype)
