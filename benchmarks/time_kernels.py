"""Where the time of a step of the fused engine goes.

    python benchmarks/time_kernels.py

prints, for each loss, the median milliseconds of each part of a step on 8 images of 640 x 640.
"""

import argparse
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", help="as BCELoss (default: all)")
    parser.add_argument("--steps", type=int, default=100, help="of each loss")
    args = parser.parse_args()  # before the imports below, which take seconds

import dbloss
from dbloss.engine import fused
from run import LOSSES, REFERENCE_SIZE, PaddleStep, make_batch

SWEEP, BOUNDS, CHOICE, GRADIENT, REST = PARTS = (
    "first sweep: sums, and what is between the bounds",
    "bounds of the choice, from a sample",
    "choice between the bounds",
    "second sweep: the gradient",
    "everything else: checks, views, the graph, Python",
)


def timed(clock: dict[str, float], part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds the milliseconds it takes to a part."""

    def run(*args: Any) -> Any:
        start = perf_counter()
        result = function(*args)
        clock[part] += 1000 * (perf_counter() - start)
        return result

    return run


def steps_of(kind: str, count: int) -> list[dict[str, float]]:
    """Return the milliseconds of each part of some steps."""
    layer = dbloss.DBLoss(main_loss_type=kind)
    step = PaddleStep(
        lambda maps, labels: layer({"maps": maps}, labels)["loss"],
        make_batch(*REFERENCE_SIZE),
        "fused",
    )
    clock: dict[str, float] = {}
    # The names that the engine looks up at each call.
    names = {"_first_sweep": SWEEP, "_bounds": BOUNDS, "choose": CHOICE, "write": GRADIENT}
    usual = {name: getattr(fused._Sweeps, name) for name in names}
    for name, part in names.items():
        setattr(fused._Sweeps, name, timed(clock, part, usual[name]))
    rows = []
    for _ in range(count + 2):  # the first two warm up
        clock.update(dict.fromkeys(PARTS, 0.0))
        step.prepare()
        start = perf_counter()
        step.backward(step.forward())
        whole = 1000 * (perf_counter() - start)
        step.clear()
        rows.append(clock | {REST: whole - sum(clock.values())})
    for name, method in usual.items():
        setattr(fused._Sweeps, name, method)
    return rows[2:]


def main(args: argparse.Namespace) -> None:
    """Print a table."""
    os.environ["DBLOSS_ENGINE"] = "fused"
    columns = {kind: steps_of(kind, args.steps) for kind in args.losses or LOSSES}
    print(f"{'':60}", *(f"{kind:>14}" for kind in columns))
    for part in PARTS:
        values = [median(row[part] for row in rows) for rows in columns.values()]
        print(f"{part:60}", *(f"{value:14.1f}" for value in values))


if __name__ == "__main__":
    main(args)
