"""Chooses the engine that evaluates the terms of a batch.

An engine is a module with a function `evaluate(terms, mix, processes)`. It makes `Sweeps` of the
batch, leaves what is counted and chosen to `dbloss.engine.mining`, and returns, for each row of
`mix`, the sum of the losses of the terms times its numbers: 0-D float32, differentiable in the
maps. Engines know formulas and tensors, and no Layer.

`ENGINES` names them, the fastest first, each with what tells why it cannot run.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from types import ModuleType

import paddle
from paddle import Tensor

from dbloss.base import checks
from dbloss.base.processes import Processes
from dbloss.base.tensors import without_amp
from dbloss.engine import operators
from dbloss.engine.mining import Balance, Mix, Term, maps_of

VARIABLE = "DBLOSS_ENGINE"


def evaluate(terms: Sequence[Term], mix: Mix, processes: Processes) -> tuple[Tensor, ...]:
    """Return the sums of the losses that `mix` asks for, 0-D float32, differentiable.

    All maps are of one size. The losses are those of the images of all processes.
    """
    if not terms:
        return ()
    engine = choose(*maps_of(terms).values())
    losses: tuple[Tensor, ...] = engine.evaluate(terms, mix, processes)
    return losses


def hard_negatives(hardness: Tensor, gt: Tensor, mask: Tensor, balance: Balance) -> Tensor:
    """Return the weight of each pixel among the hard negatives, float32 `[N, H, W]`."""
    choose(hardness)  # an engine that was asked for and cannot run is an error here too
    with paddle.no_grad(), without_amp():
        return operators.hard_negatives(hardness, gt, mask, balance)


def why_not_fused(maps: Tensor) -> str | None:
    """Return what keeps the fused engine from these maps, None if nothing does."""
    if not paddle.in_dynamic_mode():
        return "it runs in eager mode alone and this is a static graph"
    if not maps.place.is_cpu_place():
        return f"it needs tensors on the CPU and these are on {maps.place}"
    if not _has_numba():
        return "numba is not installed (pip install numba)"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set, so that numba compiles nothing"
    if not hasattr(maps, "__dlpack__"):
        return f"Paddle {paddle.__version__} does not share memory with NumPy; 3.0 and newer do"
    return None


@functools.cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _nothing_against(maps: Tensor) -> None:
    return None


ENGINES: dict[str, Callable[[Tensor], str | None]] = {
    "fused": why_not_fused,
    "operators": _nothing_against,
}


@functools.cache
def _module(name: str) -> ModuleType:
    # Not imported before an engine is wanted: numba takes a while.
    return importlib.import_module(f"{__name__}.{name}")


def choose(*maps: Tensor) -> ModuleType:
    """Return the engine that the environment asks for, or the fastest that runs on the maps."""
    asked = checks.engine_name(VARIABLE, os.environ.get(VARIABLE, "auto"), ENGINES)
    for name in ENGINES if asked == "auto" else (asked,):
        reasons = [reason for reason in map(ENGINES[name], maps) if reason is not None]
        if not reasons:
            return _module(name)
    checks.refuse_engine(VARIABLE, asked, reasons[0])
