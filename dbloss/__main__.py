"""Reports what runs here, and whether it computes correctly: the text for a bug report.

    python -m dbloss

The loss and gradient of one batch are compared with those of the plain formulas, in float64, on
every engine that runs on Paddle's default device. Exit status 1 if they differ, or if two wheels
of Paddle or of OpenCV are installed over each other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from unittest.mock import patch

import dbloss
from dbloss.base import help as _help

if TYPE_CHECKING or not _help.ALONE:
    import numpy as np
    import paddle
    from paddle import Tensor

    from dbloss import _plain, engine
    from dbloss.base.wheels import opencvs, two_opencvs, two_wheels
    from dbloss.losses.db import MainLossType

    _Step = Callable[[], tuple[float, Tensor]]

_SHAPE = (2, 640, 640)
_KINDS: tuple[MainLossType, ...] = ("DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss")
# The greatest relative error of the loss, and of the gradient relative to its largest value.
_VALUE, _GRADIENT = 1e-5, 1e-4
_STEPS = 5  # that are timed


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 0 if all is well, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m dbloss",
        description="Print what runs here, and whether it computes what it should, in half"
        " a minute or so. The status is 1 if it does not, or if two wheels of Paddle or of OpenCV"
        " are installed over each other.",
    )
    parser.add_argument("--version", action="version", version=f"dbloss {dbloss.__version__}")
    parser.parse_args(arguments)
    maps, labels = _batch()
    _print_surroundings(maps)
    print(f"\nself-check: a step of DBLoss on {_SHAPE[0]} x {_SHAPE[1]} x {_SHAPE[2]}")
    print(f"{'loss':<14}{'engine':<11}{'error':>9}{'gradient':>10}{'ms':>8}{'plain ms':>10}")
    clashes = [text for text in (two_wheels(), two_opencvs()) if text]
    names = ["operators"] if engine.why_not_fused(maps) else ["operators", "fused"]
    faults = [_check(kind, names, maps, labels) for kind in _KINDS]
    for clash in clashes:
        print(f"\n{clash}\n")
    wrong = any(faults) or bool(clashes)
    print("something is wrong" if wrong else "all is well")
    return int(wrong)


def _batch() -> tuple[Tensor, list[Tensor]]:
    """Return maps and labels: pages with text on a tenth of the pixels, and some ignored ones."""
    paddle.seed(0)
    n, h, w = _SHAPE
    maps = paddle.uniform([n, 3, h, w], min=0.01, max=0.99)
    t = paddle.uniform(_SHAPE, min=0.3, max=0.7)
    k, g, m = ((paddle.rand(_SHAPE) < share).astype("float32") for share in (0.3, 0.1, 0.95))
    return maps, [t, t, k, g, m]


def _print_surroundings(maps: Tensor) -> None:
    lines = {
        "dbloss": dbloss.__version__,
        "Paddle": f"{paddle.__version__}, device {paddle.get_device()}",
        "NumPy": np.__version__,
        "numba": _version("numba"),
        "OpenCV": opencvs() or "not installed",
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "processor": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "engine": _choice(maps),
    }
    for name, value in lines.items():
        print(f"{name + ':':<15}{value}")


def _choice(maps: Tensor) -> str:
    """Return the engine that runs in eager mode, and why."""
    asked, reason = os.environ.get(engine.VARIABLE, "auto"), engine.why_not_fused(maps)
    try:
        name = engine.choose(maps).__name__.rsplit(".", 1)[-1]
    except (RuntimeError, ValueError) as error:
        return f"none. {error}"
    if asked != "auto":
        return f"{name}, because {engine.VARIABLE} asks for it"
    return f"{name}, because {reason or 'the tensors are on the CPU and numba is installed'}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _check(kind: MainLossType, names: list[str], maps: Tensor, labels: list[Tensor]) -> bool:
    """Print the error of a loss on each engine; return whether one is too large."""
    wide = [label.astype("float64") for label in labels]
    value, gradient = _step(lambda x: _plain.db_loss(x, wide, kind), maps.astype("float64"))
    largest = float(gradient.abs().max())
    plain = _milliseconds(lambda: _step(lambda x: _plain.db_loss(x, labels, kind), maps))
    layer = dbloss.DBLoss(main_loss_type=kind, check_batches=0)  # random maps would be reported

    def step() -> tuple[float, Tensor]:
        return _step(lambda x: layer({"maps": x}, labels)["loss"], maps)

    wrong = False
    for name in names:
        with patch.dict(os.environ, {engine.VARIABLE: name}):
            got, got_gradient = step()
            taken = _milliseconds(step)
        error = abs(got - value) / abs(value)
        slope = float((got_gradient.astype("float64") - gradient).abs().max()) / largest
        print(f"{kind:<14}{name:<11}{error:>9.0e}{slope:>10.0e}{taken:>8.1f}{plain:>10.1f}")
        wrong = wrong or not (error <= _VALUE and slope <= _GRADIENT)
    return wrong


def _step(loss: Callable[[Tensor], Tensor], maps: Tensor) -> tuple[float, Tensor]:
    """Return the loss of a batch and its gradient."""
    leaf = maps.detach()
    leaf.stop_gradient = False
    value = loss(leaf)
    value.backward()
    return float(value), leaf.grad


def _milliseconds(step: _Step) -> float:
    """Return the median time of a step. A step reads its loss, and so waits for the device."""
    times = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
